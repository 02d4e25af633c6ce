// Products of few vectors with a large matrix that is read from memory once.
#pragma once

#include <algorithm>

#include "numbers.h"

// Dot products of R rows of w [R, n] with B vectors x [B, n], where rows stand `n` apart.
// Each is summed in one order, whatever R and B are: a row of the batch does not feel its neighbours.
template <int R, int B, class W>
inline void dots(const W *w, const float *x, int64_t n, float (&y)[R][B]) {
  Vector sums[R][B] = {};
  int64_t i = 0;
  for (; i + kLanes <= n; i += kLanes) {
    Vector weights[R];
    for (int r = 0; r < R; ++r) {
      weights[r] = load(w + r * n + i);
      __builtin_prefetch(w + (R + r) * n + i);
    }
    for (int b = 0; b < B; ++b) {
      Vector values = load(x + b * n + i);
      for (int r = 0; r < R; ++r) sums[r][b] += weights[r] * values;
    }
  }
  for (int r = 0; r < R; ++r)
    for (int b = 0; b < B; ++b) {
      y[r][b] = sum(sums[r][b]);
      for (int64_t j = i; j < n; ++j) y[r][b] += widen(w[r * n + j]) * x[b * n + j];
    }
}

// put(row of w, row of x, dot product) for R rows of w with all rows of x, as many at once as registers hold.
template <int R, class W, class Put>
inline void rows(const W *w, int64_t first, const float *x, int64_t batch, int64_t n, Put put) {
  auto block = [&](int64_t from, auto width) {
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
template <class W, class Put>
inline void product(const W *w, int64_t first, int64_t last, const float *x, int64_t batch, int64_t n, Put put) {
  for (; first + 4 <= last; first += 4) rows<4>(w, first, x, batch, n, put);
  for (; first < last; ++first) rows<1>(w, first, x, batch, n, put);
}
