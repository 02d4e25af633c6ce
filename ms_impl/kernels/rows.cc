// Activations, norms and their gradients: each number, or each row, by itself, in fp32.
// Parity: tests/kernels/test_operators.py, test_gradients.py.
#include <algorithm>
#include <cmath>
#include <utility>
#include <vector>

#include "operator.h"

namespace {

constexpr int64_t kPiece = 4096;     // numbers that a thread takes at a time
constexpr int64_t kBlocks = 64, kLeast = 16;  // of rows that are summed: how many at most, and of how many at least

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

// The slope of the same: Φ(x) + x · φ(x).
Vector erf_gelu_slope(Vector x) {
  return (error_function(x * 0.707106781f) + 1.0f) * 0.5f + x * exponential(x * x * -0.5f) * 0.398942280f;
}

Vector tanh_gelu(Vector x) { return x * sigmoid((x + x * x * x * 0.044715f) * 1.5957691216f); }

Vector tanh_gelu_slope(Vector x) {
  const Vector part = sigmoid((x + x * x * x * 0.044715f) * 1.5957691216f);
  return part + x * part * (1.0f - part) * (1.5957691216f + x * x * (3 * 0.044715f * 1.5957691216f));
}

// use(function(x …), number from which on, whether of all lanes or of the first), of as many inputs as it takes.
template <class Function, class Use, class... Inputs>
void visit_all(int64_t count, Function function, Use use, const Inputs *...x) {
  const int64_t pieces = (count + kPiece - 1) / kPiece;
#pragma omp parallel for if (count > kAlone)
  for (int64_t piece = 0; piece < pieces; ++piece) {
    const int64_t last = std::min(count, (piece + 1) * kPiece);
    int64_t i = piece * kPiece;
    for (; i + kLanes <= last; i += kLanes) use(function(load(x + i)...), i, true);
    for (; i < last; ++i) use(function(Vector{} + widen(x[i])...), i, false);
  }
}

template <class Number>
void put(Vector found, bool all, Number *y) {
  all ? narrow_all(found, y) : narrow(found[0], y);
}

// y = function(x …), number by number.
template <class Number, class Function, class... Inputs>
void each(int64_t count, Number *y, Function function, const Inputs *...x) {
  visit_all(count, function, [=](Vector found, int64_t i, bool all) { put(found, all, y + i); }, x...);
}

// gradient = slope(x) · out, of the gradients by what a function gave.
template <class Slope>
int slopes(const Given &given, Slope slope) {
  visit_activations(given[0], [&](auto *x) {
    const auto *out = static_cast<decltype(x)>(given.data[1]);
    const auto function = [=](Vector at, Vector by) { return slope(at) * by; };
    each(given[0].size(), static_cast<decltype(x)>(given.data[2]), function, x, out);
  });
  return 0;
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

// Sums [count, width] over rows, fp32, of up to kBlocks blocks of them, each in its rows' order; the blocks are added
// in theirs, whatever the number of threads. add(block's first and last row, its sums [count, width]).
template <class Add>
std::vector<float> sums_of_blocks(int64_t rows, int64_t count, int64_t width, Add add) {
  const int64_t block = std::max((rows + kBlocks - 1) / kBlocks, kLeast), blocks = (rows + block - 1) / block;
  std::vector<float> sums(blocks * count * width);
#pragma omp parallel for if (rows * width > kAlone)
  for (int64_t i = 0; i < blocks; ++i) add(i * block, std::min(rows, (i + 1) * block), &sums[i * count * width]);
  for (int64_t i = 1; i < blocks; ++i)
    for (int64_t j = 0; j < count * width; ++j) sums[j] += sums[i * count * width + j];
  return sums;
}

// The gradient of a row's norm by x; adds what the row adds to those by the weight, and by the bias [width] if there is
// one.
template <bool centred, class X, class W>
void norm_slopes_row(const X *x, const W *weight, const X *out, int64_t width, float epsilon, X *by_x,
                     float *by_weight) {
  const float mean = centred ? total(width, [=](int64_t i, auto kind) { return numbers(x, i, kind); }) / width : 0;
  const float squares = total(width, [=](int64_t i, auto kind) {
    const auto away = numbers(x, i, kind) - mean;
    return away * away;
  });
  const float scale = 1 / std::sqrt(squares / width + epsilon);
  const auto slope = [=](int64_t i, auto kind) { return numbers(out, i, kind) * numbers(weight, i, kind); };
  const float along = total(width, [=](int64_t i, auto kind) {
    return slope(i, kind) * (numbers(x, i, kind) - mean) * scale;
  }) / width;
  const float level = centred ? total(width, slope) / width : 0;
  for (int64_t i = 0; i < width; ++i) {
    const float normal = (widen(x[i]) - mean) * scale, by_out = widen(out[i]);
    by_weight[i] += by_out * normal;
    if (centred) by_weight[width + i] += by_out;
    narrow((by_out * widen(weight[i]) - level - normal * along) * scale, by_x + i);
  }
}

// x, weight, epsilon and the gradient by what the norm gave → the gradients by x, by the weight and, of a centred one,
// by the bias.
template <bool centred>
int norm_slopes(const Given &given) {
  return status([&] {
    const Tensor x = given[0], weight = given[1];
    const int64_t width = x.last();
    const float epsilon = *static_cast<float *>(given.data[2]);
    visit_activations(x, [&](auto *from) {
      visit_weights(weight, [&](auto *by) {
        const auto *out = static_cast<decltype(from)>(given.data[3]);
        auto *by_x = static_cast<decltype(from)>(given.data[4]);
        const auto add = [=](int64_t first, int64_t last, float *sums) {
          for (int64_t at = first * width; at < last * width; at += width)
            norm_slopes_row<centred>(from + at, by, out + at, width, epsilon, by_x + at, sums);
        };
        const auto sums = sums_of_blocks(x.size() / width, centred ? 2 : 1, width, add);
        for (int64_t i = 0; i < (centred ? 2 : 1) * width; ++i)
          narrow(sums[i], static_cast<decltype(by)>(given.data[5 + i / width]) + i % width);
      });
    });
  });
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

// x [..., width], fp32 or fp16 → y [width]: the sums over all rows.
OPERATOR(column_sums) {
  const Given given{count, data, dimensions, shapes, types};
  const int64_t width = given[0].last();
  return status([&] {
    visit_activations(given[0], [&](auto *x) {
      const auto add = [=](int64_t first, int64_t last, float *sums) {
        for (int64_t row = first; row < last; ++row)
          for (int64_t i = 0; i < width; ++i) sums[i] += widen(x[row * width + i]);
      };
      const auto sums = sums_of_blocks(given[0].size() / width, 1, width, add);
      for (int64_t i = 0; i < width; ++i) narrow(sums[i], static_cast<decltype(x)>(given.data[1]) + i);
    });
  });
}

// x and the gradient by what the function gave → the gradient by x, fp32 or fp16.
OPERATOR(gelu_gradient) { return slopes({count, data, dimensions, shapes, types}, erf_gelu_slope); }

OPERATOR(gelu_tanh_gradient) { return slopes({count, data, dimensions, shapes, types}, tanh_gelu_slope); }

// gate, up and the gradient by silu(gate) · up → the gradients by gate and up.
OPERATOR(gated_silu_gradient) {
  const Given given{count, data, dimensions, shapes, types};
  visit_activations(given[0], [&](auto *gate) {
    using Numbers = decltype(gate);
    const auto *up = static_cast<Numbers>(data[1]), *out = static_cast<Numbers>(data[2]);
    auto *by_gate = static_cast<Numbers>(data[3]), *by_up = static_cast<Numbers>(data[4]);
    const auto function = [](Vector g, Vector u, Vector by) {
      const Vector part = sigmoid(g);
      return std::pair(by * u * part * (1.0f + g * (1.0f - part)), by * g * part);
    };
    const auto use = [=](const auto &found, int64_t i, bool all) {
      put(found.first, all, by_gate + i), put(found.second, all, by_up + i);
    };
    visit_all(given[0].size(), function, use, gate, up, out);
  });
  return 0;
}

// x [..., width], weight [width], epsilon fp32 [1] and the gradient by what the norm gave → the gradients by x and
// weight.
OPERATOR(rms_norm_gradient) { return norm_slopes<false>({count, data, dimensions, shapes, types}); }

// The same → the gradients by x, weight and bias.
OPERATOR(layer_norm_gradient) { return norm_slopes<true>({count, data, dimensions, shapes, types}); }
