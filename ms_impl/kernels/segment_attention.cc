// y = softmax(q · kᵀ / √width) · v for many queries, each over the keys of its own segment up to a column of its own.
//
// Queries stand side by side in the lanes of vectors, kTileColumns at a time, and no more scores are held than theirs.
// Keys and values are packed once for all, as the products take them. What is hidden from a query adds zeros: its
// result does not depend on those beside it. Parity: tests/kernels/test_operators.py.
#include <omp.h>

#include <cmath>
#include <vector>

#include "attention_tiles.h"
#include "attention_vectors.h"
#include "operator.h"
#include "sight.h"

namespace {

template <class X, class C, class Products>
struct Attention {
  int64_t batch, heads, kv_heads, queries, keys, width;
  const X *q;           // [batch, heads, queries, width]
  const C *k, *v;       // [batch, kv_heads, keys, width]
  const int32_t *mask;  // [batch, keys + 2 · queries]: a Sight
  X *y;                 // as q
  Products products{keys, width};
  int64_t pieces = panels(keys, kDepth), packed_size = products.keys_size + products.values_size;

  Sight sight(int64_t row) const { return {mask + row * (keys + 2 * queries), keys, queries}; }

  void compute() const {
    const int64_t blocks = panels(queries, kTileColumns);
    const Room packed = room(batch * kv_heads * packed_size);
    std::vector<Space> spaces;
    for (int i = 0; i < omp_get_max_threads(); ++i) spaces.emplace_back(*this);
    std::vector<int64_t> ends;
    for (int64_t row = 0; row < batch; ++row) ends.push_back(seen(sight(row), {0, queries}, keys).last);
#pragma omp parallel
    {
      [[maybe_unused]] const typename Products::Ready ready;
#pragma omp for collapse(2)
      for (int64_t pair = 0; pair < batch * kv_heads; ++pair)
        for (int64_t piece = 0; piece < pieces; ++piece) {
          const Span span{piece * kDepth, std::min((piece + 1) * kDepth, ends[pair / kv_heads])};
          products.pack_keys(k + pair * keys * width, span, packed.get() + pair * packed_size);
          products.pack_values(v + pair * keys * width, span, packed.get() + pair * packed_size);
        }
#pragma omp for collapse(2) schedule(dynamic)
      for (int64_t head = 0; head < batch * heads; ++head)
        for (int64_t block = 0; block < blocks; ++block) {
          const int64_t first = block * kTileColumns, pair = head / (heads / kv_heads);
          attend(head, {first, std::min(first + kTileColumns, queries)}, packed.get() + pair * packed_size,
                 spaces[omp_get_thread_num()]);
        }
    }
  }

  // What a thread needs for some queries.
  struct Space {
    Room scaled, asked, divisors, sums, scores, weights;
    explicit Space(const Attention &m)
        : scaled(room(m.width * kTileColumns)), asked(room(m.products.asked_size)), divisors(room(kTileColumns)),
          sums(room(m.products.sum_rows * kTileColumns)),
          scores(room((panels(m.keys, kTileRows) * kTileRows + Products::kAligned) * kTileColumns)),
          weights(room(m.products.weights_size)) {}
  };

  void attend(int64_t head, Span asking, const float *packed, const Space &space) const {
    constexpr int64_t kAligned = Products::kAligned;
    const Sight own = sight(head / heads);
    const Span span = seen(own, asking, keys);
    const Span mixed{span.first / kAligned * kAligned, panels(span.last, kAligned) * kAligned};
    const int64_t start = (head * queries + asking.first) * width, count = asking.last - asking.first;
    float *scores = space.scores.get(), *sums = space.sums.get();
    const float scale = 1 / std::sqrt(static_cast<float>(width));
    for (int64_t i = 0; i < count * width; ++i) space.scaled[i] = widen(q[start + i]) * scale;
    products.pack_queries(space.scaled.get(), count, space.asked.get());
    products.score(packed, space.asked.get(), span, scores);
    weigh(own, asking, span, scores, space.divisors.get());
    for (const Span hidden : {Span{mixed.first, span.first}, Span{span.last, mixed.last}})
      std::fill(scores + hidden.first * kTileColumns, scores + hidden.last * kTileColumns, 0.0f);
    std::fill_n(sums, products.sum_rows * kTileColumns, 0.0f);
    for (int64_t key = mixed.first, last; key < mixed.last; key = last) {
      last = std::min((key / kDepth + 1) * kDepth, mixed.last);
      products.mix(packed, {key, last}, scores, space.weights.get(), sums);
    }
    const float *divisors = space.divisors.get();
    put_rows(sums, count, width, [=](Vector sum, int64_t lane) { return sum / load(divisors + lane); }, y + start);
  }
};

template <class X, class C, class Products>
void attend_to(const Tensor &q, const Tensor &k, const Tensor &v, const Tensor &mask, const Tensor &y) {
  const int64_t batch = q.shape[0], keys = k.shape[k.dimensions - 2], kv_heads = k.size() / (batch * keys * q.last());
  Attention<X, C, Products>{batch, q.shape[1], kv_heads, q.shape[2], keys, q.last(), static_cast<X *>(q.data),
                            static_cast<C *>(k.data), static_cast<C *>(v.data), static_cast<int32_t *>(mask.data),
                            static_cast<X *>(y.data)}
      .compute();
}

// Of keys and values of type C.
template <bool Rounded, class X, class C>
void attend_by(const Tensor &q, const Tensor &k, const Tensor &v, const Tensor &mask, const Tensor &y) {
#ifdef KERNEL_TILES
  if (Rounded && tiles_allowed()) return attend_to<X, C, AttentionByTiles<C>>(q, k, v, mask, y);
#endif
  attend_to<X, C, AttentionByVectors<C>>(q, k, v, mask, y);
}

template <bool Rounded>
int attention_of(const Tensor &q, const Tensor &k, const Tensor &v, const Tensor &mask, const Tensor &y) {
  return status([&] {
    visit_activations(q, [&](auto *numbers) {
      using X = std::decay_t<decltype(*numbers)>;
      if (!std::strcmp(k.type, "bfloat16")) return attend_by<Rounded, X, BFloat16>(q, k, v, mask, y);
      attend_by<Rounded, X, X>(q, k, v, mask, y);
    });
  });
}

// Writes x [batch, kv_heads, queries, width] into a cache [batch · kv_heads, keys, width] at the queries' columns.
void write_columns(const Tensor &x, const Tensor &mask, const Tensor &cache) {
  const int64_t kv_heads = x.shape[1], queries = x.shape[2], keys = cache.shape[1], width = x.last();
  visit_activations(x, [&](auto *from) {
    visit_weights(cache, [&](auto *to) {
#pragma omp parallel for
      for (int64_t pair = 0; pair < cache.shape[0]; ++pair) {
        const int32_t *columns = static_cast<int32_t *>(mask.data) + pair / kv_heads * mask.last() + keys + queries;
        for (int64_t i = 0; i < queries; ++i)
          for (int64_t j = 0; j < width; ++j)
            narrow(widen(from[(pair * queries + i) * width + j]), to + (pair * keys + columns[i]) * width + j);
      }
    });
  });
}

template <bool Rounded>
int cached_attention_of(const Given &given) {
  const Tensor q = given[0], keys = given[3], values = given[4], mask = given[5];
  write_columns(given[1], mask, keys);
  write_columns(given[2], mask, values);
  return attention_of<Rounded>(q, keys, values, mask, given[6]);
}

}  // namespace

// q [batch, heads, queries, width], k and v [batch, kv_heads, keys, width], fp32 or fp16, mask int32 [batch, keys +
// 2 · queries] → y as q.
OPERATOR(segment_attention) {
  const Given given{count, data, dimensions, shapes, types};
  return attention_of<false>(given[0], given[1], given[2], given[3], given[4]);
}

// The same of queries, keys, weights and values rounded to bf16, where the processor has tiles of it.
OPERATOR(segment_attention_of_bf16) {
  const Given given{count, data, dimensions, shapes, types};
  return attention_of<true>(given[0], given[1], given[2], given[3], given[4]);
}

// q, k and v [batch, heads or kv_heads, queries, width], a cache's keys and values [batch · kv_heads, keys, width] of
// their type or bf16, mask as above → y as q; k and v are first written into the cache, at the columns of their
// queries.
OPERATOR(cached_attention) { return cached_attention_of<false>({count, data, dimensions, shapes, types}); }

OPERATOR(cached_attention_of_bf16) { return cached_attention_of<true>({count, data, dimensions, shapes, types}); }
