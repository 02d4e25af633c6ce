// The gradients of softmax(q · kᵀ / √width) · v, as segment_attention.cc computes it, by q, k and v.
//
// A thread takes a key head with all its query heads, kTileColumns queries at a time: it makes their weights again, and
// no more of these are held than theirs. Sums over queries are in the queries' order, whatever the number of threads.
// Parity: tests/kernels/test_attention_gradient.py.
#include <omp.h>

#include <cmath>
#include <memory>

#include "operator.h"
#include "sight.h"

namespace {

// Sums [width, keys] in tiles [width / kTileRows][keys / kTileColumns] of [kTileRows, kTileColumns].
struct KeySums {
  int64_t width, keys, width_panels = panels(width, kTileRows), key_panels = panels(keys, kTileColumns);
  Room sums = room(width_panels * key_panels * kTileSize);

  void clear() { std::fill_n(sums.get(), width_panels * key_panels * kTileSize, 0.0f); }

  // += rows, packed in panels [kTileColumns, kTileRows] of the width, by `weights` [key, kTileColumns] of a span of
  // whole panels of keys; `space` has room for one of these.
  void add(const float *rows, const float *weights, Span span, float *space) {
    for (int64_t key = span.first; key < span.last; key += kTileColumns) {
      pack_columns<kSingle>(weights + key * kTileColumns, kTileColumns, kTileColumns, kTileColumns, space);
      for (int64_t panel = 0; panel < width_panels; ++panel)
        multiply(rows + panel * kTileColumns * kTileRows, space, kTileColumns,
                 sums.get() + (panel * key_panels + key / kTileColumns) * kTileSize);
    }
  }

  // As rows [keys, width].
  template <class X>
  void put(X *to) const {
    for (int64_t key = 0; key < keys; ++key)
      for (int64_t i = 0; i < width; ++i)
        narrow(sums[(i / kTileRows * key_panels + key / kTileColumns) * kTileSize + i % kTileRows * kTileColumns +
                    key % kTileColumns],
               to + key * width + i);
  }
};

template <class X>
struct Gradient {
  int64_t batch, heads, kv_heads, queries, keys, width;
  const X *q, *k, *v;       // [batch, heads or kv_heads, queries or keys, width]
  const int32_t *mask;      // [batch, keys + 2 · queries]: a Sight
  const X *y, *slope;       // as q
  X *by_q, *by_k, *by_v;    // as q, k and v
  float scale = 1 / std::sqrt(static_cast<float>(width));

  // What a thread needs for a key head.
  struct Space {
    AttentionByVectors<X> products;
    KeySums by_keys, by_values;
    int64_t whole = (panels(products.keys, kTileColumns) + 1) * kTileColumns * kTileColumns;  // of all keys, aligned
    int64_t row_size = by_keys.width_panels * kTileRows * kTileColumns;
    Room keys = room(products.keys_size + products.values_size), values = room(products.keys_size);
    Room scaled = room(row_size), asked = room(row_size), slopes = room(row_size);
    Room asked_rows = room(row_size), slope_rows = room(row_size), sums = room(row_size);
    Room weights = room(whole), by_scores = room(whole), turned = room(kTileColumns * kTileColumns);
    Room divisors = room(kTileColumns), means = room(kTileColumns);
    Space(int64_t keys, int64_t width) : products{keys, width}, by_keys{width, keys}, by_values{width, keys} {}
  };

  void compute() const {
#pragma omp parallel
    {
      Space space(keys, width);
#pragma omp for schedule(dynamic)
      for (int64_t pair = 0; pair < batch * kv_heads; ++pair) {
        pack(pair, space);
        const int64_t group = heads / kv_heads;
        for (int64_t head = pair * group; head < (pair + 1) * group; ++head)
          for (int64_t first = 0; first < queries; first += kTileColumns)
            add(head, {first, std::min<int64_t>(first + kTileColumns, queries)}, space);
        space.by_keys.put(by_k + pair * keys * width);
        space.by_values.put(by_v + pair * keys * width);
      }
    }
  }

  void pack(int64_t pair, Space &space) const {
    for (int64_t first = 0; first < keys; first += kDepth) {
      const Span piece{first, std::min(first + kDepth, keys)};
      space.products.pack_keys(k + pair * keys * width, piece, space.keys.get());
      space.products.pack_values(k + pair * keys * width, piece, space.keys.get());
      space.products.pack_keys(v + pair * keys * width, piece, space.values.get());
    }
    space.by_keys.clear(), space.by_values.clear();
  }

  // What some queries of a head add.
  void add(int64_t head, Span asking, Space &space) const {
    const Sight sight(mask + head / heads * (keys + 2 * queries), keys, queries);
    const Span span = seen(sight, asking, keys);
    const int64_t start = (head * queries + asking.first) * width, count = asking.last - asking.first;
    if (span.first >= span.last) {
      std::fill_n(by_q + start, count * width, X{});
      return;
    }
    const Span whole{span.first / kTileColumns * kTileColumns, panels(span.last, kTileColumns) * kTileColumns};
    float *weights = space.weights.get(), *by_scores = space.by_scores.get();
    prepare(q + start, count, scale, space, space.asked.get(), space.asked_rows.get());
    prepare(slope + start, count, 1, space, space.slopes.get(), space.slope_rows.get());
    space.products.score(space.keys.get(), space.asked.get(), span, weights);
    space.products.score(space.values.get(), space.slopes.get(), span, by_scores);
    weigh(sight, asking, span, weights, space.divisors.get());
    means(start, count, space.means.get());
    differentiate(span, space.divisors.get(), space.means.get(), weights, by_scores);
    for (const Span beside : {Span{whole.first, span.first}, Span{span.last, whole.last}})
      for (float *each : {weights, by_scores})
        std::fill(each + beside.first * kTileColumns, each + beside.last * kTileColumns, 0.0f);
    space.by_values.add(space.slope_rows.get(), weights, whole, space.turned.get());
    space.by_keys.add(space.asked_rows.get(), by_scores, whole, space.turned.get());
    std::fill_n(space.sums.get(), space.row_size, 0.0f);
    for (int64_t key = span.first, last; key < span.last; key = last) {
      last = std::min((key / kDepth + 1) * kDepth, span.last);
      space.products.mix(space.keys.get(), {key, last}, by_scores, nullptr, space.sums.get());
    }
    put_rows(space.sums.get(), count, width, [&](Vector sum, int64_t) { return sum * scale; }, by_q + start);
  }

  // Rows x [count, width], scaled, as columns of products [width, kTileColumns], and as their rows: panels
  // [kTileColumns, kTileRows] of the width.
  void prepare(const X *x, int64_t count, float by, Space &space, float *columns, float *rows) const {
    float *scaled = space.scaled.get();
    for (int64_t i = 0; i < count * width; ++i) scaled[i] = widen(x[i]) * by;
    space.products.pack_queries(scaled, count, columns);
    for (int64_t panel = 0; panel < width; panel += kTileRows, rows += kTileColumns * kTileRows)
      for (int64_t i = 0; i < kTileColumns; ++i)
        for (int64_t j = 0; j < kTileRows; ++j)
          rows[i * kTileRows + j] = i < count && panel + j < width ? scaled[i * width + panel + j] : 0;
  }

  // Σ slope · y of each query.
  void means(int64_t start, int64_t count, float *to) const {
    std::fill_n(to, kTileColumns, 0.0f);
    for (int64_t i = 0; i < count; ++i) {
      const X *s = slope + start + i * width, *at = y + start + i * width;
      Vector sums = {};
      int64_t j = 0;
      for (; j + kLanes <= width; j += kLanes) sums = multiply_add(load(s + j), load(at + j), sums);
      for (to[i] = sum(sums); j < width; ++j) to[i] = multiply_add(widen(s[j]), widen(at[j]), to[i]);
    }
  }

  // From powers and from slopes by weights, both [key, kTileColumns]: weights, and slopes by scores.
  void differentiate(Span span, const float *divisors, const float *means, float *weights, float *slopes) const {
    for (int64_t lane = 0; lane < kTileColumns; lane += kLanes) {
      const Vector share = 1.0f / load(divisors + lane), mean = load(means + lane);
      for (int64_t i = span.first * kTileColumns + lane; i < span.last * kTileColumns; i += kTileColumns) {
        const Vector weight = load(weights + i) * share;
        store(weight, weights + i);
        store(weight * (load(slopes + i) - mean), slopes + i);
      }
    }
  }
};

}  // namespace

// q [batch, heads, queries, width], k and v [batch, kv_heads, keys, width], mask int32 [batch, keys + 2 · queries], y
// and its slope as q, fp32 or fp16 → the gradients by q, k and v.
OPERATOR(attention_gradient) {
  const Given given{count, data, dimensions, shapes, types};
  const Tensor q = given[0], k = given[1];
  return status([&] {
    visit_activations(q, [&](auto *numbers) {
      using X = std::decay_t<decltype(*numbers)>;
      const auto *all = reinterpret_cast<X **>(data);
      Gradient<X>{q.shape[0], q.shape[1], k.shape[1], q.shape[2], k.shape[2], q.last(), all[0], all[1], all[2],
                  static_cast<int32_t *>(data[3]), all[4], all[5], all[6], all[7], all[8]}
          .compute();
    });
  });
}
