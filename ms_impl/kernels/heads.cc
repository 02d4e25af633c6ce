// Rows of projections to heads and back: [B, T, C] → [B, heads, T, width], rotated on the way, and [B, T, heads · width].
// What MindSpore's Split, Transpose and some more operators do, with the same bits. Parity: tests/kernels/test_operators.py.
#include <algorithm>

#include "attention.h"
#include "operator.h"

namespace {

constexpr int64_t kFew = 1 << 17;  // numbers up to which one thread has done before another is awake

// Heads of [batch, heads, length, width].
struct Heads {
  int64_t batch, heads, length, width;

  template <class Do>
  void each(Do one) const {
#pragma omp parallel for collapse(2) if (batch * heads * length * width > kFew)
    for (int64_t row = 0; row < batch; ++row)
      for (int64_t at = 0; at < length; ++at)
        for (int64_t head = 0; head < heads; ++head)
          one(row * length + at, head, ((row * heads + head) * length + at) * width);
  }
};

}  // namespace

// x [B, T, C] fp32 or fp16, columns int32 [heads, width]: which numbers of a row of x make each head, the first of so many
// beside each other; perhaps cos and sin fp32 [B or 1, 1, T, width] → y [B, heads, T, width] of x's type.
OPERATOR(to_heads) {
  const Given given{count, data, dimensions, shapes, types};
  const Tensor x = given[0], columns = given[1];
  const Heads all{x.shape[0], columns.shape[0], x.shape[1], columns.shape[1]};
  const int32_t *first = static_cast<int32_t *>(columns.data);
  visit_activations(x, [&](auto *from) {
    auto *to = static_cast<decltype(from)>(given[count - 1].data);
    const auto head_of = [&](int64_t row, int64_t head) { return from + row * x.last() + first[head * all.width]; };
    if (count == 3) return all.each([&](int64_t row, int64_t head, int64_t at) {
      std::copy_n(head_of(row, head), all.width, to + at);
    });
    const float *cos = static_cast<float *>(given[2].data), *sin = static_cast<float *>(given[3].data);
    const int64_t turns = given[2].shape[0] * all.length;
    all.each([&](int64_t row, int64_t head, int64_t at) {
      const int64_t turn = row % turns * all.width;
      rotate(head_of(row, head), cos + turn, sin + turn, all.width, 1, to + at);
    });
  });
  return 0;
}

// x [B, heads, T, width] fp32 or fp16 → y [B, T, heads · width].
OPERATOR(from_heads) {
  const Given given{count, data, dimensions, shapes, types};
  const int64_t *of = shapes[0];
  const Heads all{of[0], of[1], of[2], of[3]};
  visit_activations(given[0], [&](auto *from) {
    auto *to = static_cast<decltype(from)>(given[1].data);
    all.each([&](int64_t row, int64_t head, int64_t at) {
      std::copy_n(from + at, all.width, to + (row * all.heads + head) * all.width);
    });
  });
  return 0;
}
