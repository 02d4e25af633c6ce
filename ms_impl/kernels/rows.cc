// Activations and norms: each number, or each row, by itself, in fp32. Parity: tests/kernels/test_operators.py.
#include <algorithm>
#include <cmath>

#include "operator.h"

namespace {

constexpr int64_t kPiece = 4096;     // numbers that a thread takes at a time
constexpr int64_t kAlone = 1 << 17;  // numbers up to which one thread has done before another is awake

Vector minimum(Vector a, Vector b) { return a < b ? a : b; }

// The error function, within 3e-7: the rational approximation of Eigen's erf, for |x| up to 4, where it is 1.
Vector error_function(Vector x) {
  const Vector most = Vector{} + 4.0f, kept = x < -most ? -most : minimum(x, most), z = kept * kept;
  Vector above = Vector{} - 2.72614225801306e-10f, below = Vector{} - 1.45660718464996e-05f;
  for (float coefficient : {2.77068142495902e-08f, -2.10102402082508e-06f, -5.69250639462346e-05f,
                            -7.34990630326855e-04f, -2.95459980854025e-03f, -1.60960333262415e-02f})
    above = multiply_add(above, z, Vector{} + coefficient);
  for (float coefficient : {-2.13374055278905e-04f, -1.68282697438203e-03f, -7.37332916720468e-03f,
                            -1.42647390514189e-02f})
    below = multiply_add(below, z, Vector{} + coefficient);
  return kept * above / below;
}

Vector erf_gelu(Vector x) { return x * (error_function(x * 0.707106781f) + 1.0f) * 0.5f; }

Vector tanh_gelu(Vector x) { return x * sigmoid((x + x * x * x * 0.044715f) * 1.5957691216f); }

// y = function(x …), number by number, of as many inputs as it takes.
template <class Number, class Function, class... Inputs>
void each(int64_t count, Number *y, Function function, const Inputs *...x) {
  const int64_t pieces = (count + kPiece - 1) / kPiece;
#pragma omp parallel for if (count > kAlone)
  for (int64_t piece = 0; piece < pieces; ++piece) {
    const int64_t last = std::min(count, (piece + 1) * kPiece);
    int64_t i = piece * kPiece;
    for (; i + kLanes <= last; i += kLanes) {
      const Vector found = function(load(x + i)...);
      narrow_all(found, y + i);
    }
    for (; i < last; ++i) narrow(function(Vector{} + widen(x[i])...)[0], y + i);
  }
}

// Σ term(i) over a row, in one order.
template <class Term>
float total(int64_t count, Term term) {
  Vector sums = {};
  int64_t i = 0;
  for (; i + kLanes <= count; i += kLanes) sums += term(i, Vector{});
  float rest = 0;
  for (; i < count; ++i) rest += term(i, 0.0f);
  return sum(sums) + rest;
}

template <class X>
Vector numbers(const X *x, int64_t i, Vector) { return load(x + i); }
template <class X>
float numbers(const X *x, int64_t i, float) { return widen(x[i]); }

template <class X, class W>
void layer_norm_row(const X *x, const W *weight, const W *bias, int64_t width, float epsilon, X *y) {
  const float mean = total(width, [=](int64_t i, auto kind) { return numbers(x, i, kind); }) / width;
  const float squares = total(width, [=](int64_t i, auto kind) {
    const auto away = numbers(x, i, kind) - mean;
    return away * away;
  });
  const float scale = 1 / std::sqrt(squares / width + epsilon);
  for (int64_t i = 0; i < width; ++i)
    narrow((widen(x[i]) - mean) * scale * widen(weight[i]) + widen(bias[i]), y + i);
}

// Normalised in fp32, as x's type, then scaled.
template <class X, class W>
void rms_norm_row(const X *x, const W *weight, int64_t width, float epsilon, X *y) {
  const float squares = total(width, [=](int64_t i, auto kind) {
    const auto number = numbers(x, i, kind);
    return number * number;
  });
  const float scale = 1 / std::sqrt(squares / width + epsilon);
  for (int64_t i = 0; i < width; ++i) {
    X normal, factor;
    narrow(widen(x[i]) * scale, &normal);
    narrow(widen(weight[i]), &factor);
    narrow(widen(normal) * widen(factor), y + i);
  }
}

// use(number of the row) for each row of x, by all threads.
template <class Use>
void rows_of(const Tensor &x, Use use) {
  const int64_t count = x.size() / x.last();
#pragma omp parallel for if (x.size() > kAlone)
  for (int64_t row = 0; row < count; ++row) use(row * x.last());
}

}  // namespace

// x → y, fp32 or fp16, of any shape.
OPERATOR(gelu) {
  const Given given{count, data, dimensions, shapes, types};
  visit_activations(given[0], [&](auto *x) { each(given[0].size(), static_cast<decltype(x)>(data[1]), erf_gelu, x); });
  return 0;
}

OPERATOR(gelu_tanh) {
  const Given given{count, data, dimensions, shapes, types};
  visit_activations(given[0], [&](auto *x) { each(given[0].size(), static_cast<decltype(x)>(data[1]), tanh_gelu, x); });
  return 0;
}

OPERATOR(add) {
  const Given given{count, data, dimensions, shapes, types};
  visit_activations(given[0], [&](auto *x) {
    const auto *y = static_cast<decltype(x)>(data[1]);
    each(given[0].size(), static_cast<decltype(x)>(data[2]), [](Vector a, Vector b) { return a + b; }, x, y);
  });
  return 0;
}

// gate, up → silu(gate) · up, each rounded to their type.
OPERATOR(gated_silu) {
  const Given given{count, data, dimensions, shapes, types};
  visit_activations(given[0], [&](auto *gate) {
    const auto *up = static_cast<decltype(gate)>(data[1]);
    const auto function = [](Vector g, Vector u) { return g * sigmoid(g) * u; };
    each(given[0].size(), static_cast<decltype(gate)>(data[2]), function, gate, up);
  });
  return 0;
}

// x [..., width], weight and bias [width] of one type, epsilon fp32 [1] → y.
OPERATOR(layer_norm) {
  const Given given{count, data, dimensions, shapes, types};
  const Tensor x = given[0];
  const float epsilon = *static_cast<float *>(data[3]);
  visit_activations(x, [&](auto *from) {
    visit_weights(given[1], [&](auto *weight) {
      const auto *bias = static_cast<decltype(weight)>(data[2]);
      auto *y = static_cast<decltype(from)>(data[4]);
      rows_of(x, [=](int64_t i) { layer_norm_row(from + i, weight, bias, x.last(), epsilon, y + i); });
    });
  });
  return 0;
}

// x [..., width], weight [width], epsilon fp32 [1] → y.
OPERATOR(rms_norm) {
  const Given given{count, data, dimensions, shapes, types};
  const Tensor x = given[0];
  const float epsilon = *static_cast<float *>(data[2]);
  visit_activations(x, [&](auto *from) {
    visit_weights(given[1], [&](auto *weight) {
      auto *y = static_cast<decltype(from)>(data[3]);
      rows_of(x, [=](int64_t i) { rms_norm_row(from + i, weight, x.last(), epsilon, y + i); });
    });
  });
  return 0;
}
