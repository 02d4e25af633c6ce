// Cross entropy of rows of logits and its gradient in one go. Parity: tests/cells/test_linear_cross_entropy.py.
#include <algorithm>
#include <cmath>

#include "operator.h"

namespace {

// slopes [count] = softmax(logits), less 1 at the target; returns log Σ e^logits - the target's logit.
float row(const float *logits, int64_t count, int64_t target, float *slopes) {
  Vector most = Vector{} + logits[0], sums = {};
  int64_t i = 0;
  for (; i + kLanes <= count; i += kLanes) most = load(logits + i) > most ? load(logits + i) : most;
  float highest = most[0], rest = 0;
  for (int lane = 1; lane < kLanes; ++lane) highest = std::max(highest, most[lane]);
  for (; i < count; ++i) highest = std::max(highest, logits[i]);
  for (i = 0; i + kLanes <= count; i += kLanes) {
    const Vector power = exponential(load(logits + i) - highest);
    sums += power;
    store(power, slopes + i);
  }
  for (; i < count; ++i) rest += slopes[i] = std::exp(logits[i] - highest);
  const float total = sum(sums) + rest, factor = 1 / total;
  for (i = 0; i + kLanes <= count; i += kLanes) store(load(slopes + i) * factor, slopes + i);
  for (; i < count; ++i) slopes[i] *= factor;
  slopes[target] -= 1;
  return std::log(total) + highest - logits[target];
}

}  // namespace

// logits fp32 [rows, count], targets int32 [rows] → each row's gradient of its cross entropy by the logits, and that
// [rows].
OPERATOR(cross_entropy) {
  const Given given{count, data, dimensions, shapes, types};
  const int64_t rows = given[0].shape[0], width = given[0].last();
  const auto *logits = static_cast<float *>(data[0]);
  const auto *targets = static_cast<int32_t *>(data[1]);
  auto *slopes = static_cast<float *>(data[2]), *losses = static_cast<float *>(data[3]);
#pragma omp parallel for
  for (int64_t i = 0; i < rows; ++i) losses[i] = row(logits + i * width, width, targets[i], slopes + i * width);
  return 0;
}
