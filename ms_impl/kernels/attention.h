// Attention of the queries that share a key head over the keys and values of their row.
#pragma once

#include <limits>

#include "product.h"

// Rotates x [dim] by cos and sin [dim], halves against each other, and scales it; in fp32, each product rounded.
template <class X>
inline void rotate(const X *x, const float *cos, const float *sin, int64_t dim, float scale, X *y) {
  const int64_t half = dim / 2;
  for (int64_t i = 0; i < half; ++i) {
    const float low = widen(x[i]), high = widen(x[i + half]);
    narrow((low * cos[i] - high * sin[i]) * scale, y + i);
    narrow((high * cos[i + half] + low * sin[i + half]) * scale, y + i + half);
  }
}

// Turns scores into weights whose sum is 1.
inline void softmax(float *scores, int64_t count) {
  float highest = scores[0], total = 0;
  for (int64_t i = 1; i < count; ++i) highest = scores[i] > highest ? scores[i] : highest;
  Vector totals = {};
  int64_t i = 0;
  for (; i + kLanes <= count; i += kLanes) {
    const Vector powers = exponential(load(scores + i) - highest);
    totals += powers;
    store(powers, scores + i);
  }
  for (; i < count; ++i) total += scores[i] = std::exp(scores[i] - highest);
  total += sum(totals);
  for (i = 0; i < count; ++i) scores[i] /= total;
}

// y [dim] += the sum of R rows of values [R, dim], weighted.
template <int R, class C>
inline void mix(const C *values, const float *weights, int64_t dim, float *y) {
  int64_t i = 0;
  for (; i + kLanes <= dim; i += kLanes) {
    Vector total = load(y + i);
    for (int r = 0; r < R; ++r) {
      prefetch(values + r * dim + i);
      total = multiply_add(weights[r], load(values + r * dim + i), total);
    }
    store(total, y + i);
  }
  for (; i < dim; ++i)
    for (int r = 0; r < R; ++r) y[i] = multiply_add(weights[r], widen(values[r * dim + i]), y[i]);
}

// y [heads, dim] = softmax(keys · queries [heads, dim]) · values over those of `count` columns whose segment is the
// last one's. The queries come scaled; `scores` is room for heads · count numbers.
template <class C, class Heads>
inline void attend_all(const C *keys, const C *values, const int32_t *segments, int64_t count, const float *queries,
                       Heads heads, int64_t dim, float *scores, float *y) {
  const int32_t own = segments[count - 1];
  const int64_t first = std::find(segments, segments + count, own) - segments;
  product(keys, first, count, queries, heads, dim, [&](int64_t column, int64_t head, float score) {
    scores[head * count + column] = segments[column] == own ? score : -std::numeric_limits<float>::infinity();
  });
  for (int64_t head = 0; head < heads; ++head) softmax(scores + head * count + first, count - first);
  std::fill_n(y, heads * dim, 0.0f);
  const auto mix_rows = [&](auto rows, int64_t column) {
    for (int64_t head = 0; head < heads; ++head)
      mix<rows.value>(values + column * dim, scores + head * count + column, dim, y + head * dim);
  };
  int64_t column = first;
  for (; column + 4 <= count; column += 4) mix_rows(std::integral_constant<int, 4>(), column);
  for (; column < count; ++column) mix_rows(std::integral_constant<int, 1>(), column);
}

// As above. One head is a number that the compiler knows, in code of its own.
template <class C>
inline void attend(const C *keys, const C *values, const int32_t *segments, int64_t count, const float *queries,
                   int64_t heads, int64_t dim, float *scores, float *y) {
  if (heads == 1)
    attend_all(keys, values, segments, count, queries, std::integral_constant<int64_t, 1>(), dim, scores, y);
  else
    attend_all(keys, values, segments, count, queries, heads, dim, scores, y);
}
