// y = softmax(q · kᵀ / √width) · v for many queries, each over the keys of its own segment up to a column of its own.
//
// Queries stand side by side in the lanes of vectors, kTileColumns at a time, and no more scores are held than theirs.
// Keys and values are widened once for all. What is hidden from a query adds zeros: its result does not depend on those
// beside it. Parity: tests/kernels/test_operators.py.
#include <omp.h>

#include <cmath>
#include <limits>
#include <vector>

#include "operator.h"
#include "panels.h"

namespace {

// Which keys a row's queries see: those of their segment that are not right of their column; 0 is no segment.
struct Sight {
  const int32_t *keys, *queries, *columns;  // segments of both; a column for each query

  bool sees(int64_t query, int64_t key) const {
    return queries[query] != 0 && keys[key] == queries[query] && key <= columns[query];
  }
};

struct Span {
  int64_t first, last;
};

// From the first to behind the last of `count` keys that some of the queries see.
Span seen(const Sight &sight, Span queries, int64_t count) {
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
void weigh(const Sight &sight, Span queries, Span keys, float *scores, float *divisors) {
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

template <class X>
struct Attention {
  int64_t batch, heads, kv_heads, queries, keys, width;
  const X *q, *k, *v;   // [batch, heads, queries, width], [batch, kv_heads, keys, width] twice
  const int32_t *mask;  // [batch, keys + 2 · queries]: a Sight
  X *y;                 // as q
  int64_t pieces = panels(keys, kDepth), width_panels = panels(width, kTileRows);
  int64_t keys_size = panels(keys, kTileRows) * kTileRows * width, values_size = pieces * kDepth * width_panels * kTileRows;

  Sight sight(int64_t row) const {
    const int32_t *own = mask + row * (keys + 2 * queries);
    return {own, own + keys, own + keys + queries};
  }

  void compute() const {
    const int64_t blocks = panels(queries, kTileColumns);
    const Room packed = room(batch * kv_heads * (keys_size + values_size));
    std::vector<Room> rooms;
    for (int i = 0; i < omp_get_max_threads(); ++i)
      rooms.push_back(room((width + 1 + (width_panels + panels(keys, kTileRows)) * kTileRows) * kTileColumns));
    std::vector<int64_t> ends;
    for (int64_t row = 0; row < batch; ++row) ends.push_back(seen(sight(row), {0, queries}, keys).last);
#pragma omp parallel
    {
#pragma omp for collapse(2)
      for (int64_t pair = 0; pair < batch * kv_heads; ++pair)
        for (int64_t piece = 0; piece < pieces; ++piece)
          pack(pair, piece, std::min((piece + 1) * kDepth, ends[pair / kv_heads]), packed.get());
#pragma omp for collapse(2) schedule(dynamic)
      for (int64_t head = 0; head < batch * heads; ++head)
        for (int64_t block = 0; block < blocks; ++block) {
          const int64_t first = block * kTileColumns, pair = head / (heads / kv_heads);
          attend(head, {first, std::min(first + kTileColumns, queries)}, packed.get() + pair * (keys_size + values_size),
                 rooms[omp_get_thread_num()].get());
        }
    }
  }

  // A piece of a head's keys, up to `last`, in panels [width, kTileRows] and its values in panels [key, kTileRows].
  void pack(int64_t pair, int64_t piece, int64_t last, float *packed) const {
    const int64_t first = piece * kDepth, start = panels(first, kTileRows) * kTileRows;
    const X *from = k + pair * keys * width, *values = v + pair * keys * width;
    float *to = packed + pair * (keys_size + values_size);
    for (int64_t key = start; key < last; key += kTileRows)
      pack_rows<kSingle>(from + key * width, std::min<int64_t>(keys - key, kTileRows), width, width, to + key * width);
    for (int64_t panel = 0; panel < width_panels; ++panel) {
      float *row = value_panel(to + keys_size, piece, panel);
      const int64_t column = panel * kTileRows, count = std::min<int64_t>(width - column, kTileRows);
      for (int64_t key = first; key < last; ++key, row += kTileRows)
        for (int64_t i = 0; i < kTileRows; ++i) row[i] = i < count ? widen(values[key * width + column + i]) : 0;
    }
  }

  template <class Float>
  Float *value_panel(Float *values, int64_t piece, int64_t panel) const {
    return values + (piece * width_panels + panel) * kDepth * kTileRows;
  }

  void attend(int64_t head, Span asking, const float *packed, float *space) const {
    const Sight own = sight(head / heads);
    const Span span = seen(own, asking, keys);
    float *asked = space, *divisors = asked + width * kTileColumns, *sums = divisors + kTileColumns;
    float *scores = sums + width_panels * kTileSize;
    pack_columns<kSingle>(q + (head * queries + asking.first) * width, asking.last - asking.first, width, width, asked);
    const float scale = 1 / std::sqrt(static_cast<float>(width));
    for (int64_t i = 0; i < width * kTileColumns; ++i) asked[i] *= scale;
    for (int64_t key = span.first / kTileRows * kTileRows; key < span.last; key += kTileRows) {
      std::fill_n(scores + key * kTileColumns, kTileSize, 0.0f);
      multiply(packed + key * width, asked, width, scores + key * kTileColumns);
    }
    weigh(own, asking, span, scores, divisors);
    mix(packed + keys_size, span, scores, sums);
    for (int64_t i = 0; i < asking.last - asking.first; ++i)
      for (int64_t j = 0; j < width; ++j)
        narrow(sums[j * kTileColumns + i] / divisors[i], y + (head * queries + asking.first + i) * width + j);
  }

  // sums [width, kTileColumns] of the values, weighted, in the order of their keys.
  void mix(const float *values, Span span, const float *weights, float *sums) const {
    std::fill_n(sums, width_panels * kTileSize, 0.0f);
    for (int64_t key = span.first, last; key < span.last; key = last) {
      const int64_t piece = key / kDepth;
      last = std::min((piece + 1) * kDepth, span.last);
      for (int64_t panel = 0; panel < width_panels; ++panel)
        multiply(value_panel(values, piece, panel) + (key - piece * kDepth) * kTileRows, weights + key * kTileColumns,
                 last - key, sums + panel * kTileSize);
    }
  }
};

}  // namespace

// q [batch, heads, queries, width], k and v [batch, kv_heads, keys, width], fp32 or fp16, mask int32 [batch, keys +
// 2 · queries] → y as q.
OPERATOR(segment_attention) {
  const Given given{count, data, dimensions, shapes, types};
  return status([&] {
    visit_activations(given[0], [&](auto *q) {
      using X = std::decay_t<decltype(*q)>;
      const int64_t *asked = shapes[0], *kept = shapes[1];
      Attention<X>{asked[0], asked[1], kept[1], asked[2], kept[2], asked[3], q, static_cast<X *>(data[1]),
                   static_cast<X *>(data[2]), static_cast<int32_t *>(data[3]), static_cast<X *>(data[4])}
          .compute();
    });
  });
}
