// Panels: rows of matrices laid side by side in fp32, in the order in which the products of many rows read them.
#pragma once

#include <algorithm>
#include <cstdlib>
#include <memory>
#include <new>
#include <tuple>
#include <type_traits>
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

// What stands in the place of one fp32: a number widened, or two that are rounded to bf16 where the processor
// multiplies such pairs.
constexpr int kSingle = 1, kPaired = 2;

#if defined(__AVX512BF16__)
// 32 numbers of bf16, of which the first and the second half become the first and the second of each pair.
inline __m512i paired(__m512i numbers) {
  alignas(64) static constexpr uint16_t kOrder[32] = {0, 16, 1, 17, 2,  18, 3,  19, 4,  20, 5,  21, 6,  22, 7,  23,
                                                      8, 24, 9, 25, 10, 26, 11, 27, 12, 28, 13, 29, 14, 30, 15, 31};
  return _mm512_permutexvar_epi16(_mm512_load_si512(kOrder), numbers);
}
#endif

// The next kLanes of a row.
template <int Per, class T>
inline Vector load_slots(const T *from) {
#if defined(__AVX512BF16__)
  if constexpr (Per == kPaired && std::is_same_v<T, BFloat16>) return read<Vector>(from);
  if constexpr (Per == kPaired) return (Vector)_mm512_cvtne2ps_pbh(load(from + kLanes), load(from));
#endif
  return load(from);
}

// The same where only `there` numbers are left; zeros behind them.
template <int Per, class T>
inline Vector load_slots(const T *from, int64_t there) {
  T few[Per * kLanes] = {};
  std::copy_n(from, std::clamp<int64_t>(there, 0, Per * kLanes), few);
  return load_slots<Per>(few);
}

// panel [⌈depth / Per⌉, kTileColumns] = `depth` numbers of each of `count` rows of w [·, n]; zeros for rows that are
// missing.
template <int Per, class W>
inline void pack_columns(const W *w, int64_t count, int64_t n, int64_t depth, float *panel) {
  const int64_t slots = panels(depth, Per);
  for (int64_t lane = 0; lane < kTileColumns; lane += kLanes) {
    const int64_t there = std::clamp<int64_t>(count - lane, 0, kLanes);
    const W *rows = w + lane * n;
    float *to = panel + lane;
    for (int64_t k = 0; k < slots; k += kLanes) {
      Vector v[kLanes] = {};
      if (there == kLanes && (k + kLanes) * Per <= depth)
        for (int i = 0; i < kLanes; ++i) v[i] = load_slots<Per>(rows + i * n + k * Per);
      else
        for (int i = 0; i < there; ++i) v[i] = load_slots<Per>(rows + i * n + k * Per, depth - k * Per);
      transpose(v);
      for (int i = 0; i < std::min<int64_t>(kLanes, slots - k); ++i) store(v[i], to + (k + i) * kTileColumns);
    }
  }
}

// panel [depth, kTileColumns] = `count` columns of `depth` rows of w [·, n]; zeros for columns that are missing.
template <class W>
inline void copy_columns(const W *w, int64_t count, int64_t n, int64_t depth, float *panel) {
  for (int64_t k = 0; k < depth; ++k, panel += kTileColumns)
    for (int64_t lane = 0; lane < kTileColumns; lane += kLanes)
      store(lane + kLanes <= count ? load(w + k * n + lane) : load_slots<kSingle>(w + k * n + lane, count - lane),
            panel + lane);
}

// panel [⌈depth / Per⌉, kTileRows] = `depth` numbers of each of `count` rows of x [·, n]; zeros for rows that are
// missing.
template <int Per, class X>
inline void pack_rows(const X *x, int64_t count, int64_t n, int64_t depth, float *panel) {
  const int64_t slots = panels(depth, Per);
  for (int64_t k = 0; k < slots; k += kLanes)
    for (int64_t i = 0; i < kTileRows; ++i) {
      float row[kLanes];
      store(i < count ? load_slots<Per>(x + i * n + k * Per, depth - k * Per) : Vector{}, row);
      for (int64_t j = 0; j < std::min<int64_t>(kLanes, slots - k); ++j) panel[(k + j) * kTileRows + i] = row[j];
    }
}

// panel [depth, kTileRows] = `count` columns of `depth` rows of x [·, n]; zeros for columns that are missing.
template <class X>
inline void copy_rows(const X *x, int64_t count, int64_t n, int64_t depth, float *panel) {
  for (int64_t k = 0; k < depth; ++k, panel += kTileRows)
    for (int64_t i = 0; i < kTileRows; ++i) panel[i] = i < count ? widen(x[k * n + i]) : 0;
}

// c + a · b; of pairs c + a₁ · b₁ + a₀ · b₀, where numbers under 2^-126 count as zero.
template <int Per>
inline Vector multiply_add_slots(const float *a, Vector b, Vector c) {
#if defined(__AVX512BF16__)
  if constexpr (Per == kPaired) return _mm512_dpbf16_ps(c, (__m512bh)_mm512_set1_ps(*a), (__m512bh)b);
#endif
  return multiply_add(*a, b, c);
}

// sums [kTileRows, kTileColumns] += rows [depth, kTileRows] by columns [depth, kTileColumns].
// Each number is summed in the order of the depth, whatever stands beside it, and then added to what is there: sums of
// sums are more exact than one long sum.
template <int Per = kSingle>
inline void multiply(const float *rows, const float *columns, int64_t depth, float *sums) {
  Vector s[kTileRows][kTileVectors] = {};
  for (int64_t i = 0; i < kTileSize; i += 16) __builtin_prefetch(sums + kTileSize + i, 1);  // likely the next tile
  for (int64_t k = 0; k < depth; ++k) {
    Vector w[kTileVectors];
    for (int c = 0; c < kTileVectors; ++c) w[c] = load(columns + k * kTileColumns + c * kLanes);
    for (int r = 0; r < kTileRows; ++r)
      for (int c = 0; c < kTileVectors; ++c)
        s[r][c] = multiply_add_slots<Per>(rows + k * kTileRows + r, w[c], s[r][c]);
  }
  for (int r = 0; r < kTileRows; ++r)
    for (int c = 0; c < kTileVectors; ++c) {
      float *to = sums + r * kTileColumns + c * kLanes;
      store(load(to) + s[r][c], to);
    }
}

// Numbers that nothing is known of, where vectors may begin; there may be none.
using Room = std::unique_ptr<float[], void (*)(void *)>;

inline Room room(int64_t count) {
  const auto bytes = static_cast<size_t>((count * sizeof(float) / 64 + 1) * 64);
  auto *memory = static_cast<float *>(std::aligned_alloc(64, bytes));
  if (!memory) throw std::bad_alloc();
  return {memory, std::free};
}
