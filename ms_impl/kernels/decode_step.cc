// One token more for each row of a batch, through all layers of Qwen's language model.
//
// Every weight is read from memory once for all rows; activations are fp32. Threads divide the rows of each matrix and
// the heads; what a thread computes does not depend on how many there are. Parity: tests/kernels/test_decode_step.py.

#include <omp.h>

#include <vector>

#include "attention.h"

namespace {

struct Array {
  void *data;
  char type;  // f (float32), h (float16) or b (bfloat16)
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

struct Layer {
  Array ln_1, qkv, qkv_bias, projection, ln_2, up, gate, down, keys, values;
};

// What ms_impl/kernels/decode_step.py gives, which has the same fields.
struct Step {
  const int32_t *tokens, *segments;  // [batch], [batch, columns]
  const float *cos, *sin;            // [.., dim]
  float *logits;                     // [batch, vocabulary], zeros
  void **parameters;                 // embedding, norm, head, and those of each layer
  const char *types;                 // a letter for each
  int64_t batch, columns, column, layers, heads, dim, inner, vocabulary;
  float epsilon, log_seq_length;
};

struct Model : Step {
  Array embedding, norm, head;
  std::vector<Layer> layer;
  int64_t width;
};

// What the threads share.
struct State {
  std::vector<float> x, qkv, mixed, inner;
};

struct Thread {
  int64_t index = omp_get_thread_num(), count = omp_get_num_threads();
  int64_t first(int64_t items) const { return items * index / count; }
  int64_t last(int64_t items) const { return items * (index + 1) / count; }
};

// y [batch, width] = x normalised, times weight; done by each thread for itself.
void normalise(const Model &m, const Array &weight, const float *x, float *y) {
  for (int64_t b = 0; b < m.batch; ++b, x += m.width, y += m.width) {
    Vector squares = {};
    float rest = 0;
    int64_t i = 0;
    for (; i + kLanes <= m.width; i += kLanes) squares += load(x + i) * load(x + i);
    for (; i < m.width; ++i) rest += x[i] * x[i];
    const float scale = 1 / std::sqrt((sum(squares) + rest) / m.width + m.epsilon);
    visit(weight, [&](auto *w) {
      for (int64_t j = 0; j < m.width; ++j) y[j] = x[j] * scale * widen(w[j]);
    });
  }
}

// put(row of w, row of x, dot product) for this thread's share of the rows of w.
template <class Put>
void share(const Thread &thread, int64_t batch, const Array &weight, int64_t rows, int64_t n, const float *x, Put put) {
  visit(weight, [&](auto *w) { product(w, thread.first(rows), thread.last(rows), x, batch, n, put); });
}

void embed(const Thread &thread, const Model &m, State &s) {
  visit(m.embedding, [&](auto *rows) {
    for (int64_t b = thread.first(m.batch); b < thread.last(m.batch); ++b)
      for (int64_t i = 0; i < m.width; ++i) s.x[b * m.width + i] = widen(rows[m.tokens[b] * m.width + i]);
  });
}

// One head of one row: writes its key and value into the cache, then attends.
void head(const Model &m, const Layer &layer, State &s, int64_t b, int64_t h, float *query, float *scores) {
  const float *q = &s.qkv[b * 3 * m.width + h * m.dim], *k = q + m.width, *v = k + m.width;
  const float *cos = m.cos + m.column * m.dim, *sin = m.sin + m.column * m.dim;
  const float log_n = std::max(1.0f, std::log(m.column + 1.0f) / m.log_seq_length);
  visit(layer.keys, [&](auto *cache) {
    const int64_t start = (b * m.heads + h) * m.columns * m.dim, now = start + m.column * m.dim;
    auto *keys = cache, *values = static_cast<decltype(cache)>(layer.values.data);
    rotate(k, cos, sin, m.dim, 1, query);
    for (int64_t i = 0; i < m.dim; ++i) narrow(query[i], keys + now + i), narrow(v[i], values + now + i);
    rotate(q, cos, sin, m.dim, log_n / std::sqrt(static_cast<float>(m.dim)), query);
    attend(keys + start, values + start, m.segments + b * m.columns, m.column + 1, query, m.dim, scores,
           &s.mixed[b * m.width + h * m.dim]);
  });
}

float silu(float x) { return x / (1 + std::exp(-x)); }

void decoder_layer(const Thread &thread, const Model &m, const Layer &layer, State &s, float *normed, float *scores) {
  normalise(m, layer.ln_1, s.x.data(), normed);
  visit(layer.qkv_bias, [&](auto *bias) {
    share(thread, m.batch, layer.qkv, 3 * m.width, m.width, normed, [&](int64_t o, int64_t b, float y) {
      s.qkv[b * 3 * m.width + o] = y + widen(bias[o]);
    });
  });
#pragma omp barrier
  const int64_t all = m.batch * m.heads;
  for (int64_t i = thread.first(all); i < thread.last(all); ++i)
    head(m, layer, s, i / m.heads, i % m.heads, normed, scores);
#pragma omp barrier
  const auto add = [&](int64_t o, int64_t b, float y) { s.x[b * m.width + o] += y; };
  share(thread, m.batch, layer.projection, m.width, m.width, s.mixed.data(), add);
#pragma omp barrier
  normalise(m, layer.ln_2, s.x.data(), normed);
  share(thread, m.batch, layer.up, m.inner, m.width, normed, [&](int64_t o, int64_t b, float y) { s.inner[b * m.inner + o] = y; });
  share(thread, m.batch, layer.gate, m.inner, m.width, normed, [&](int64_t o, int64_t b, float y) { s.inner[b * m.inner + o] *= silu(y); });
#pragma omp barrier
  share(thread, m.batch, layer.down, m.width, m.inner, s.inner.data(), add);
#pragma omp barrier
}

void step(const Model &m) {
  State s{std::vector<float>(m.batch * m.width), std::vector<float>(m.batch * 3 * m.width),
          std::vector<float>(m.batch * m.width), std::vector<float>(m.batch * m.inner)};
#pragma omp parallel
  {
    const Thread thread;
    std::vector<float> normed(m.batch * m.width), scores(m.columns);
    embed(thread, m, s);
#pragma omp barrier
    for (const Layer &layer : m.layer) decoder_layer(thread, m, layer, s, normed.data(), scores.data());
    normalise(m, m.norm, s.x.data(), normed.data());
    share(thread, m.batch, m.head, m.vocabulary, m.width, normed.data(), [&](int64_t o, int64_t b, float y) {
      m.logits[b * m.vocabulary + o] = y;
    });
  }
}

Model model_of(const Step &given) {
  Model m{given};
  int64_t at = 0;
  const auto take = [&](Array &array) { array = {given.parameters[at], given.types[at]}, ++at; };
  for (Array *array : {&m.embedding, &m.norm, &m.head}) take(*array);
  m.layer.resize(m.layers);
  for (Layer &l : m.layer)
    for (Array *array : {&l.ln_1, &l.qkv, &l.qkv_bias, &l.projection, &l.ln_2, &l.up, &l.gate, &l.down, &l.keys,
                         &l.values})
      take(*array);
  m.width = m.heads * m.dim;
  return m;
}

}  // namespace

extern "C" void decode_step(const Step *given) {
  Model m = model_of(*given);
  while (m.batch > 0 && m.segments[(m.batch - 1) * m.columns + m.column] == 0) --m.batch;  // rows nobody asked for
  step(m);
}
