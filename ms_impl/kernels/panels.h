// Panels: rows of matrices laid side by side in fp32, in the order in which the products of many rows read them.
#pragma once

#include <algorithm>
#include <cstdlib>
#include <memory>
#include <new>
#include <tuple>
#include <utility>

#include "numbers.h"

// A tile's sums stay in registers: 24 of AVX-512's 32, 12 of 16.
constexpr int kTileRows = kLanes == 16 ? 12 : 6, kTileVectors = 2, kTileColumns = kTileVectors * kLanes;
// Numbers of each row that are multiplied in one go: a panel of as many stays in the first cache.
constexpr int64_t kDepth = 256;

constexpr int64_t kTileSize = kTileRows * kTileColumns;

inline int64_t panels(int64_t items, int64_t in_one) { return (items + in_one - 1) / in_one; }

// Lanes of one and of the other vector in turn: those of the first half, and those of the second.
template <size_t... L>
inline std::pair<Vector, Vector> interleaved(Vector a, Vector b, std::index_sequence<L...>) {
  return {__builtin_shuffle(a, b, Integers{(L / 2 + L % 2 * kLanes)...}),
          __builtin_shuffle(a, b, Integers{(L / 2 + kLanes / 2 + L % 2 * kLanes)...})};
}

// Lane j of vector i becomes lane i of vector j.
inline void transpose(Vector (&v)[kLanes]) {
  for (int round = 1; round < kLanes; round *= 2) {
    Vector mixed[kLanes];
    for (int i = 0, half = kLanes / 2; i < half; ++i)
      std::tie(mixed[2 * i], mixed[2 * i + 1]) = interleaved(v[i], v[i + half], std::make_index_sequence<kLanes>());
    std::copy_n(mixed, kLanes, v);
  }
}

// panel [depth, kTileColumns] = `depth` numbers of each of `count` rows of w [·, n]; zeros for rows that are missing.
template <class W>
inline void pack_columns(const W *w, int64_t count, int64_t n, int64_t depth, float *panel) {
  for (int64_t lane = 0; lane < kTileColumns; lane += kLanes) {
    const int64_t there = std::clamp<int64_t>(count - lane, 0, kLanes);
    const W *rows = w + lane * n;
    float *to = panel + lane;
    int64_t k = 0;
    for (; there == kLanes && k + kLanes <= depth; k += kLanes) {
      Vector v[kLanes];
      for (int i = 0; i < kLanes; ++i) v[i] = load(rows + i * n + k);
      transpose(v);
      for (int i = 0; i < kLanes; ++i) store(v[i], to + (k + i) * kTileColumns);
    }
    for (; k < depth; ++k)
      for (int64_t i = 0; i < kLanes; ++i) to[k * kTileColumns + i] = i < there ? widen(rows[i * n + k]) : 0;
  }
}

// panel [depth, kTileRows] likewise, of rows of x.
template <class X>
inline void pack_rows(const X *x, int64_t count, int64_t n, int64_t depth, float *panel) {
  for (int64_t k = 0; k < depth; ++k)
    for (int64_t i = 0; i < kTileRows; ++i) panel[k * kTileRows + i] = i < count ? widen(x[i * n + k]) : 0;
}

// sums [kTileRows, kTileColumns] += rows [depth, kTileRows] by columns [depth, kTileColumns].
// Each number is summed in the order of the depth, whatever stands beside it, and then added to what is there: sums of
// sums are more exact than one long sum.
inline void multiply(const float *rows, const float *columns, int64_t depth, float *sums) {
  Vector s[kTileRows][kTileVectors] = {};
  for (int64_t i = 0; i < kTileSize; i += 16) __builtin_prefetch(sums + kTileSize + i, 1);  // likely the next tile
  for (int64_t k = 0; k < depth; ++k) {
    Vector w[kTileVectors];
    for (int c = 0; c < kTileVectors; ++c) w[c] = load(columns + k * kTileColumns + c * kLanes);
    for (int r = 0; r < kTileRows; ++r)
      for (int c = 0; c < kTileVectors; ++c) s[r][c] = multiply_add(rows[k * kTileRows + r], w[c], s[r][c]);
  }
  for (int r = 0; r < kTileRows; ++r)
    for (int c = 0; c < kTileVectors; ++c) {
      float *to = sums + r * kTileColumns + c * kLanes;
      store(load(to) + s[r][c], to);
    }
}

// Numbers that nothing is known of, where vectors may begin.
using Room = std::unique_ptr<float[], void (*)(void *)>;

inline Room room(int64_t count) {
  const auto bytes = static_cast<size_t>(panels(count * sizeof(float), 64) * 64);
  auto *memory = static_cast<float *>(std::aligned_alloc(64, bytes));
  if (!memory) throw std::bad_alloc();
  return {memory, std::free};
}
