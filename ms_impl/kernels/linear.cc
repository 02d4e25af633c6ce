// y = x · wᵀ + bias, or x · w, or xᵀ · w, for many rows, with weights as they lie in memory: fp32, fp16 or bf16.
// Sums are fp32.
//
// Each panel of w is widened once for all rows. A number of y is summed in the order of the depth, one piece of kDepth
// after the other, whatever rows stand beside its own and however many threads there are. Parity:
// tests/kernels/test_operators.py, test_gradients.py.
#include <omp.h>

#include <memory>
#include <vector>

#include "operator.h"
#include "panels.h"
#include "tiles.h"

namespace {

constexpr int64_t kRows = 84 * kTileRows;     // of x that are packed at once
constexpr int64_t kBlock = 12;                // panels of x that stay in the second cache, a piece of the depth
constexpr int64_t kWidest = 8;                // panels of w that are packed at once
constexpr int64_t kTurns = 4;                 // that each thread should have at least, for their ends to meet
constexpr int64_t kFewTurns = 2;              // the same of tiles, which read all rows of x once a turn
constexpr int64_t kNear = 5 << 18;            // bytes of x that stay in the second cache: turns cost nothing then

// How a matrix lies: [rows or columns, depth], or [depth, rows or columns].
enum class Lying { kDepthLast, kDepthFirst };

// `Per` of its numbers stand in the place of one; a piece of the depth, `Per · kDepth` numbers, has kDepth such slots.
template <int Per, Lying w_lies, Lying x_lies>
struct Product {
  static_assert(Per == kSingle || (w_lies == Lying::kDepthLast && x_lies == Lying::kDepthLast));
  Tensor x, w, y;     // of rows and of columns as they are said to lie, [rows, columns]
  const float *bias;  // [columns], or null
  int64_t rows, columns, depth;
  const int64_t slots = panels(depth, Per);

  void compute() {
    const int64_t held = std::min(panels(rows, kTileRows) * kTileRows, kRows), threads = omp_get_max_threads();
    const int64_t all = panels(columns, kTileColumns), wide = std::min(panels(all, kTurns * threads), kWidest);
    const Room packed = room(held * slots);
    std::vector<Room> rooms;
    for (int64_t i = 0; i < threads; ++i) rooms.push_back(room(wide * kTileColumns * (std::min(kDepth, slots) + held)));
    for (int64_t first = 0; first < rows; first += kRows) {
      const int64_t count = std::min(rows - first, kRows);
#pragma omp parallel
      {
#pragma omp for
        for (int64_t row = 0; row < count; row += kTileRows) pack(first + row, count - row, packed.get() + row * slots);
#pragma omp for schedule(dynamic)
        for (int64_t panel = 0; panel < all; panel += wide)
          group(packed.get(), first, count, panel, std::min(wide, all - panel), rooms[omp_get_thread_num()].get());
      }
    }
  }

  void pack(int64_t row, int64_t count, float *panel) const {
    visit_activations(x, [&](auto *from) {
      if constexpr (x_lies == Lying::kDepthFirst)
        copy_rows(from + row, std::min<int64_t>(count, kTileRows), rows, depth, panel);
      else
        pack_rows<Per>(from + row * depth, std::min<int64_t>(count, kTileRows), depth, depth, panel);
    });
  }

  // `wide` panels of columns, from `panel` on, of `count` rows; `space` holds them and their sums.
  void group(const float *packed, int64_t first, int64_t count, int64_t panel, int64_t wide, float *space) const {
    const int64_t row_panels = panels(count, kTileRows);
    float *sums = space, *weights = space + wide * row_panels * kTileSize;
    std::fill_n(sums, wide * row_panels * kTileSize, 0.0f);
    for (int64_t k = 0; k < slots; k += kDepth) {
      const int64_t deep = std::min(kDepth, slots - k);
      visit_weights(w, [&](auto *from) {
        for (int64_t c = 0, column = panel * kTileColumns; c < wide; ++c, column += kTileColumns) {
          const int64_t there = std::min<int64_t>(columns - column, kTileColumns);
          float *to = weights + c * kTileColumns * deep;
          if constexpr (w_lies == Lying::kDepthFirst)
            copy_columns(from + k * columns + column, there, columns, deep, to);
          else
            pack_columns<Per>(from + column * depth + k * Per, there, depth, std::min(deep * Per, depth - k * Per), to);
        }
      });
      for (int64_t block = 0; block < row_panels; block += kBlock)
        for (int64_t c = 0; c < wide; ++c)
          for (int64_t r = block; r < std::min(block + kBlock, row_panels); ++r)
            multiply<Per>(packed + (r * slots + k) * kTileRows, weights + c * kTileColumns * deep, deep,
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

#ifdef KERNEL_TILES
// The same by tiles, from at most so many pieces of each number. Sums lie in tiles [columns, rows].
template <int Most, Lying w_lies, Lying x_lies>
struct TileProduct {
  Tensor x, w, y;
  const float *bias;
  int64_t rows, columns, depth;
  bool turned = false;  // whether y is [columns, rows]

  void compute() {
    visit_activations(x, [&](auto *from) { visit_weights(w, [&](auto *weights) { compute(from, weights); }); });
  }

  template <class X, class W>
  void compute(const X *from, const W *weights) {
    const int64_t threads = omp_get_max_threads(), steps = panels(depth, kStep), pairs = panels(columns, kPair);
    const int64_t held = std::min(panels(rows, kPair) * kPair, kHeld);
    const int64_t row_bytes = steps * kPieces<X, Most> * 1024;  // of 16 rows
    const bool near = held / kSide * row_bytes <= kNear;
    // Pairs of tiles of columns.
    const int64_t wide = near ? 2 : std::min(panels(pairs, kFewTurns * threads), kGroup / kPair);
    const Room cut = room(held / kSide * row_bytes / sizeof(float));
    std::vector<Room> rooms;
    for (int64_t i = 0; i < threads; ++i)
      rooms.push_back(room(wide * kPair * (held + kPieces<W, Most> * kChunk<Most> / 2)));
    for (int64_t first = 0; first < rows; first += kHeld) {
      const int64_t count = std::min(rows - first, kHeld), row_tiles = panels(count, kPair) * 2;
      char *cuts = reinterpret_cast<char *>(cut.get());
#pragma omp parallel
      {
        const Tiles tiles;
#pragma omp for
        for (int64_t tile = 0; tile < row_tiles; ++tile) {
          const int64_t row = first + tile * kSide, there = std::clamp<int64_t>(count - tile * kSide, 0, kSide);
          if constexpr (x_lies == Lying::kDepthFirst)
            cut_pairs<kPieces<X, Most>>(from + row, there, rows, depth, cuts + tile * row_bytes);
          else
            cut_rows<kPieces<X, Most>>(from + row * depth, there, depth, depth, cuts + tile * row_bytes);
        }
#pragma omp for schedule(dynamic)
        for (int64_t pair = 0; pair < pairs; pair += wide) {
          float *sums = rooms[omp_get_thread_num()].get();
          group<X>(weights, cuts, row_bytes, row_tiles, pair * kPair, std::min(wide, pairs - pair) * 2, sums);
          put(sums, from, first, count, row_tiles, pair * kPair, std::min(wide, pairs - pair) * 2);
        }
      }
    }
  }

  // Sums of `wide` tiles of columns, from `column` on; behind them in memory these columns are cut.
  template <class X, class W>
  void group(const W *weights, const char *cuts, int64_t row_bytes, int64_t row_tiles, int64_t column, int64_t wide,
             float *sums) const {
    constexpr int64_t kColumnBytes = kChunk<Most> / kStep * kPieces<W, Most> * 1024;
    auto *cut = reinterpret_cast<char *>(sums + wide * row_tiles * kTile);
    for (int64_t k = 0; k < depth; k += kChunk<Most>) {
      const int64_t deep = std::min(kChunk<Most>, depth - k), steps = panels(deep, kStep);
      for (int64_t c = 0; c < wide; ++c) {
        const int64_t first = column + c * kSide, there = std::clamp<int64_t>(columns - first, 0, kSide);
        if constexpr (w_lies == Lying::kDepthFirst) {
          for (int64_t step = 0; step < steps; ++step)
            cut_transposed<kPieces<W, Most>>(weights + (k + step * kStep) * columns + first, deep - step * kStep, there,
                                             columns, cut + c * kColumnBytes + step * kPieces<W, Most> * 1024);
        } else {
          const W *at = weights + first * depth + k;
          const W *next = c + 1 < wide ? at + kSide * depth : weights + column * depth + k + kChunk<Most>;
          cut_columns<kPieces<W, Most>>(at, next, there, depth, deep, cut + c * kColumnBytes);
        }
      }
      const char *rows_cut = cuts + k / kStep * kPieces<X, Most> * 1024;
      for (int64_t c = 0; c < wide; c += 2)
        for (int64_t r = 0; r < row_tiles; r += 2)
          multiply_tiles<kPieces<W, Most>, kPieces<X, Most>>(
              cut + c * kColumnBytes, kColumnBytes, rows_cut + r * row_bytes, row_bytes, steps, k == 0,
              sums + (c * row_tiles + r) * kTile, {row_tiles * kTile, kTile, kSide});
    }
  }

  // Sums of one row of x, of columns from `column` on.
  template <class Y>
  void put_row(Vector sums, int64_t column, Y *to) const {
    if (columns - column >= kSide) return narrow_all(bias ? sums + load(bias + column) : sums, to);
    for (int64_t j = 0; j < columns - column; ++j) narrow(sums[j] + (bias ? bias[column + j] : 0), to + j);
  }

  // A tile of sums, from a column and a row on.
  template <class Y>
  void put_turned(const float *sums, int64_t column, int64_t row, Y *to) const {
    for (int64_t i = 0; i < std::min(kSide, columns - column); ++i) {
      const Vector sum = load(sums + i * kSide);
      Y *at = to + (column + i) * rows + row;
      if (rows - row >= kSide)
        narrow_all(sum, at);
      else
        for (int64_t j = 0; j < rows - row; ++j) narrow(sum[j], at + j);
    }
  }

  template <class Y>
  void put(const float *sums, const Y *, int64_t first, int64_t count, int64_t row_tiles, int64_t column,
           int64_t wide) const {
    auto *to = static_cast<Y *>(y.data);
    for (int64_t r = 0; r < row_tiles; ++r)
      for (int64_t c = 0; c < wide; ++c) {
        if (turned) {
          put_turned(sums + (c * row_tiles + r) * kTile, column + c * kSide, first + r * kSide, to);
          continue;
        }
        Vector tile[kLanes];  // of which each row is one of x's after this
        for (int64_t i = 0; i < kSide; ++i) tile[i] = load(sums + (c * row_tiles + r) * kTile + i * kLanes);
        transpose(tile);
        for (int64_t i = 0; i < std::min(kSide, count - r * kSide); ++i)
          put_row(tile[i], column + c * kSide, to + (first + r * kSide + i) * columns + column + c * kSide);
      }
  }
};
#endif

std::vector<float> widened(const Tensor &tensor) {
  std::vector<float> numbers(tensor.size());
  visit_weights(tensor, [&](auto *from) {
    for (size_t i = 0; i < numbers.size(); ++i) numbers[i] = widen(from[i]);
  });
  return numbers;
}

// Whether products are by tiles here.
bool by_tiles() {
#ifdef KERNEL_TILES
  return tiles_allowed();
#else
  return false;
#endif
}

#ifdef __AVX512BF16__
constexpr int kRounded = kPaired;
#else
constexpr int kRounded = kSingle;  // Python does not ask for it: see multiplies_bf16
#endif

template <int Most, int Per, Lying w_lies = Lying::kDepthLast>
int linear_of(const Tensor &x, const Tensor &w, const Tensor *bias, const Tensor &y) {
  return status([&] {
    const std::vector<float> numbers = bias ? widened(*bias) : std::vector<float>();
    const float *added = bias ? numbers.data() : nullptr;
    const int64_t rows = x.size() / x.last(), columns = y.last(), depth = x.last();
#ifdef KERNEL_TILES
    if (by_tiles()) return TileProduct<Most, w_lies, Lying::kDepthLast>{x, w, y, added, rows, columns, depth}.compute();
#endif
    Product<Per, w_lies, Lying::kDepthLast>{x, w, y, added, rows, columns, depth}.compute();
  });
}

template <int Most, int Per>
int linear_of(const Given &given) {
  const Tensor bias = given[2];
  return linear_of<Most, Per>(given[0], given[1], given.count == 4 ? &bias : nullptr, given[given.count - 1]);
}

// y [n, m] = xᵀ · w, where both have the depth first: the sums over all rows. By tiles the narrower one is held.
void sum_products(const Tensor &x, const Tensor &w, const Tensor &y) {
  constexpr Lying kFirst = Lying::kDepthFirst;
  const int64_t rows = x.last(), columns = w.last(), depth = x.size() / rows;
#ifdef KERNEL_TILES
  if (by_tiles() && columns < rows)
    return TileProduct<3, kFirst, kFirst>{w, x, y, nullptr, columns, rows, depth, true}.compute();
  if (by_tiles()) return TileProduct<3, kFirst, kFirst>{x, w, y, nullptr, rows, columns, depth}.compute();
#endif
  Product<kSingle, kFirst, kFirst>{x, w, y, nullptr, rows, columns, depth}.compute();
}

// Some rows of a weight or bias, from the first of `rows` [count] on.
struct RowsOf {
  int64_t shape[2];
  Tensor tensor;
  RowsOf(const Tensor &whole, const Tensor &rows) : shape{rows.size(), whole.last()}, tensor(whole) {
    const int64_t first = *static_cast<int32_t *>(rows.data), width = whole.dimensions == 1 ? 1 : whole.last();
    visit_weights(whole, [&](auto *numbers) { tensor.data = numbers + first * width; });
    tensor.shape = shape;
  }
};

template <int Most, int Per>
int linear_rows_of(const Given &given) {
  const RowsOf weight(given[1], given[3]), bias(given[2], given[3]);
  return linear_of<Most, Per>(given[0], weight.tensor, &bias.tensor, given[4]);
}

}  // namespace

// x [..., depth] fp32 or fp16, w [columns, depth] (or more dimensions that make the depth), perhaps bias [columns]
// → y [..., columns] of x's type.
OPERATOR(linear) { return linear_of<3, kSingle>({count, data, dimensions, shapes, types}); }

// The same of x and w rounded to bf16, where the processor multiplies it.
OPERATOR(linear_of_bf16) { return linear_of<1, kRounded>({count, data, dimensions, shapes, types}); }

// x, w, bias and rows int32 [n], which follow each other → y [..., n]: of these rows of w and bias alone.
OPERATOR(linear_rows) { return linear_rows_of<3, kSingle>({count, data, dimensions, shapes, types}); }

OPERATOR(linear_rows_of_bf16) { return linear_rows_of<1, kRounded>({count, data, dimensions, shapes, types}); }

// x [..., depth] fp32 or fp16, w [depth or more, columns] → y [..., columns] of x's type: x · w.
OPERATOR(weighted_rows) {
  const Given given{count, data, dimensions, shapes, types};
  return linear_of<3, kSingle, Lying::kDepthFirst>(given[0], given[1], nullptr, given[2]);
}

// x [..., n] and w [..., m], fp32 or fp16, of as many rows → y [n, m] of x's type: xᵀ · w.
OPERATOR(summed_products) {
  const Given given{count, data, dimensions, shapes, types};
  return status([&] { sum_products(given[0], given[1], given[2]); });
}

extern "C" bool multiplies_bf16() { return by_tiles() || kRounded == kPaired; }
