// What each query of a row sees, the weights that follow from it, and how sums become rows.
#pragma once

#include <limits>

#include "attention_vectors.h"

// Which keys a row's queries see: those of their segment that are not right of their column; 0 is no segment.
struct Sight {
  const int32_t *keys, *queries, *columns;  // segments of both; a column for each query

  // From a row [keys + 2 · queries] of what the operators take.
  Sight(const int32_t *row, int64_t keys, int64_t queries)
      : keys(row), queries(row + keys), columns(row + keys + queries) {}

  bool sees(int64_t query, int64_t key) const {
    return queries[query] != 0 && keys[key] == queries[query] && key <= columns[query];
  }
};

// From the first to behind the last of `count` keys that some of the queries see.
inline Span seen(const Sight &sight, Span queries, int64_t count) {
  Span span{count, 0};
  for (int64_t query = queries.first; query < queries.last; ++query) {
    if (sight.queries[query] == 0) continue;
    int64_t low = 0, high = count;
    while (low < span.first && !sight.sees(query, low)) ++low;
    while (high > span.last && !sight.sees(query, high - 1)) --high;
    span = {std::min(span.first, low), std::max(span.last, high)};
  }
  return span;
}

// Turns the scores [key, kTileColumns] of some queries into e^(score - highest), 0 for what is hidden; and what these
// must be divided by, which is 1 for a query that sees nothing.
inline void weigh(const Sight &sight, Span queries, Span keys, float *scores, float *divisors) {
  for (int64_t lane = 0; lane < kTileColumns; lane += kLanes) {
    Integers own = {}, column = {};
    for (int64_t i = 0; i < kLanes && queries.first + lane + i < queries.last; ++i) {
      own[i] = sight.queries[queries.first + lane + i];
      column[i] = sight.columns[queries.first + lane + i];
    }
    const Vector hidden = Vector{} - std::numeric_limits<float>::infinity();
    Vector highest = hidden, sums = {};
    for (int64_t key = keys.first; key < keys.last; ++key) {
      float *at = scores + key * kTileColumns + lane;
      const Integers sees = (own == sight.keys[key]) & (own != 0) & (column >= static_cast<int32_t>(key));
      const Vector score = sees ? load(at) : hidden;
      highest = score > highest ? score : highest;
      store(score, at);
    }
    highest = highest == hidden ? Vector{} : highest;
    for (int64_t key = keys.first; key < keys.last;) {
      Vector part = {};  // of a piece, as in ``mix``
      for (const int64_t last = std::min((key / kDepth + 1) * kDepth, keys.last); key < last; ++key) {
        float *at = scores + key * kTileColumns + lane;
        const Vector weight = exponential(load(at) - highest);
        part += weight;
        store(weight, at);
      }
      sums += part;
    }
    store(sums == 0 ? Vector{} + 1.0f : sums, divisors + lane);
  }
}

// Rows [count, width] from sums [width, kTileColumns], each a lane of `finish(sums, lane of its first)`.
template <class X, class Finish>
inline void put_rows(const float *sums, int64_t count, int64_t width, Finish finish, X *to) {
  for (int64_t lane = 0; lane < count; lane += kLanes)
    for (int64_t column = 0; column < width; column += kLanes) {
      const int64_t there = std::min<int64_t>(width - column, kLanes);
      Vector tile[kLanes] = {};
      for (int64_t i = 0; i < there; ++i) tile[i] = finish(load(sums + (column + i) * kTileColumns + lane), lane);
      transpose(tile);
      for (int64_t i = 0; i < std::min<int64_t>(count - lane, kLanes); ++i) {
        X *row = to + (lane + i) * width + column;
        if (there == kLanes)
          narrow_all(tile[i], row);
        else
          for (int64_t j = 0; j < there; ++j) narrow(tile[i][j], row + j);
      }
    }
}
