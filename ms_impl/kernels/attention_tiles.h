// The products of attention by tiles, as attention_vectors.h has them; their factors are rounded to bf16.
#pragma once

#include "attention_vectors.h"
#include "tiles.h"

#ifdef KERNEL_TILES
template <class C>
struct AttentionByTiles {
  using Ready = Tiles;
  static constexpr int64_t kAligned = kStep;
  static constexpr SumsAt kAt = {kSide * kTileColumns, kSide, kTileColumns};
  static_assert(kTileColumns == kPair && kDepth % kStep == 0);

  int64_t keys, width;
  int64_t steps = panels(width, kStep), columns = panels(width, kPair) * 2;  // tiles of the width: by depth, as columns
  int64_t key_bytes = steps * 1024, value_bytes = panels(keys, kStep) * 1024;  // of 16 keys, 16 columns
  int64_t query_bytes = steps * 1024;
  int64_t keys_size = panels(keys, kPair) * 2 * key_bytes / 4, values_size = columns * value_bytes / 4;
  int64_t asked_size = 2 * query_bytes / 4, weights_size = 2 * kDepth / kStep * 1024 / 4;
  int64_t sum_rows = columns * kSide;

  void pack_keys(const C *k, Span piece, float *packed) const {
    for (int64_t key = piece.first; key < panels(piece.last, kPair) * kPair; key += kSide)
      cut_columns<1>(k + key * width, k + (key + kSide) * width, std::clamp<int64_t>(piece.last - key, 0, kSide), width,
                     width, bytes(packed) + key / kSide * key_bytes);
  }

  void pack_values(const C *v, Span piece, float *packed) const {
    for (int64_t column = 0; column < columns; ++column)
      for (int64_t key = piece.first; key < piece.last; key += kStep)
        cut_transposed<1>(v + key * width + column * kSide, std::min(piece.last - key, kStep),
                          std::max<int64_t>(width - column * kSide, 0), width,
                          bytes(packed + keys_size) + column * value_bytes + key / kStep * 1024);
  }

  void pack_queries(const float *q, int64_t count, float *asked) const {
    for (int64_t tile = 0; tile < 2; ++tile)
      cut_rows<1>(q + tile * kSide * width, std::clamp<int64_t>(count - tile * kSide, 0, kSide), width, width,
                  bytes(asked) + tile * query_bytes);
  }

  void score(const float *packed, const float *asked, Span span, float *scores) const {
    for (int64_t key = span.first / kPair * kPair; key < span.last; key += kPair)
      multiply_tiles<1, 1>(bytes(packed) + key / kSide * key_bytes, key_bytes, bytes(asked), query_bytes, steps, true,
                           scores + key * kTileColumns, kAt);
  }

  void mix(const float *packed, Span span, const float *weights, float *space, float *sums) const {
    const int64_t first = span.first / kStep, count = panels(span.last, kStep) - first, tile_bytes = count * 1024;
    for (int64_t tile = 0; tile < 2; ++tile)
      cut_pairs<1>(weights + span.first * kTileColumns + tile * kSide, kSide, kTileColumns, count * kStep,
                   bytes(space) + tile * tile_bytes);
    const char *values = bytes(packed + keys_size) + first * 1024;
    for (int64_t column = 0; column < columns; column += 2)
      multiply_tiles<1, 1>(values + column * value_bytes, value_bytes, bytes(space), tile_bytes, count, false,
                           sums + column * kSide * kTileColumns, kAt);
  }

  static char *bytes(float *numbers) { return reinterpret_cast<char *>(numbers); }
  static const char *bytes(const float *numbers) { return reinterpret_cast<const char *>(numbers); }
};
#endif
