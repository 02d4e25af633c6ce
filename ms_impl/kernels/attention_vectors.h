// The products of attention by vectors: queries by keys, and weights by values.
#pragma once

#include "panels.h"

struct Span {
  int64_t first, last;
};

// Of one head: `packed` holds its keys and behind them its values, `asked` kTileColumns of its queries. Scores and
// weights are [key, kTileColumns], sums [sum_rows, kTileColumns].
template <class C>
struct AttentionByVectors {
  struct Ready {};                       // what a thread holds while it multiplies
  static constexpr int64_t kAligned = 1;  // keys are weighted from a multiple of this on, up to one

  int64_t keys, width;
  int64_t width_panels = panels(width, kTileRows);
  int64_t keys_size = panels(keys, kTileRows) * kTileRows * width;
  int64_t values_size = panels(keys, kDepth) * width_panels * kDepth * kTileRows;
  int64_t asked_size = width * kTileColumns, weights_size = 0, sum_rows = width_panels * kTileRows;

  // Keys [·, width] of a piece: panels [width, kTileRows].
  void pack_keys(const C *k, Span piece, float *packed) const {
    for (int64_t key = panels(piece.first, kTileRows) * kTileRows; key < piece.last; key += kTileRows)
      pack_rows<kSingle>(k + key * width, std::min<int64_t>(keys - key, kTileRows), width, width, packed + key * width);
  }

  // Values of a piece: panels [key, kTileRows].
  void pack_values(const C *v, Span piece, float *packed) const {
    for (int64_t panel = 0; panel < width_panels; ++panel) {
      float *row = value_panel(packed, piece.first / kDepth, panel);
      const int64_t column = panel * kTileRows, count = std::min<int64_t>(width - column, kTileRows);
      for (int64_t key = piece.first; key < piece.last; ++key, row += kTileRows)
        for (int64_t i = 0; i < kTileRows; ++i) row[i] = i < count ? widen(v[key * width + column + i]) : 0;
    }
  }

  // Queries [·, width], scaled.
  void pack_queries(const float *q, int64_t count, float *asked) const {
    pack_columns<kSingle>(q, count, width, width, asked);
  }

  void score(const float *packed, const float *asked, Span span, float *scores) const {
    for (int64_t key = span.first / kTileRows * kTileRows; key < span.last; key += kTileRows) {
      std::fill_n(scores + key * kTileColumns, kTileSize, 0.0f);
      multiply(packed + key * width, asked, width, scores + key * kTileColumns);
    }
  }

  // sums += the values of a span within a piece, weighted, in the order of their keys.
  void mix(const float *packed, Span span, const float *weights, float *, float *sums) const {
    const int64_t piece = span.first / kDepth, first = span.first - piece * kDepth;
    for (int64_t panel = 0; panel < width_panels; ++panel)
      multiply(value_panel(packed, piece, panel) + first * kTileRows, weights + span.first * kTileColumns,
               span.last - span.first, sums + panel * kTileSize);
  }

  template <class Float>
  Float *value_panel(Float *packed, int64_t piece, int64_t panel) const {
    return packed + keys_size + (piece * width_panels + panel) * kDepth * kTileRows;
  }
};
