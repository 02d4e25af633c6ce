// One token more for each row of a batch, through all layers of a decoder that is described by its matrices.
//
// Every weight is read from memory once for all rows, every key and value once for all query heads that share it;
// activations are fp32, and are rounded to bf16 as factors where that is asked for. Threads divide the rows of each
// matrix and the heads; what a thread computes does not depend on how many there are, nor a row on its neighbours.
// Parity: tests/kernels/test_decode_step.py, test_decoder_kinds.py.

#include <omp.h>

#include <optional>

#include "attend_tiles.h"
#include "attention.h"
#include "panels.h"

namespace {

constexpr int64_t kBegun = 128 << 10;  // bytes of a thread's share that are fetched ahead

struct Array {
  void *data;    // null: absent
  int64_t type;  // 'f' (float32), 'h' (float16) or 'b' (bfloat16)
};

// use(pointer to the array's elements).
template <class Use>
void visit(const Array &array, Use use) {
  switch (array.type) {
    case 'b': return use(static_cast<BFloat16 *>(array.data));
    case 'h': return use(static_cast<Float16 *>(array.data));
    default: return use(static_cast<float *>(array.data));
  }
}

// A number, or as many as a vector holds.
template <class X>
float like(float, const X *from) {
  return widen(*from);
}
template <class X>
Vector like(Vector, const X *from) {
  return load(from);
}
void put_at(float x, float *to) { *to = x; }
void put_at(Vector x, float *to) { store(x, to); }

// Weights [out, in], biases [out]; ms_impl/kernels/decode_step.py has the same fields.
struct Layer {
  Array ln_1, q, q_b, k, k_b, v, v_b, q_norm, k_norm, o, o_b, ln_2, gate, gate_b, up, up_b, down, down_b;
  Array keys, values;  // [batch · kv_heads, columns, dim]
};

// As above.
struct Step {
  int64_t size, layer_size;  // of Step and Layer
  int64_t batch, columns, layers, heads, kv_heads, dim, width, inner, vocabulary, rounded;
  const int32_t *tokens, *segments, *column;  // [batch], [batch, columns], [batch]
  const float *cos, *sin, *q_scale;           // [batch, dim] twice, [batch] or null
  float *logits;                              // [batch, vocabulary], zeros
  Array embedding, norm, head;
  const Layer *layer;
  double epsilon;
};

// What the threads share. Where a vector begins counts: one that lies in two lines of the cache is loaded in two.
struct State {
  Room x, q, k, v, mixed, gate, inner;
  explicit State(const Step &m)
      : x(room(m.batch * m.width)), q(room(m.batch * m.heads * m.dim)), k(room(m.batch * m.kv_heads * m.dim)),
        v(room(m.batch * m.kv_heads * m.dim)), mixed(room(m.batch * m.heads * m.dim)),
        gate(room(m.batch * m.inner)), inner(room(m.batch * m.inner)) {}
};

struct Thread {
  int64_t index = omp_get_thread_num(), count = omp_get_num_threads();
  int64_t first(int64_t items) const { return items * index / count; }
  int64_t last(int64_t items) const { return items * (index + 1) / count; }
};

// y [n] = x normalised, times weight; y may be x.
void normalise(const Array &weight, const float *x, int64_t n, float epsilon, float *y) {
  Vector squares = {};
  float rest = 0;
  int64_t i = 0;
  for (; i + kLanes <= n; i += kLanes) squares = multiply_add(load(x + i), load(x + i), squares);
  for (; i < n; ++i) rest = multiply_add(x[i], x[i], rest);
  const float scale = 1 / std::sqrt((sum(squares) + rest) / n + epsilon);
  visit(weight, [&](auto *w) {
    for (int64_t j = 0; j < n; ++j) y[j] = x[j] * scale * widen(w[j]);
  });
}

// y [batch, width]; done by each thread for itself.
void normalise_rows(const Step &m, const Array &weight, const float *x, float *y) {
  for (int64_t b = 0; b < m.batch; ++b) normalise(weight, x + b * m.width, m.width, m.epsilon, y + b * m.width);
}

// put(row of w, row of x, dot product plus bias) for this thread's share of the rows of w; or of sixteen rows at once.
template <class Put>
void share(const Thread &thread, const Array &weight, const Array &bias, int64_t rows, Factor &x, Put put) {
  visit(weight, [&](auto *w) {
    const auto products = [&](auto each) { x.times(w, thread.first(rows), thread.last(rows), each); };
    if (!bias.data) return products(put);
    visit(bias, [&](auto *added) {
      products([&](int64_t o, int64_t b, auto y) { put(o, b, y + like(y, added + o)); });
    });
  });
}

// What `share` puts into y [batch, rows].
auto into(float *y, int64_t rows) {
  return [=](int64_t o, int64_t b, auto x) { put_at(x, y + b * rows + o); };
}

// Fetches the beginning of this thread's share of the rows of w [rows, n], which is multiplied after the next barrier:
// memory would rest while threads wait for each other.
void fetch(const Thread &thread, const Array &weight, int64_t rows, int64_t n) {
  visit(weight, [&](auto *w) {
    const auto *from = reinterpret_cast<const char *>(w + thread.first(rows) * n);
    const int64_t share = (thread.last(rows) - thread.first(rows)) * n * sizeof *w;
    for (int64_t i = 0; i < std::min(share, kBegun); i += kCacheLine) __builtin_prefetch(from + i, 0, 2);
  });
}

void embed(const Thread &thread, const Step &m, State &s) {
  visit(m.embedding, [&](auto *rows) {
    for (int64_t b = thread.first(m.batch); b < thread.last(m.batch); ++b)
      for (int64_t i = 0; i < m.width; ++i) s.x[b * m.width + i] = widen(rows[m.tokens[b] * m.width + i]);
  });
}

void queries_keys_values(const Thread &thread, const Step &m, const Layer &layer, Factor &x, State &s) {
  const int64_t queries = m.heads * m.dim, keys = m.kv_heads * m.dim;
  share(thread, layer.q, layer.q_b, queries, x, into(s.q.get(), queries));
  share(thread, layer.k, layer.k_b, keys, x, into(s.k.get(), keys));
  share(thread, layer.v, layer.v_b, keys, x, into(s.v.get(), keys));
}

// Normalises, rotates and scales a head [dim] of row b in place; `room` for as many numbers.
void turn(const Step &m, const Array &norm, int64_t b, float scale, float *x, float *room) {
  if (norm.data) normalise(norm, x, m.dim, m.epsilon, x);
  rotate(x, m.cos + b * m.dim, m.sin + b * m.dim, m.dim, scale, room);
  std::copy_n(room, m.dim, x);
}

// Makes this thread's share of the heads ready to attend; keys and values go into the cache.
void turn_heads(const Thread &thread, const Step &m, const Layer &layer, State &s, float *room) {
  const int64_t queries = m.batch * m.heads, pairs = m.batch * m.kv_heads;
  for (int64_t i = thread.first(queries); i < thread.last(queries); ++i) {
    const int64_t b = i / m.heads;
    const float scale = m.q_scale ? m.q_scale[b] : 1;
    turn(m, layer.q_norm, b, scale / std::sqrt(static_cast<float>(m.dim)), &s.q[i * m.dim], room);
  }
  visit(layer.keys, [&](auto *keys) {
    auto *values = static_cast<decltype(keys)>(layer.values.data);
    for (int64_t i = thread.first(pairs); i < thread.last(pairs); ++i) {
      const int64_t b = i / m.kv_heads, now = (i * m.columns + m.column[b]) * m.dim;
      float *k = &s.k[i * m.dim], *v = &s.v[i * m.dim];
      turn(m, layer.k_norm, b, 1, k, room);
      for (int64_t j = 0; j < m.dim; ++j) narrow(k[j], keys + now + j), narrow(v[j], values + now + j);
    }
  });
}

// How a thread attends: by tiles, where factors are rounded and queries share keys in bf16. One alone waits for memory
// either way.
class Attending {
 public:
  explicit Attending(const Step &m) : dim_(m.dim), scores_(room(m.heads / m.kv_heads * m.columns)) {
#ifdef KERNEL_TILES
    if (m.rounded && m.heads > m.kv_heads && m.dim % kStep == 0 && tiles_allowed())
      tiles_.emplace(m.heads / m.kv_heads, m.dim, m.columns);
#endif
  }

  // As `attend`; `next` are the keys of who attends next.
  template <class C>
  void operator()(const C *keys, const C *values, const int32_t *segments, int64_t count, const float *queries,
                  int64_t heads, [[maybe_unused]] const C *next, float *y) const {
#ifdef KERNEL_TILES
    if constexpr (std::is_same_v<C, BFloat16>)
      if (tiles_) return tiles_->attend(keys, values, segments, count, queries, heads, next, y);
#endif
    attend(keys, values, segments, count, queries, heads, dim_, scores_.get(), y);
  }

 private:
  int64_t dim_;
  Room scores_;
#ifdef KERNEL_TILES
  std::optional<AttendByTiles> tiles_;
#endif
};

// This thread's share of the query heads; those beside each other that have one key head attend together.
void attend_heads(const Thread &thread, const Step &m, const Layer &layer, State &s, const Attending &attend) {
  const int64_t all = m.batch * m.heads, group = m.heads / m.kv_heads;
  visit(layer.keys, [&](auto *keys) {
    const auto *values = static_cast<decltype(keys)>(layer.values.data);
    for (int64_t i = thread.first(all), next; i < thread.last(all); i = next) {
      const int64_t pair = i / group, b = i / m.heads, start = pair * m.columns * m.dim;
      next = std::min((pair + 1) * group, thread.last(all));
      attend(keys + start, values + start, m.segments + b * m.columns, m.column[b] + 1, &s.q[i * m.dim], next - i,
             keys + start + m.columns * m.dim, &s.mixed[i * m.dim]);
    }
  });
}

// This thread's share of inner [batch, inner] *= silu(gate).
void close_gates(const Thread &thread, const Step &m, State &s) {
  for (int64_t b = 0; b < m.batch; ++b) {
    float *gate = &s.gate[b * m.inner], *inner = &s.inner[b * m.inner];
    int64_t i = thread.first(m.inner);
    const auto close = [](Vector g, Vector x) { return g * sigmoid(g) * x; };
    for (; i + kLanes <= thread.last(m.inner); i += kLanes) store(close(load(gate + i), load(inner + i)), inner + i);
    for (; i < thread.last(m.inner); ++i) inner[i] = close(Vector{gate[i]}, Vector{inner[i]})[0];
  }
}

// `next` is the layer behind it; null: there is none.
void decoder_layer(const Thread &thread, const Step &m, const Layer &layer, const Layer *next, State &s, float *normed,
                   const Attending &attend, Factor &x) {
  normalise_rows(m, layer.ln_1, s.x.get(), normed);
  x.set(normed, m.width);
  queries_keys_values(thread, m, layer, x, s);
#pragma omp barrier
  turn_heads(thread, m, layer, s, normed);
#pragma omp barrier
  attend_heads(thread, m, layer, s, attend);
  fetch(thread, layer.o, m.width, m.heads * m.dim);
#pragma omp barrier
  const auto add = [&](int64_t o, int64_t b, auto y) {
    float *x = &s.x[b * m.width + o];
    put_at(like(y, x) + y, x);
  };
  x.set(s.mixed.get(), m.heads * m.dim);
  share(thread, layer.o, layer.o_b, m.width, x, add);
  fetch(thread, layer.up, m.inner, m.width);
#pragma omp barrier
  normalise_rows(m, layer.ln_2, s.x.get(), normed);
  x.set(normed, m.width);
  share(thread, layer.up, layer.up_b, m.inner, x, into(s.inner.get(), m.inner));
  share(thread, layer.gate, layer.gate_b, m.inner, x, into(s.gate.get(), m.inner));
  fetch(thread, layer.down, m.width, m.inner);
  close_gates(thread, m, s);
#pragma omp barrier
  x.set(s.inner.get(), m.inner);
  share(thread, layer.down, layer.down_b, m.width, x, add);
  if (next)
    fetch(thread, next->q, m.heads * m.dim, m.width);
  else
    fetch(thread, m.head, m.vocabulary, m.width);
#pragma omp barrier
}

// Threads that the work of a step is worth: on a busy machine each barrier may wait for one that is not running.
int threads(const Step &m) {
  constexpr int64_t kWorth = 1 << 25;  // multiplications
  const int64_t queries = m.heads * m.dim, keys = m.kv_heads * m.dim;
  const int64_t layer = m.width * (2 * queries + 2 * keys + 3 * m.inner), head = m.width * m.vocabulary;
  const int64_t worth = 1 + m.batch * (m.layers * layer + head) / kWorth;
  return static_cast<int>(std::min<int64_t>(worth, omp_get_max_threads()));
}

void step(const Step &m) {
  State s(m);
#pragma omp parallel num_threads(threads(m))
  {
    const Thread thread;
    const Room normed = room(std::max(m.batch * m.width, m.dim));
    const Attending attend(m);
    Factor x(m.batch, std::max({m.width, m.inner, m.heads * m.dim}), m.rounded);
    embed(thread, m, s);
#pragma omp barrier
    for (int64_t i = 0; i < m.layers; ++i) {
      const Layer *next = i + 1 < m.layers ? &m.layer[i + 1] : nullptr;
      decoder_layer(thread, m, m.layer[i], next, s, normed.get(), attend, x);
    }
    normalise_rows(m, m.norm, s.x.get(), normed.get());
    x.set(normed.get(), m.width);
    share(thread, m.head, Array{}, m.vocabulary, x, into(m.logits, m.vocabulary));
  }
}

}  // namespace

// 0; or 1, and nothing is done, where the caller means other structures than these.
extern "C" int32_t decode_step(const Step *given) {
  if (given->size != sizeof(Step) || given->layer_size != sizeof(Layer)) return 1;
  Step m = *given;
  while (m.batch > 0 && m.segments[(m.batch - 1) * m.columns + m.column[m.batch - 1]] == 0) --m.batch;  // nobody's rows
  step(m);
  return 0;
}
