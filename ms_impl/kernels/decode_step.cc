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
  const int64_t *shape;
  char type;  // the letter that tells the dtypes apart: 3 (float32), 1 (float16) or b (bfloat16)
};

// use(pointer to the array's elements).
template <class Use>
void visit(const Array &array, Use use) {
  switch (array.type) {
    case 'b': return use(static_cast<BFloat16 *>(array.data));
    case '1': return use(static_cast<Float16 *>(array.data));
    default: return use(static_cast<float *>(array.data));
  }
}

struct Layer {
  Array ln_1, qkv, qkv_bias, projection, ln_2, up, gate, down, keys, values;
};

// The inputs in MindSpore's order; ms_impl/kernels/decode_step.py lists them.
struct Model {
  const int32_t *tokens, *segments;
  int64_t column;
  const float *cos, *sin;
  float epsilon, log_seq_length;
  Array embedding, norm, head;
  std::vector<Layer> layers;
  float *logits;
  int64_t batch, width, heads, dim, columns, inner, vocabulary;
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
void share(const Thread &thread, const Model &m, const Array &weight, const float *x, Put put) {
  const int64_t rows = weight.shape[0], n = weight.shape[1];
  visit(weight, [&](auto *w) { product(w, thread.first(rows), thread.last(rows), x, m.batch, n, put); });
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
    share(thread, m, layer.qkv, normed, [&](int64_t o, int64_t b, float y) {
      s.qkv[b * 3 * m.width + o] = y + widen(bias[o]);
    });
  });
#pragma omp barrier
  const int64_t all = m.batch * m.heads;
  for (int64_t i = thread.first(all); i < thread.last(all); ++i)
    head(m, layer, s, i / m.heads, i % m.heads, normed, scores);
#pragma omp barrier
  const auto add = [&](int64_t o, int64_t b, float y) { s.x[b * m.width + o] += y; };
  share(thread, m, layer.projection, s.mixed.data(), add);
#pragma omp barrier
  normalise(m, layer.ln_2, s.x.data(), normed);
  share(thread, m, layer.up, normed, [&](int64_t o, int64_t b, float y) { s.inner[b * m.inner + o] = y; });
  share(thread, m, layer.gate, normed, [&](int64_t o, int64_t b, float y) { s.inner[b * m.inner + o] *= silu(y); });
#pragma omp barrier
  share(thread, m, layer.down, s.inner.data(), add);
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
    for (const Layer &layer : m.layers) decoder_layer(thread, m, layer, s, normed.data(), scores.data());
    normalise(m, m.norm, s.x.data(), normed.data());
    share(thread, m, m.head, normed.data(), [&](int64_t o, int64_t b, float y) {
      m.logits[b * m.vocabulary + o] = y;
    });
  }
}

// Takes the arguments one after the other.
struct Arguments {
  void **data;
  int64_t **shapes;
  const char **dtypes;
  int at = 0;

  Array next() {
    const int i = at++;
    const char *dtype = dtypes[i];
    return {data[i], shapes[i], dtype[0] == 'b' || dtype[0] == 'B' ? 'b' : dtype[5]};
  }
};

Model take(Arguments a, int count) {
  constexpr int kOthers = 9, kPerLayer = 10;
  Model m;
  const Array tokens = a.next(), segments = a.next(), column = a.next(), table = a.next(), settings = a.next();
  m.tokens = static_cast<int32_t *>(tokens.data);
  m.segments = static_cast<int32_t *>(segments.data);
  m.column = *static_cast<int32_t *>(column.data);
  m.cos = static_cast<float *>(table.data);
  m.sin = m.cos + table.shape[1] * table.shape[2];
  m.epsilon = static_cast<float *>(settings.data)[0];
  m.log_seq_length = static_cast<float *>(settings.data)[1];
  m.embedding = a.next();
  m.norm = a.next();
  m.head = a.next();
  for (int i = kOthers; i < count; i += kPerLayer)
    m.layers.push_back({a.next(), a.next(), a.next(), a.next(), a.next(), a.next(), a.next(), a.next(), a.next(),
                        a.next()});
  const Array logits = a.next();
  m.logits = static_cast<float *>(logits.data);
  m.batch = segments.shape[0];
  m.columns = segments.shape[1];
  m.vocabulary = logits.shape[1];
  m.width = m.embedding.shape[1];
  m.dim = table.shape[2];
  m.heads = m.width / m.dim;
  m.inner = m.layers[0].up.shape[0];
  return m;
}

}  // namespace

// Called by MindSpore's ops.Custom ("aot"). Returns 0.
extern "C" int decode_step(int count, void **data, int *, int64_t **shapes, const char **dtypes, void *, void *) {
  Model m = take({data, shapes, dtypes}, count);
  std::fill_n(m.logits, m.batch * m.vocabulary, 0.0f);
  while (m.batch > 0 && m.segments[(m.batch - 1) * m.columns + m.column] == 0) --m.batch;  // rows nobody asked for
  step(m);
  return 0;
}
