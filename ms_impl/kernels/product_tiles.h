// Products of few vectors with a large matrix in bf16 by tiles: its rows are multiplied as they lie in memory, with all
// pieces of the vectors beside each other, which is as exact as in fp32; or with the first pieces alone.
#pragma once

#include "tiles.h"

#ifdef KERNEL_TILES
class FactorByTiles {
 public:
  // Room for up to `batch` vectors of up to `longest` numbers, which are `rounded` to bf16 or not.
  FactorByTiles(int64_t batch, int64_t longest, bool rounded)
      : batch_(batch), columns_(batch * (rounded ? 1 : kExact)), tiles_(panels(columns_, kSide)),
        apart_(together(columns_)), laid_(room(tiles_ * panels(longest, kStep) * kSide * apart_ + kSide)),
        padded_(room(panels(longest, kStep) * kTile)), sums_(room(tiles_ * kTile)) {}

  // What is multiplied from now on: x [batch, n]. All first pieces are columns of tiles, then all second, all third.
  void set(const float *x, int64_t n) {
    n_ = n, steps_ = panels(n, kStep);
    for (int64_t step = 0; step < steps_; ++step) {
      Vector columns[kSide] = {};
      for (int64_t i = 0; i < columns_; ++i) {
        columns[i % kSide] = piece(x + i % batch_ * n + step * kStep, n - step * kStep, i / batch_);
        if (i % kSide == kSide - 1 || i == columns_ - 1) {
          transpose(columns);
          float *to = laid_.get() + (i / kSide * steps_ + step) * kSide * apart_;
          for (int64_t pair = 0; pair < kSide; ++pair) store(columns[pair], to + pair * apart_);
          std::fill_n(columns, kSide, Vector{});
        }
      }
    }
  }

  // put(row of w, row of x, dot product) for rows [first, last) of w [·, n]; sixteen rows at once where there are as
  // many: put(first row of w, row of x, dot products).
  template <class Put>
  void times(const BFloat16 *w, int64_t first, int64_t last, Put put) const {
    for (int64_t row = first; row < last; row += kSide) {
      const int64_t count = std::min(kSide, last - row);
      if (count == kSide && n_ % kStep == 0)
        multiply(w + row * n_, n_);
      else
        multiply(padded(w + row * n_, count), steps_ * kStep);
      auto *tiles = reinterpret_cast<Vector(*)[kSide]>(sums_.get());
      for (int64_t tile = 0; tile < tiles_; ++tile) transpose(tiles[tile]);
      const Vector *sums = tiles[0];  // of each column those of 16 rows
      for (int64_t b = 0; b < batch_; ++b) {
        const Vector products = columns_ == batch_ ? sums[b] : sums[b] + (sums[batch_ + b] + sums[2 * batch_ + b]);
        if (count == kSide)
          put(row, b, products);
        else
          for (int64_t i = 0; i < count; ++i) put(row + i, b, products[i]);
      }
    }
  }

 private:
  static constexpr int64_t kTogether = 4;  // tiles of columns that are multiplied with one of rows
  static constexpr int64_t kSpan = 16;     // steps that are summed before they are added up: with fewer or more both
                                           // the error and the time grow
  static constexpr int64_t kFetch = 24;    // steps that each row of w is fetched ahead
  static_assert(kExact == 3);

  // How far apart the rows of a tile of columns lie: no further than they are long, as caches have less to hold. A tile
  // with fewer than 16 columns has those of the next row behind its own, which come to sums that nobody asks for.
  static int64_t together(int64_t columns) {
    int64_t apart = 1;
    while (apart < std::min(columns, kSide)) apart *= 2;
    return apart;
  }

  static Vector piece(const float *x, int64_t there, int64_t number) {
    Vector v[2];
    load_step(x, there, v);
    __m512i found = take_piece(v);
    while (number--) found = take_piece(v);
    return (Vector)found;
  }

  // `count` rows of w, with zeros to the right and below.
  const BFloat16 *padded(const BFloat16 *w, int64_t count) const {
    auto *to = reinterpret_cast<BFloat16 *>(padded_.get());
    std::memset(to, 0, steps_ * kStep * kSide * sizeof *to);
    for (int64_t i = 0; i < count; ++i) std::copy_n(w + i * n_, n_, to + i * steps_ * kStep);
    return to;
  }

  // sums_ = 16 rows of w, `next` numbers apart, by all columns.
  void multiply(const BFloat16 *w, int64_t next) const {
    std::fill_n(sums_.get(), tiles_ * kTile, 0.0f);
    for (int64_t tile = 0; tile < tiles_; tile += kTogether)
      for (int64_t step = 0; step < steps_; step += kSpan)
        switch (std::min(kTogether, tiles_ - tile)) {
          case 1: add<1>(w, next, tile, step); break;
          case 2: add<2>(w, next, tile, step); break;
          case 3: add<3>(w, next, tile, step); break;
          default: add<kTogether>(w, next, tile, step);
        }
  }

  // The same of T tiles of columns from `tile` on and kSpan steps from `first` on; added to what is there.
  template <int64_t T>
  void add(const BFloat16 *w, int64_t next, int64_t tile, int64_t first) const {
    asm volatile("" ::: "memory");  // what the tiles are loaded from has been written: the compiler does not see it
    const int64_t bytes = apart_ * sizeof(float), tile_size = kSide * apart_;
    const float *x = laid_.get() + tile * steps_ * tile_size;
    // clang-format off
    _tile_zero(0);
    if (T > 1) _tile_zero(1);
    if (T > 2) _tile_zero(2);
    if (T > 3) _tile_zero(3);
    for (int64_t step = first; step < std::min(first + kSpan, steps_); ++step) {
      const int64_t later = step + kFetch;
      const BFloat16 *ahead = w + (later < steps_ ? later * kStep : kSide * next + (later - steps_) * kStep);
      for (int64_t i = 0; i < kSide; ++i) __builtin_prefetch(ahead + i * next, 0, 2);
      _tile_loadd(4, w + step * kStep, next * sizeof *w);
      _tile_loadd(5, x + step * tile_size, bytes); _tile_dpbf16ps(0, 4, 5);
      if (T > 1) { _tile_loadd(6, x + (steps_ + step) * tile_size, bytes); _tile_dpbf16ps(1, 4, 6); }
      if (T > 2) { _tile_loadd(7, x + (2 * steps_ + step) * tile_size, bytes); _tile_dpbf16ps(2, 4, 7); }
      if (T > 3) { _tile_loadd(5, x + (3 * steps_ + step) * tile_size, bytes); _tile_dpbf16ps(3, 4, 5); }
    }
    alignas(64) float found[T][kTile];
    _tile_stored(0, found[0], 64);
    if (T > 1) _tile_stored(1, found[T > 1 ? 1 : 0], 64);
    if (T > 2) _tile_stored(2, found[T > 2 ? 2 : 0], 64);
    if (T > 3) _tile_stored(3, found[T > 3 ? 3 : 0], 64);
    // clang-format on
    float *sums = sums_.get() + tile * kTile;
    for (int64_t i = 0; i < T * kTile; i += kLanes) store(load(sums + i) + load(found[0] + i), sums + i);
  }

  const int64_t batch_, columns_, tiles_, apart_;  // columns: pieces of vectors; tiles of these
  Tiles configured_;                               // while this lives
  Room laid_, padded_, sums_;
  int64_t n_ = 0, steps_ = 0;                      // numbers of a row, and steps of their depth
};
#endif
