// Products of few vectors with a large matrix that is read from memory once.
#pragma once

#include <algorithm>
#include <type_traits>

#include "numbers.h"

constexpr int64_t kAhead = 8192, kCacheLine = 64;  // bytes; what is prefetched is this far ahead in each row's stream
constexpr int kSums = 2;                           // vectors that each dot product is summed in

inline void prefetch(const void *from) { __builtin_prefetch(static_cast<const char *>(from) + kAhead); }

// Dot products of R rows of w [R, n] with B vectors x [B, n].
// Each is summed in the same order whatever R and B are: a row of the batch does not feel its neighbours.
template <int R, int B, class W>
inline void dots(const W *w, const float *x, int64_t n, float (&y)[R][B]) {
  Vector sums[kSums][R][B] = {};
  const auto add = [&](int64_t i, int u) {
    for (int r = 0; r < R; ++r) {
      const Vector weights = load(w + r * n + i);
      for (int b = 0; b < B; ++b) sums[u][r][b] = multiply_add(weights, load(x + b * n + i), sums[u][r][b]);
    }
  };
  int64_t i = 0;
  for (; i + kSums * kLanes <= n; i += kSums * kLanes)
    for (int u = 0; u < kSums; ++u) {
      if (u * kLanes * sizeof(W) % kCacheLine == 0)
        for (int r = 0; r < R; ++r) prefetch(w + r * n + i + u * kLanes);
      add(i + u * kLanes, u);
    }
  for (; i + kLanes <= n; i += kLanes) add(i, 0);
  for (int r = 0; r < R; ++r)
    for (int b = 0; b < B; ++b) {
      Vector total = sums[0][r][b];
      for (int u = 1; u < kSums; ++u) total += sums[u][r][b];
      y[r][b] = sum(total);
      for (int64_t j = i; j < n; ++j) y[r][b] = multiply_add(widen(w[r * n + j]), x[b * n + j], y[r][b]);
    }
}

// put(row of w, row of x, dot product) for R rows of w with all rows of x, as many at once as registers hold.
template <int R, class W, class Put>
inline void rows(const W *w, int64_t first, const float *x, int64_t batch, int64_t n, Put put) {
  const auto block = [&](int64_t from, auto width) {
    float y[R][width.value];
    dots<R, width.value>(w + first * n, x + from * n, n, y);
    for (int r = 0; r < R; ++r)
      for (int b = 0; b < width.value; ++b) put(first + r, from + b, y[r][b]);
  };
  int64_t b = 0;
  for (; b + 4 <= batch; b += 4) block(b, std::integral_constant<int, 4>());
  for (; b + 2 <= batch; b += 2) block(b, std::integral_constant<int, 2>());
  for (; b < batch; ++b) block(b, std::integral_constant<int, 1>());
}

// put(row of w, row of x, dot product) for rows [first, last) of w [out, n] with all rows of x [batch, n].
// One or two vectors are bound by memory, which gives most where one row is read after the other; more are bound by
// arithmetic, and two rows share what is loaded of x.
template <class W, class Put>
inline void product(const W *w, int64_t first, int64_t last, const float *x, int64_t batch, int64_t n, Put put) {
  for (; batch > 2 && first + 2 <= last; first += 2) rows<2>(w, first, x, batch, n, put);
  for (; first < last; ++first) rows<1>(w, first, x, batch, n, put);
}
