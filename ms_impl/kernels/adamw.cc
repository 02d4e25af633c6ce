// The passes of an optimizer over whole parameters: AdamW's step, and the sum of a gradient's squares. All fp32.
//
// A step rounds as ms_impl/train/adamw.py does by plain operators, so that both have the same bits. Parity:
// tests/train/test_adamw.py, test_gradient_norm.py.
#include <algorithm>
#include <vector>

#include "operator.h"

namespace {

constexpr int64_t kPiece = 1 << 14;  // numbers that a thread takes at a time

// Where a step's factors stand: see `adamw_operator`.
enum Factor { kShrink, kRate, kLeast, kGain, kKeptSquare, kSquareGain };

template <class Number>
struct Step {
  Number parameter, mean, square;

  void take(const Number &gradient, const float *by) {
    mean = mean + (gradient - mean) * by[kGain];
    square = square * by[kKeptSquare] + gradient * gradient * by[kSquareGain];
    parameter = parameter * by[kShrink] - by[kRate] * (mean / (square_root(square) + by[kLeast]));
  }
};

// piece(first, last) of `count` numbers, by all threads.
template <class Piece>
void pieces(int64_t count, Piece piece) {
#pragma omp parallel for if (count > kPiece)
  for (int64_t first = 0; first < count; first += kPiece) piece(first, std::min(count, first + kPiece));
}

}  // namespace

// parameter, exp_avg, exp_avg_sq, which are written to, and gradient, of one shape; factors [6] → [1] that says
// nothing.
OPERATOR(adamw) {
  const Given given{count, data, dimensions, shapes, types};
  auto *parameter = static_cast<float *>(data[0]), *mean = static_cast<float *>(data[1]);
  auto *square = static_cast<float *>(data[2]), *gradient = static_cast<float *>(data[3]);
  auto *factors = static_cast<float *>(data[4]);
  pieces(given[0].size(), [=](int64_t i, int64_t last) {
    for (; i + kLanes <= last; i += kLanes) {
      Step<Vector> step{load(parameter + i), load(mean + i), load(square + i)};
      step.take(load(gradient + i), factors);
      store(step.parameter, parameter + i), store(step.mean, mean + i), store(step.square, square + i);
    }
    for (; i < last; ++i) {
      Step<float> step{parameter[i], mean[i], square[i]};
      step.take(gradient[i], factors);
      parameter[i] = step.parameter, mean[i] = step.mean, square[i] = step.square;
    }
  });
  *static_cast<float *>(data[5]) = 0;
  return 0;
}

// x of any shape → [1]: Σ x², the sums of pieces one after the other, however many threads there are.
OPERATOR(squares) {
  const Given given{count, data, dimensions, shapes, types};
  const auto *x = static_cast<float *>(data[0]);
  const int64_t size = given[0].size();
  return status([&] {
    std::vector<float> sums((size + kPiece - 1) / kPiece);
    pieces(size, [&, x](int64_t first, int64_t last) {
      Vector squares = {};
      int64_t i = first;
      for (; i + kLanes <= last; i += kLanes) squares += load(x + i) * load(x + i);
      float rest = 0;
      for (; i < last; ++i) rest += x[i] * x[i];
      sums[first / kPiece] = sum(squares) + rest;
    });
    float total = 0;
    for (float each : sums) total += each;
    *static_cast<float *>(data[1]) = total;
  });
}
