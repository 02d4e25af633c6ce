// Rows of projections to heads and back: [B, T, C] → [B, heads, T, width], rotated on the way, and [B, T, heads ·
// width]. What MindSpore's Split, Transpose and some more operators do, with the same bits, and its gradient. Parity:
// tests/kernels/test_operators.py, test_gradients.py.
#include <algorithm>

#include "attention.h"
#include "operator.h"

namespace {

// Heads of [batch, heads, length, width].
struct Heads {
  int64_t batch, heads, length, width;

  template <class Do>
  void each(Do one) const {
#pragma omp parallel for collapse(2) if (batch * heads * length * width > kAlone)
    for (int64_t row = 0; row < batch; ++row)
      for (int64_t at = 0; at < length; ++at)
        for (int64_t head = 0; head < heads; ++head)
          one(row * length + at, head, ((row * heads + head) * length + at) * width);
  }
};

// make(numbers of `from`)(where a head lies in [batch, length, heads, width], where in [batch, heads, length, width],
// width) for every head of that `shape`.
template <class Make>
void copy_heads(const Tensor &from, const int64_t *shape, Make make) {
  const Heads all{shape[0], shape[1], shape[2], shape[3]};
  visit_activations(from, [&](auto *numbers) {
    const auto copy = make(numbers);
    all.each([&](int64_t row, int64_t head, int64_t at) { copy((row * all.heads + head) * all.width, at, all.width); });
  });
}

// What `rotate` did to the gradient by its result, undone.
template <class X>
void turn_back(const X *x, const float *cos, const float *sin, int64_t dim, X *y) {
  const int64_t half = dim / 2;
  for (int64_t i = 0; i < half; ++i) {
    const float low = widen(x[i]), high = widen(x[i + half]);
    narrow(low * cos[i] + high * sin[i + half], y + i);
    narrow(high * cos[i + half] - low * sin[i], y + i + half);
  }
}

// The heads that a row of a projection holds: one part, or queries, keys and values, of which the values are not
// rotated.
struct Parts {
  int64_t count;
  Heads all;
  int64_t row;           // numbers of a row of the projection
  const int32_t *first;  // [count, heads, width]
  const float *cos = nullptr, *sin = nullptr;
  int64_t turns = 0;     // rows of angles

  // Where there are two inputs of `given` from `angles` to `end`, these are cos and sin.
  Parts(const Tensor &columns, int64_t batch, int64_t length, int64_t row, const Given &given, int angles, int end)
      : count(columns.shape[0]), all{batch, columns.shape[1], length, columns.shape[2]}, row(row),
        first(static_cast<int32_t *>(columns.data)) {
    if (end - angles < 2) return;
    cos = static_cast<float *>(given[angles].data), sin = static_cast<float *>(given[angles + 1].data);
    turns = given[angles].shape[0] * length;
  }

  // one(turn, where a head lies in the rows of the projection, where in the part); turn(from, to, rotation) copies a
  // head, or lets the rotation do it.
  template <class Do>
  void each(int64_t part, Do one) const {
    const bool turned = cos && part < 2;
    all.each([&](int64_t line, int64_t head, int64_t at) {
      const auto turn = [&](auto *from, auto *to, auto rotation) {
        const int64_t angle = turned ? line % turns * all.width : 0;
        if (turned)
          rotation(from, cos + angle, sin + angle, to);
        else
          std::copy_n(from, all.width, to);
      };
      one(turn, line * row + first[(part * all.heads + head) * all.width], at);
    });
  }
};

}  // namespace

// x [B, T, C] fp32 or fp16, columns int32 [parts, heads, width]: which numbers of a row of x make each head, the first
// of so many beside each other; perhaps cos and sin fp32 [B or 1, 1, T, width] → each part's y [B, heads, T, width] of
// x's type.
OPERATOR(to_heads) {
  const Given given{count, data, dimensions, shapes, types};
  const Tensor x = given[0], columns = given[1];
  const Parts parts(columns, x.shape[0], x.shape[1], x.last(), given, 2, count - static_cast<int>(columns.shape[0]));
  visit_activations(x, [&](auto *from) {
    for (int64_t part = 0; part < parts.count; ++part) {
      auto *to = static_cast<decltype(from)>(given[count - parts.count + part].data);
      parts.each(part, [&](auto turn, int64_t in_row, int64_t at) {
        turn(from + in_row, to + at, [&](auto *head, const float *cos, const float *sin, auto *y) {
          rotate(head, cos, sin, parts.all.width, 1, y);
        });
      });
    }
  });
  return 0;
}

// The gradients by each part's y, the columns and perhaps cos and sin → that by x; the columns are all of a row of x.
OPERATOR(to_heads_gradient) {
  const Given given{count, data, dimensions, shapes, types};
  const Tensor x = given[count - 1];
  const int outs = count - 2 - (given[count - 2].dimensions == 4 ? 2 : 0);
  const Tensor columns = given[outs];
  const Parts parts(columns, x.shape[0], x.shape[1], x.last(), given, outs + 1, count - 1);
  visit_activations(x, [&](auto *to) {
    for (int64_t part = 0; part < parts.count; ++part) {
      const auto *from = static_cast<decltype(to)>(given[part].data);
      parts.each(part, [&](auto turn, int64_t in_row, int64_t at) {
        turn(from + at, to + in_row, [&](auto *head, const float *cos, const float *sin, auto *y) {
          turn_back(head, cos, sin, parts.all.width, y);
        });
      });
    }
  });
  return 0;
}

// x [B, heads, T, width] fp32 or fp16 → y [B, T, heads · width].
OPERATOR(from_heads) {
  copy_heads({data[0], dimensions[0], shapes[0], types[0]}, shapes[0], [=](auto *x) {
    return [x, y = static_cast<decltype(x)>(data[1])](int64_t in_row, int64_t at, int64_t width) {
      std::copy_n(x + at, width, y + in_row);
    };
  });
  return 0;
}

// x as above, whose shape alone counts, and the gradient [B, T, heads · width] by y → that by x.
OPERATOR(from_heads_gradient) {
  copy_heads({data[1], dimensions[1], shapes[1], types[1]}, shapes[0], [=](auto *by_y) {
    return [by_y, by_x = static_cast<decltype(by_y)>(data[2])](int64_t in_row, int64_t at, int64_t width) {
      std::copy_n(by_y + in_row, width, by_x + at);
    };
  });
  return 0;
}
