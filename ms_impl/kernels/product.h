// Products of few vectors with a large matrix that is read from memory once.
#pragma once

#include <algorithm>
#include <memory>
#include <type_traits>

#include "memory.h"
#include "panels.h"
#include "product_tiles.h"

constexpr int kSums = 2;  // vectors that each dot product is summed in

// Fetches the next window for what is read in order, a line for each.
inline void prefetch(const void *from) {
  const auto at = reinterpret_cast<uintptr_t>(from);
  __builtin_prefetch(reinterpret_cast<const void *>(side_by_side(at) + kWindow), 0, 2);
}

// Dot products of R rows of w [R, n] with B vectors x [B, n].
// Each is summed in the same order whatever R and B are: a row of the batch does not feel its neighbours.
template <int R, int B, class W>
inline void dots(const W *w, const float *x, int64_t n, float (&y)[R][B]) {
  Vector sums[kSums][R][B] = {};
  const auto add = [&](int64_t i, int u) {
    for (int r = 0; r < R; ++r) {
      const Vector weights = load(w + r * n + i);
      for (int b = 0; b < B; ++b) sums[u][r][b] = multiply_add(weights, load(x + b * n + i), sums[u][r][b]);
    }
  };
  int64_t i = 0;
  for (; i + kSums * kLanes <= n; i += kSums * kLanes)
    for (int u = 0; u < kSums; ++u) {
      if (u * kLanes * sizeof(W) % kCacheLine == 0)
        for (int r = 0; r < R; ++r) prefetch(w + r * n + i + u * kLanes);
      add(i + u * kLanes, u);
    }
  for (; i + kLanes <= n; i += kLanes) add(i, 0);
  for (int r = 0; r < R; ++r)
    for (int b = 0; b < B; ++b) {
      Vector total = sums[0][r][b];
      for (int u = 1; u < kSums; ++u) total += sums[u][r][b];
      y[r][b] = sum(total);
      for (int64_t j = i; j < n; ++j) y[r][b] = multiply_add(widen(w[r * n + j]), x[b * n + j], y[r][b]);
    }
}

// put(row of w, row of x, dot product) for R rows of w with all rows of x, as many at once as registers hold.
template <int R, class W, class Put>
inline void rows(const W *w, int64_t first, const float *x, int64_t batch, int64_t n, Put put) {
  const auto block = [&](int64_t from, auto width) {
    float y[R][width.value];
    dots<R, width.value>(w + first * n, x + from * n, n, y);
    for (int r = 0; r < R; ++r)
      for (int b = 0; b < width.value; ++b) put(first + r, from + b, y[r][b]);
  };
  int64_t b = 0;
  for (; b + 4 <= batch; b += 4) block(b, std::integral_constant<int, 4>());
  for (; b + 2 <= batch; b += 2) block(b, std::integral_constant<int, 2>());
  for (; b < batch; ++b) block(b, std::integral_constant<int, 1>());
}

// put(row of w, row of x, dot product) for rows [first, last) of w [out, n] with all rows of x [batch, n].
// One or two vectors are bound by memory, and read one row after the other; more are bound by arithmetic, and two rows
// share what is loaded of x.
template <class W, class Put>
inline void product(const W *w, int64_t first, int64_t last, const float *x, int64_t batch, int64_t n, Put put) {
  for (; batch > 2 && first + 2 <= last; first += 2) rows<2>(w, first, x, batch, n, put);
  for (; first < last; ++first) rows<1>(w, first, x, batch, n, put);
}

// The same for one x and large matrices, one after the other: faster, with the same bits. Of three vectors and more,
// where arithmetic is the limit, a block of sums stays in registers, and what is multiplied in turn lies together in
// memory: the rows of x are laid side by side, vector by vector.
class FactorByVectors {
 public:
  // Room for up to `batch` vectors of up to `longest` numbers, which are `rounded` to bf16 or not.
  FactorByVectors(int64_t batch, int64_t longest, bool rounded)
      : batch_(batch), laid_(room(many() ? batch * longest : 1)),
        sums_(room(many() ? batch * kSums * kHigh * kLanes : 1)), rounded_(room(rounded ? batch * longest : 1)),
        rounds_(rounded) {}

  // What is multiplied from now on: x [batch, n], which must stay as it is.
  void set(const float *x, int64_t n) {
    x_ = rounds_ ? as_bf16(x, batch_ * n) : x, n_ = n, whole_ = n / kPair * kPair;
    for (int64_t i = 0; many() && i < whole_; i += kLanes)
      for (int64_t b = 0; b < batch_; ++b) store(load(x_ + b * n + i), laid_.get() + i * batch_ + b * kLanes);
  }

  // put(row of w, row of x, dot product) for rows [first, last) of w [·, n].
  template <class W, class Put>
  void times(const W *w, int64_t first, int64_t last, Put put) const {
    const bool dense = batch_ > (sizeof(W) == sizeof(float) ? 2 : 4);  // 16 bits: still bound by memory
    for (; dense && first + kHigh <= last; first += kHigh) block(w + first * n_, first, put);
    product(w, first, last, x_, batch_, n_, put);
  }

 private:
  // Rows of w by rows of x whose sums are in registers: 24 of AVX-512's 32, 8 of 16.
  static constexpr int kHigh = kLanes == 16 ? 6 : 2, kWide = 4;
  static constexpr int64_t kPiece = 1024;  // numbers of each row that are multiplied in one go, for caches to hold them
  static constexpr int64_t kPair = kSums * kLanes;

  const float *as_bf16(const float *x, int64_t count) const {
    for (int64_t i = 0; i < count; ++i) {
      BFloat16 rounded;
      narrow(x[i], &rounded);
      rounded_[i] = widen(rounded);
    }
    return rounded_.get();
  }

  bool many() const { return batch_ > 2; }
  int64_t blocks() const { return (batch_ + kWide - 1) / kWide; }

  // call(first row of x, how many, the block's number) for blocks of 2 to kWide rows, which differ by one at most.
  template <class Call>
  void each(Call call) const {
    const int64_t narrow = batch_ / blocks(), wide = batch_ % blocks();  // rows of a block, blocks with one more
    for (int64_t i = 0, b = 0; i < blocks(); ++i) {
      const int64_t width = narrow + (i < wide);
      switch (width) {
        case 4: call(b, std::integral_constant<int, 4>(), i); break;
        case 3: call(b, std::integral_constant<int, 3>(), i); break;
        default: call(b, std::integral_constant<int, 2>(), i);
      }
      b += width;
    }
  }

  // sums [kHigh, B] += every kSums-th vector of `count` numbers of rows of w [·, n] and of B rows that are laid.
  // Meanwhile `count` / kSums numbers of each of kFetch rows of w from `next` on are fetched: all passes over the same
  // rows fetch a part, one after the other, or memory would rest in all but the first.
  template <int B, int kFetch, class W>
  __attribute__((noinline)) void add(const W *w, const W *next, const float *x, int64_t count, Vector *sums) const {
    Vector s[kHigh][B];
    for (int r = 0; r < kHigh; ++r)
      for (int b = 0; b < B; ++b) s[r][b] = sums[r * B + b];
    for (int64_t i = 0; i < count; i += kPair) {
      Vector xs[B];
      for (int b = 0; b < B; ++b) xs[b] = load(x + i * batch_ + b * kLanes);
      for (int r = 0; r < kFetch; ++r) __builtin_prefetch(next + r * n_ + i / kSums, 0, 2);
      for (int r = 0; r < kHigh; ++r) {
        const Vector weights = in_register(load(w + r * n_ + i));
        for (int b = 0; b < B; ++b) s[r][b] = multiply_add(weights, xs[b], s[r][b]);
      }
    }
    for (int r = 0; r < kHigh; ++r)
      for (int b = 0; b < B; ++b) sums[r * B + b] = s[r][b];
  }

  // kHigh rows of w, from `w` on, whose first has the number `first`; summed as `dots` does.
  template <class W, class Put>
  void block(const W *w, int64_t first, Put put) const {
    auto *sums = reinterpret_cast<Vector *>(sums_.get());
    std::fill_n(sums, batch_ * kSums * kHigh, Vector{});
    // Meanwhile the next rows of w are fetched, as many with each block of x: memory and arithmetic are busy together.
    const int64_t share = (kHigh + blocks() - 1) / blocks();
    for (int64_t k = 0; k < whole_; k += kPiece)
      each([&](int64_t b, auto width, int64_t number) {
        for (int u = 0; u < kSums; ++u) {
          const int64_t from = k + u * kLanes, count = std::min(kPiece, whole_ - k);
          const float *x = laid_.get() + from * batch_ + b * kLanes;
          Vector *own = sums + (b * kSums + u * width.value) * kHigh;
          const W *next = w + k + u * count / kSums + (kHigh + number * share) * n_;
          switch (number * share < kHigh ? share : 0) {
            case 0: add<width.value, 0>(w + from, next, x, count, own); break;
            case 1: add<width.value, 1>(w + from, next, x, count, own); break;
            case 2: add<width.value, 2>(w + from, next, x, count, own); break;
            case 3: add<width.value, 3>(w + from, next, x, count, own); break;
            default: add<width.value, kHigh>(w + from, next, x, count, own);
          }
        }
      });
    each([&](int64_t b, auto width, int64_t) {
      for (int i = 0; i < kHigh * width.value; ++i) {
        const int64_t r = i / width.value, row = b + i % width.value;
        const Vector *own = sums + b * kSums * kHigh + i;
        put(first + r, row, finished(w + r * n_, x_ + row * n_, own, width.value * kHigh));
      }
    });
  }

  // A dot product from its sums, `next` vectors apart, and what is left of both rows.
  template <class W>
  float finished(const W *w, const float *x, const Vector *sums, int64_t next) const {
    Vector total = sums[0];
    int64_t i = whole_;
    for (; i + kLanes <= n_; i += kLanes) total = multiply_add(load(w + i), load(x + i), total);
    for (int u = 1; u < kSums; ++u) total += sums[u * next];
    float y = sum(total);
    for (; i < n_; ++i) y = multiply_add(widen(w[i]), x[i], y);
    return y;
  }

  const int64_t batch_;
  Room laid_, sums_, rounded_;
  const bool rounds_;
  const float *x_ = nullptr;
  int64_t n_ = 0, whole_ = 0;  // numbers of a row, and those in whole pairs of vectors
};

// By tiles where the processor has them and the matrix is in bf16, else by vectors; of vectors as they are, or
// `rounded` to bf16.
class Factor {
 public:
  // Room for up to `batch` vectors of up to `longest` numbers.
  Factor(int64_t batch, int64_t longest, bool rounded) : batch_(batch), longest_(longest), rounded_(rounded) {}

  // What is multiplied from now on: x [batch, n], which must stay as it is.
  void set(const float *x, int64_t n) {
    x_ = x, n_ = n, vectors_.set = false;
#ifdef KERNEL_TILES
    tiles_.set = false;
#endif
  }

  // put(row of w, row of x, dot product) for rows [first, last) of w [·, n]; or, by tiles, the Vector of sixteen rows'.
  template <class W, class Put>
  void times(const W *w, int64_t first, int64_t last, Put put) {
#ifdef KERNEL_TILES
    if constexpr (std::is_same_v<W, BFloat16>)
      if (tiles_allowed()) return ready(tiles_).times(w, first, last, put);
#endif
    ready(vectors_).times(w, first, last, put);
  }

 private:
  template <class By>
  struct Way {
    std::unique_ptr<By> made;
    bool set = false;
  };

  template <class By>
  By &ready(Way<By> &way) {
    if (!way.made) way.made = std::make_unique<By>(batch_, longest_, rounded_);
    if (!way.set) way.made->set(x_, n_);
    way.set = true;
    return *way.made;
  }

  const int64_t batch_, longest_;
  const bool rounded_;
  const float *x_ = nullptr;
  int64_t n_ = 0;
  Way<FactorByVectors> vectors_;
#ifdef KERNEL_TILES
  Way<FactorByTiles> tiles_;
#endif
};
