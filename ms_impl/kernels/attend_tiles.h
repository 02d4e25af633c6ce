// Attention of few queries over keys and values in bf16, as they lie in the cache, by tiles; their factors are rounded
// to bf16.
#pragma once

#include <array>
#include <limits>

#include "tiles.h"

#ifdef KERNEL_TILES
class AttendByTiles {
 public:
  // Room for `heads` queries at once, of `dim` numbers, a multiple of 32, over up to `count` columns.
  AttendByTiles(int64_t heads, int64_t dim, int64_t count)
      : dim_(dim), asked_(room(dim * kSide / 2)), few_(room(kStep * dim / 2)),
        scores_(room(std::min(heads, kSide) * whole(count))),
        weights_(room(std::min(heads, kSide) * whole(count) / 2 + kTile)), laid_(room(kPiece * dim / 2)),
        sums_(room(kSide * dim)) {}

  // As `attend` has it. Meanwhile what lies at `next` is fetched: the keys of the next ones.
  void attend(const BFloat16 *keys, const BFloat16 *values, const int32_t *segments, int64_t count,
              const float *queries, int64_t heads, const BFloat16 *next, float *y) const {
    const int64_t first = std::find(segments, segments + count, segments[count - 1]) - segments, skipped = first * dim_;
    for (int64_t head = 0; head < heads; head += kSide)
      attend_some(keys + skipped, values + skipped, segments + first, count - first, queries + head * dim_,
                  std::min(heads - head, kSide), next, y + head * dim_);
  }

 private:
  static constexpr int64_t kPiece = 64;  // columns whose values are laid side by side at once

  static int64_t whole(int64_t count) { return panels(count, kStep) * kStep; }
  static void fetch(const BFloat16 *line) { __builtin_prefetch(line, 0, 2); }

  void attend_some(const BFloat16 *keys, const BFloat16 *values, const int32_t *segments, int64_t count,
                   const float *queries, int64_t heads, const BFloat16 *next, float *y) const {
    cut_rows<1>(queries, heads, dim_, dim_, reinterpret_cast<char *>(asked_.get()));
    for (int64_t column = 0; column < count; column += kStep)
      score(keys + column * dim_, column + kStep < count ? keys + (column + kStep) * dim_ : values, segments + column,
            segments[count - 1], count - column, heads, whole(count), scores_.get() + column);
    float totals[kSide];
    for (int64_t head = 0; head < heads; ++head)
      totals[head] = weigh(scores_.get() + head * whole(count), whole(count), heads, weights() + head * kStep);
    std::fill_n(sums_.get(), kSide * dim_, 0.0f);
    for (int64_t column = 0; column < count; column += kPiece)
      mix(values + column * dim_, column + kPiece < count ? values + (column + kPiece) * dim_ : next, count - column,
          weights() + column * heads, heads);
    for (int64_t head = 0; head < heads; ++head)
      for (int64_t i = 0; i < dim_; i += kLanes)
        store(load(sums_.get() + i * kSide + head * kLanes) / totals[head], y + head * dim_ + i);
  }

  // The scores of 32 columns, of which `there` exist; those that are hidden get -infinity. Those of a head lie `next`
  // from those of the one before. Meanwhile as much from `ahead` on is fetched.
  void score(const BFloat16 *keys, const BFloat16 *ahead, const int32_t *segments, int32_t own, int64_t there,
             int64_t heads, int64_t next, float *scores) const {
    int32_t few[kStep] = {};
    if (there < kStep) {
      segments = std::copy_n(segments, there, few) - there;
      std::memset(few_.get(), 0, kStep * dim_ * sizeof *keys);
      keys = std::copy_n(keys, there * dim_, reinterpret_cast<BFloat16 *>(few_.get())) - there * dim_;
    }
    asm volatile("" ::: "memory");  // what the tiles are loaded from has been written: the compiler does not see it
    _tile_zero(0);
    _tile_zero(1);
    for (int64_t step = 0; step < dim_ / kStep; ++step) {
      for (int64_t i = 0; i < kStep; ++i) fetch(ahead + (step * kStep + i) * kStep);
      _tile_loadd(4, asked_.get() + step * kTile, 64);
      _tile_loadd(5, keys + step * kStep, dim_ * sizeof *keys);
      _tile_loadd(6, keys + kSide * dim_ + step * kStep, dim_ * sizeof *keys);
      _tile_dpbf16ps(0, 5, 4);
      _tile_dpbf16ps(1, 6, 4);
    }
    Vector by_head[2][kSide];
    _tile_stored(0, by_head[0], 64);
    _tile_stored(1, by_head[1], 64);
    for (int64_t half = 0; half < 2; ++half) {
      transpose(by_head[half]);
      const Integers seen = read<Integers>(segments + half * kSide) == own;
      for (int64_t head = 0; head < heads; ++head)
        store(seen ? by_head[half][head] : Vector{} - std::numeric_limits<float>::infinity(),
              scores + head * next + half * kSide);
    }
  }

  // Weights, e^(score - highest), rounded, of a head's scores: 32 of each head in turn. Their sum before that.
  static float weigh(const float *scores, int64_t count, int64_t heads, BFloat16 *weights) {
    Vector most = load(scores), total = {};
    for (int64_t i = kLanes; i < count; i += kLanes) most = load(scores + i) > most ? load(scores + i) : most;
    float highest = most[0];
    for (int lane = 1; lane < kLanes; ++lane) highest = std::max(highest, most[lane]);
    for (int64_t i = 0; i < count; i += kStep) {
      const Vector low = exponential(load(scores + i) - highest);
      const Vector high = exponential(load(scores + i + kLanes) - highest);
      total += low, total += high;
      const auto rounded = _mm512_cvtne2ps_pbh(high, low);
      std::memcpy(weights + i * heads, &rounded, sizeof rounded);
    }
    return sum(total);
  }

  // sums [dim / 16] tiles += the values of up to kPiece columns, weighted; `there` exist from here on. Meanwhile as
  // much from `ahead` on is fetched.
  void mix(const BFloat16 *values, const BFloat16 *ahead, int64_t there, const BFloat16 *weights,
           int64_t heads) const {
    const int64_t steps = panels(std::min(kPiece, there), kStep), tiles = dim_ / kSide;
    for (int64_t step = 0; step < steps; ++step)
      lay(values + step * kStep * dim_, ahead + step * kStep * dim_, there - step * kStep,
          laid_.get() + step * tiles * kTile);
    asm volatile("" ::: "memory");
    for (int64_t tile = 0; tile < tiles; tile += 2) {
      float *sums = sums_.get() + tile * kTile;
      _tile_loadd(0, sums, 64);
      _tile_loadd(1, sums + kTile, 64);
      for (int64_t step = 0; step < steps; ++step) {
        const float *laid = laid_.get() + (step * tiles + tile) * kTile;
        for (int64_t i = 0; i < kSide; ++i) fetch(ahead + step * kStep * dim_ + (tile * kSide / 2 + i) * kStep);
        _tile_loadd(4, weights + step * kStep * heads, 64);  // and rows of the next ones, for which nobody asks
        _tile_loadd(5, laid, 64);
        _tile_loadd(6, laid + kTile, 64);
        _tile_dpbf16ps(0, 4, 5);
        _tile_dpbf16ps(1, 4, 6);
      }
      _tile_stored(0, sums, 64);
      _tile_stored(1, sums + kTile, 64);
    }
    asm volatile("" ::: "memory");
  }

  // 32 rows of values, zeros for missing ones: tiles [dim / 16], a row of each holding a column's numbers of two rows.
  // The second half of what is `ahead` is fetched.
  void lay(const BFloat16 *values, const BFloat16 *ahead, int64_t there, float *to) const {
    ahead += kSide * dim_;
    for (int64_t i = 0; i < kStep; i += 2)
      for (int64_t j = 0; j < dim_; j += kStep) {
        fetch(ahead + i / 2 * dim_ + j);
        const __m512i one = i < there ? read<__m512i>(values + i * dim_ + j) : __m512i{};
        const __m512i other = i + 1 < there ? read<__m512i>(values + (i + 1) * dim_ + j) : __m512i{};
        _mm512_store_si512(to + (j + i / 2) * kSide, in_pairs<0>(one, other));
        _mm512_store_si512(to + (j + kSide + i / 2) * kSide, in_pairs<kSide>(one, other));
      }
  }

  // Sixteen numbers of both in turn, from kFirst on.
  template <int64_t kFirst>
  static __m512i in_pairs(__m512i one, __m512i other) {
    alignas(64) static constexpr auto kOrder = [] {
      std::array<uint16_t, kStep> order{};
      for (int64_t i = 0; i < kStep; ++i) order[i] = kFirst + i / 2 + i % 2 * kStep;
      return order;
    }();
    return _mm512_permutex2var_epi16(one, _mm512_load_si512(&kOrder), other);
  }

  BFloat16 *weights() const { return reinterpret_cast<BFloat16 *>(weights_.get()); }

  const int64_t dim_;
  Tiles configured_;  // while this lives
  Room asked_, few_, scores_, weights_, laid_, sums_;
};
#endif
