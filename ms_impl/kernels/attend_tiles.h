// Attention of few queries over keys and values in bf16, as they lie in the cache, by tiles; their factors are rounded
// to bf16.
#pragma once

#include <limits>

#include "memory.h"
#include "tiles.h"

#ifdef KERNEL_TILES
class AttendByTiles {
 public:
  // Room for `heads` queries at once, of `dim` numbers, a multiple of 32, over up to `count` columns.
  AttendByTiles(int64_t heads, int64_t dim, int64_t count)
      : dim_(dim), asked_(room(dim * kSide / 2)), few_(room(kStep * dim / 2)), found_(room(4 * kTile)),
        scores_(room(std::min(heads, kSide) * whole(count))), weights_(room(std::min(heads, kSide) * whole(count) / 2)),
        laid_(room(kPiece * dim / 2)), sums_(room(std::min(heads, kSide) * dim)) {}

  // As `attend` has it. Meanwhile what lies at `next` is fetched: the keys of the next ones.
  void attend(const BFloat16 *keys, const BFloat16 *values, const int32_t *segments, int64_t count,
              const float *queries, int64_t heads, const BFloat16 *next, float *y) const {
    const int64_t first = std::find(segments, segments + count, segments[count - 1]) - segments, skipped = first * dim_;
    for (int64_t head = 0; head < heads; head += kSide)
      attend_some(keys + skipped, values + skipped, segments + first, count - first, queries + head * dim_,
                  std::min(heads - head, kSide), next, y + head * dim_);
    TileShapes().load();
  }

 private:
  static constexpr int64_t kPiece = 64;  // columns whose values are laid side by side at once

  static int64_t whole(int64_t count) { return panels(count, kStep) * kStep; }

  void attend_some(const BFloat16 *keys, const BFloat16 *values, const int32_t *segments, int64_t count,
                   const float *queries, int64_t heads, const BFloat16 *next, float *y) const {
    const int64_t bytes = count * dim_ * sizeof *keys;
    score_all(keys, Ahead(keys, bytes, values), segments, count, queries, heads);
    float totals[kSide];
    for (int64_t head = 0; head < heads; ++head)
      totals[head] = weigh(scores_.get() + head * whole(count), whole(count), heads, weights() + head * kStep);
    mix_all(values, Ahead(values, bytes, next), count, heads);
    for (int64_t head = 0; head < heads; ++head)
      for (int64_t i = 0; i < dim_; i += kStep) {
        Vector sums[2] = {load(sums_of(i, heads) + head * kSide), load(sums_of(i + kSide, heads) + head * kSide)};
        in_order(sums);
        for (int64_t half = 0; half < 2; ++half)
          store(sums[half] / totals[head], y + head * dim_ + i + half * kSide);
      }
  }

  // scores [head, whole(count)] of all columns; those that are hidden get -infinity. Tiles 0 to 3 are sums, a row of
  // each those of a column; 4 the queries' numbers; the others keys.
  void score_all(const BFloat16 *keys, Ahead ahead, const int32_t *segments, int64_t count, const float *queries,
                 int64_t heads) const {
    TileShapes().set(0, 5, kSide, heads * sizeof(float)).load();
    cut_rows<1>(queries, heads, dim_, dim_, reinterpret_cast<char *>(asked_.get()));
    const Vector hidden = Vector{} - std::numeric_limits<float>::infinity();
    const auto put = [&](int64_t first, int64_t columns) {
      int32_t few[4 * kSide] = {};
      std::copy_n(segments + first, std::min(columns, count - first), few);
      for (int64_t i = 0; i < columns; i += kSide) {
        const Integers seen = read<Integers>(few + i) == segments[count - 1];
        for (int64_t head = 0; head < heads; ++head)
          store(seen ? every(found_.get() + i * heads + head, heads) : hidden,
                scores_.get() + head * whole(count) + first + i);
      }
    };
    int64_t column = 0;
    for (; column + 4 * kSide <= count; column += 4 * kSide)
      score<4>(keys + column * dim_, ahead, heads), put(column, 4 * kSide);
    for (; column < count; column += kStep)
      score<2>(complete(keys + column * dim_, count - column), ahead, heads), put(column, kStep);
  }

  // Keys of 32 columns, of which `there` exist: zeros for the others.
  const BFloat16 *complete(const BFloat16 *keys, int64_t there) const {
    if (there >= kStep) return keys;
    auto *few = reinterpret_cast<BFloat16 *>(few_.get());
    std::memset(few, 0, kStep * dim_ * sizeof *keys);
    std::copy_n(keys, there * dim_, few);
    return few;
  }

  // found [16 · T, heads] = the scores of as many columns. Meanwhile as much is fetched as is read.
  template <int T>
  void score(const BFloat16 *keys, Ahead &ahead, int64_t heads) const {
    asm volatile("" ::: "memory");  // what the tiles are loaded from has been written: the compiler does not see it
    const int64_t row = dim_ * sizeof *keys, sums_row = heads * sizeof(float);
    // clang-format off
    _tile_zero(0); _tile_zero(1);
    if (T > 2) { _tile_zero(2); _tile_zero(3); }
    for (int64_t step = 0; step < dim_ / kStep; ++step) {
      const BFloat16 *from = keys + step * kStep;
      _tile_loadd(4, asked_.get() + step * kTile, 64);
      _tile_loadd(5, from, row); _tile_dpbf16ps(0, 5, 4); ahead.fetch(2);
      _tile_loadd(6, from + kSide * dim_, row); _tile_dpbf16ps(1, 6, 4); ahead.fetch(2);
      if (T > 2) {
        _tile_loadd(7, from + 2 * kSide * dim_, row); _tile_dpbf16ps(2, 7, 4); ahead.fetch(2);
        _tile_loadd(5, from + 3 * kSide * dim_, row); _tile_dpbf16ps(3, 5, 4); ahead.fetch(2);
      }
    }
    float *to = found_.get();
    _tile_stored(0, to, sums_row); _tile_stored(1, to + kSide * heads, sums_row);
    if (T > 2) { _tile_stored(2, to + 2 * kSide * heads, sums_row); _tile_stored(3, to + 3 * kSide * heads, sums_row); }
    // clang-format on
    asm volatile("" ::: "memory");
  }

  // Sixteen numbers, each `next` behind the one before.
  static Vector every(const float *from, int64_t next) {
    const __m512i order = _mm512_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15);
    return _mm512_i32gather_ps(_mm512_mullo_epi32(order, _mm512_set1_epi32(next)), from, sizeof *from);
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

  // sums [dim / 16] tiles = the values of all columns, weighted. Tiles 0 to 3 are sums, a row of each a head's; 4 the
  // weights; the others values.
  void mix_all(const BFloat16 *values, Ahead ahead, int64_t count, int64_t heads) const {
    TileShapes().set(0, 5, heads, 64).load();
    std::fill_n(sums_.get(), heads * dim_, 0.0f);
    for (int64_t column = 0; column < count; column += kPiece) {
      const int64_t there = std::min(kPiece, count - column), steps = panels(there, kStep);
      for (int64_t i = 0; i < steps * kStep; i += kStep)
        lay(values + (column + i) * dim_, ahead, there - i, laid_.get() + i * dim_ / 2);
      int64_t i = 0;
      for (; i + 4 * kSide <= dim_; i += 4 * kSide) mix<4>(i, ahead, steps, weights() + column * heads, heads);
      if (i < dim_) mix<2>(i, ahead, steps, weights() + column * heads, heads);
    }
  }

  // Adds T tiles of values, laid in `steps` steps, from the number `first` on.
  template <int T>
  void mix(int64_t first, Ahead &ahead, int64_t steps, const BFloat16 *weights, int64_t heads) const {
    asm volatile("" ::: "memory");
    float *sums = sums_of(first, heads);
    const int64_t next = kSide * heads;
    // clang-format off
    _tile_loadd(0, sums, 64); _tile_loadd(1, sums + next, 64);
    if (T > 2) { _tile_loadd(2, sums + 2 * next, 64); _tile_loadd(3, sums + 3 * next, 64); }
    for (int64_t step = 0; step < steps; ++step) {
      const float *laid = laid_.get() + step * kStep * dim_ / 2 + first * kSide;
      _tile_loadd(4, weights + step * kStep * heads, 64);
      _tile_loadd(5, laid, 64); _tile_dpbf16ps(0, 4, 5); ahead.fetch(1);
      _tile_loadd(6, laid + kTile, 64); _tile_dpbf16ps(1, 4, 6); ahead.fetch(1);
      if (T > 2) {
        _tile_loadd(7, laid + 2 * kTile, 64); _tile_dpbf16ps(2, 4, 7); ahead.fetch(1);
        _tile_loadd(5, laid + 3 * kTile, 64); _tile_dpbf16ps(3, 4, 5); ahead.fetch(1);
      }
    }
    _tile_stored(0, sums, 64); _tile_stored(1, sums + next, 64);
    if (T > 2) { _tile_stored(2, sums + 2 * next, 64); _tile_stored(3, sums + 3 * next, 64); }
    // clang-format on
    asm volatile("" ::: "memory");
  }

  // 32 rows of values, zeros for missing ones: tiles [dim / 16], a row of each holding a column's numbers of two rows.
  // Two tiles share 32 numbers, as `in_order` knows. Meanwhile as much is fetched as is read.
  void lay(const BFloat16 *values, Ahead &ahead, int64_t there, float *to) const {
    for (int64_t i = 0; i < kStep; i += 2) {
      if (i < dim_ / 8) ahead.fetch(1);  // half of it: the rest in `mix`
      for (int64_t j = 0; j < dim_; j += kStep) {
        const __m512i one = i < there ? read<__m512i>(values + i * dim_ + j) : __m512i{};
        const __m512i other = i + 1 < there ? read<__m512i>(values + (i + 1) * dim_ + j) : __m512i{};
        _mm512_store_si512(to + (j + i / 2) * kSide, _mm512_unpacklo_epi16(one, other));
        _mm512_store_si512(to + (j + kSide + i / 2) * kSide, _mm512_unpackhi_epi16(one, other));
      }
    }
  }

  // 32 numbers in order of two tiles' rows: the first has those of the first half of each 16 bytes of values.
  static void in_order(Vector (&halves)[2]) {
    const __m512i first = _mm512_setr_epi64(0, 1, 8, 9, 2, 3, 10, 11);
    const __m512i second = _mm512_setr_epi64(4, 5, 12, 13, 6, 7, 14, 15);
    const auto low = (__m512i)halves[0], high = (__m512i)halves[1];
    halves[0] = (Vector)_mm512_permutex2var_epi64(low, first, high);
    halves[1] = (Vector)_mm512_permutex2var_epi64(low, second, high);
  }

  BFloat16 *weights() const { return reinterpret_cast<BFloat16 *>(weights_.get()); }
  float *sums_of(int64_t i, int64_t heads) const { return sums_.get() + i * heads; }  // the tile of the number i

  const int64_t dim_;
  Tiles configured_;  // while this lives
  Room asked_, few_, found_, scores_, weights_, laid_, sums_;
};
#endif
