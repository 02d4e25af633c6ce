// y = x · wᵀ + bias, for many rows of x, with weights as they lie in memory: fp32, fp16 or bf16; sums are fp32.
//
// Each panel of w is widened once for all rows. A number of y is summed in the order of the depth, one piece of kDepth
// after the other, whatever rows stand beside its own and however many threads there are. Parity:
// tests/kernels/test_linear.py.
#include <omp.h>

#include <memory>
#include <vector>

#include "operator.h"
#include "panels.h"

namespace {

constexpr int64_t kRows = 84 * kTileRows;     // of x that are packed at once
constexpr int64_t kBlock = 12;                // panels of x that stay in the second cache, a piece of the depth
constexpr int64_t kWidest = 8;                // panels of w that are packed at once
constexpr int64_t kTurns = 4;                 // that each thread should have at least, for their ends to meet

struct Product {
  Tensor x, w, y;     // [rows, depth], [columns, depth], [rows, columns]
  const float *bias;  // [columns], or null
  int64_t rows, columns, depth;

  void compute() {
    const int64_t held = std::min(panels(rows, kTileRows) * kTileRows, kRows), threads = omp_get_max_threads();
    const int64_t all = panels(columns, kTileColumns), wide = std::min(panels(all, kTurns * threads), kWidest);
    const Room packed = room(held * depth);
    std::vector<Room> rooms;
    for (int64_t i = 0; i < threads; ++i) rooms.push_back(room(wide * kTileColumns * (std::min(kDepth, depth) + held)));
    for (int64_t first = 0; first < rows; first += kRows) {
      const int64_t count = std::min(rows - first, kRows);
#pragma omp parallel
      {
#pragma omp for
        for (int64_t row = 0; row < count; row += kTileRows) pack(first + row, count - row, packed.get() + row * depth);
#pragma omp for schedule(dynamic)
        for (int64_t panel = 0; panel < all; panel += wide)
          group(packed.get(), first, count, panel, std::min(wide, all - panel), rooms[omp_get_thread_num()].get());
      }
    }
  }

  void pack(int64_t row, int64_t count, float *panel) const {
    visit_activations(x, [&](auto *from) {
      pack_rows(from + row * depth, std::min<int64_t>(count, kTileRows), depth, depth, panel);
    });
  }

  // `wide` panels of columns, from `panel` on, of `count` rows; `space` holds them and their sums.
  void group(const float *packed, int64_t first, int64_t count, int64_t panel, int64_t wide, float *space) const {
    const int64_t row_panels = panels(count, kTileRows);
    float *sums = space, *weights = space + wide * row_panels * kTileSize;
    std::fill_n(sums, wide * row_panels * kTileSize, 0.0f);
    for (int64_t k = 0; k < depth; k += kDepth) {
      const int64_t deep = std::min(kDepth, depth - k);
      visit_weights(w, [&](auto *from) {
        for (int64_t c = 0, column = panel * kTileColumns; c < wide; ++c, column += kTileColumns)
          pack_columns(from + column * depth + k, std::min<int64_t>(columns - column, kTileColumns), depth, deep,
                       weights + c * kTileColumns * deep);
      });
      for (int64_t block = 0; block < row_panels; block += kBlock)
        for (int64_t c = 0; c < wide; ++c)
          for (int64_t r = block; r < std::min(block + kBlock, row_panels); ++r)
            multiply(packed + (r * depth + k) * kTileRows, weights + c * kTileColumns * deep, deep,
                     sums + (c * row_panels + r) * kTileSize);
    }
    visit_activations(y, [&](auto *to) {
      for (int64_t row = 0; row < count; ++row)
        for (int64_t c = 0, column = panel * kTileColumns; c < wide; ++c, column += kTileColumns)
          finish(sums + (c * row_panels + row / kTileRows) * kTileSize + row % kTileRows * kTileColumns, column,
                 to + (first + row) * columns + column);
    });
  }

  // A tile's row of sums, of columns from `column` on, into y.
  template <class Y>
  void finish(const float *sums, int64_t column, Y *to) const {
    const int64_t count = std::min<int64_t>(columns - column, kTileColumns);
    if (bias)
      for (int64_t i = 0; i < count; ++i) narrow(sums[i] + bias[column + i], to + i);
    else
      for (int64_t i = 0; i < count; ++i) narrow(sums[i], to + i);
  }
};

std::vector<float> widened(const Tensor &tensor) {
  std::vector<float> numbers(tensor.size());
  visit_weights(tensor, [&](auto *from) {
    for (size_t i = 0; i < numbers.size(); ++i) numbers[i] = widen(from[i]);
  });
  return numbers;
}

}  // namespace

// x [..., depth] fp32 or fp16, w [columns, depth], perhaps bias [columns] → y [..., columns] of x's type.
OPERATOR(linear) {
  const Given given{count, data, dimensions, shapes, types};
  const Tensor x = given[0], w = given[1], y = given[count - 1];
  return status([&] {
    const std::vector<float> bias = count == 4 ? widened(given[2]) : std::vector<float>();
    Product{x, w, y, count == 4 ? bias.data() : nullptr, x.size() / x.last(), w.shape[0], x.last()}.compute();
  });
}
