// Resizes an RGB image to the levels, bit for bit, of Pillow's Image.resize(BICUBIC), and looks each of them up.
//
// As Pillow's, the weights are whole numbers of 2^-22, and what the first axis gives is rounded to 8 bits before the
// second. Sums of whole numbers are the same in any order: here each lane is a channel of one of a few lines of pixels,
// and a line of the result is made as soon as the resized lines that it needs stand in a ring.
#include <algorithm>
#include <cmath>
#include <new>
#include <vector>

#include "numbers.h"

namespace {

constexpr int kColours = 3, kChannels = 4;  // red, green, blue, and one without meaning: a pixel moves as a whole
constexpr int kLines = kLanes / kChannels;  // that are resized at a time
constexpr int kLevels = 256, kFraction = 22;  // of the weights, in bits

typedef uint32_t Pixel __attribute__((vector_size(4 * kChannels)));
constexpr Pixel kShifts = {0, 8, 16, 24};  // of the channels in a little-endian word

// How the outputs along one axis are made.
struct Axis {
  int64_t window;                     // weights of an output, at most
  std::vector<int64_t> first, count;  // [outputs]: the inputs that it takes
  std::vector<int32_t> weights;       // [outputs, window]

  int64_t outputs() const { return first.size(); }
};

// The cubic of Keys with a = -1/2, its terms in Pillow's order.
double cubic(double x) {
  constexpr double a = -0.5;
  x = std::abs(x);
  if (x < 1) return ((a + 2) * x - (a + 3)) * x * x + 1;
  return x < 2 ? (((x - 5) * x + 8) * x - 4) * a : 0;
}

Axis weigh(int64_t inputs, int64_t outputs) {
  const double scale = static_cast<double>(inputs) / outputs, stretch = std::max(scale, 1.0), reach = 2 * stretch;
  Axis axis;
  axis.window = 2 * static_cast<int64_t>(std::ceil(reach)) + 1;
  axis.weights.resize(outputs * axis.window);
  std::vector<double> shares(axis.window);
  for (int64_t i = 0; i < outputs; ++i) {
    const double centre = (i + 0.5) * scale;
    const auto first = std::max<int64_t>(static_cast<int64_t>(centre - reach + 0.5), 0);
    const auto count = std::min<int64_t>(static_cast<int64_t>(centre + reach + 0.5), inputs) - first;
    double sum = 0;
    for (int64_t k = 0; k < count; ++k) sum += shares[k] = cubic((k + first - centre + 0.5) * (1 / stretch));
    for (int64_t k = 0; k < count; ++k) {
      const double weight = shares[k] / sum * (1 << kFraction);
      axis.weights[i * axis.window + k] = static_cast<int32_t>(weight + (weight < 0 ? -0.5 : 0.5));
    }
    axis.first.push_back(first);
    axis.count.push_back(count);
  }
  return axis;
}

// Σ weights[k] · vector(k), as levels.
template <class Vectors>
inline Integers blend(const int32_t *weights, int64_t count, Vectors vector) {
  Integers sum = Integers{} + (1 << (kFraction - 1));
  for (int64_t k = 0; k < count; ++k) sum += weights[k] * read<Integers>(vector(k));
  const Integers level = sum >> kFraction, least = {}, most = least + (kLevels - 1);
  return level < least ? least : level > most ? most : level;
}

// Pixels, by bytes from line to line and from one to the next in a line. Lines are rows, or columns.
struct Lines {
  const uint8_t *pixels;
  int64_t count, length, line_step, pixel_step;
};

// The lines of an image, each resized along itself; the latest ones are kept.
class ResizedLines {
 public:
  ResizedLines(const Lines &lines, const Axis &along, int64_t kept)
      : lines_(lines), along_(along), slots_(kept + kLines),
        size_((along.outputs() * kChannels + kLanes - 1) / kLanes * kLanes),
        gathered_(lines.length * kLanes), ring_(slots_ * size_) {}

  // Numbers in a line: channel by channel, and some that fill the last vector.
  int64_t size() const { return size_; }

  const int32_t *line(int64_t number) {
    for (; made_ <= number; made_ += kLines) {
      gather();
      resize();
    }
    return slot(number);
  }

 private:
  int32_t *slot(int64_t number) { return ring_.data() + number % slots_ * size_; }

  void gather() {  // the next lines side by side: [length, lines, channels]
    const uint8_t *from[kLines];
    for (int i = 0; i < kLines; ++i)
      from[i] = lines_.pixels + std::min(made_ + i, lines_.count - 1) * lines_.line_step;
    for (int64_t x = 0; x < lines_.length; ++x)
      for (int i = 0; i < kLines; ++i) {
        const auto word = read<uint32_t>(from[i] + x * lines_.pixel_step);
        const Pixel pixel = ((Pixel{} + word) >> kShifts) & (kLevels - 1);
        std::memcpy(gathered_.data() + x * kLanes + i * kChannels, &pixel, sizeof pixel);
      }
  }

  void resize() {
    int32_t *to[kLines];
    for (int i = 0; i < kLines; ++i) to[i] = slot(made_ + i);
    for (int64_t x = 0; x < along_.outputs(); ++x) {
      const int32_t *pixels = gathered_.data() + along_.first[x] * kLanes;
      const Integers levels = blend(along_.weights.data() + x * along_.window, along_.count[x],
                                    [=](int64_t k) { return pixels + k * kLanes; });
      const auto *pixel = reinterpret_cast<const char *>(&levels);
      for (int i = 0; i < kLines; ++i)
        std::memcpy(to[i] + x * kChannels, pixel + i * kChannels * sizeof(int32_t), kChannels * sizeof(int32_t));
    }
  }

  const Lines lines_;
  const Axis &along_;
  const int64_t slots_, size_;
  int64_t made_ = 0;
  std::vector<int32_t> gathered_, ring_;
};

// put(line, levels [outputs, channels]) for each line of the result.
template <class Put>
void resize_lines(const Lines &lines, int64_t count, int64_t length, Put put) {
  const Axis along = weigh(lines.length, length), across = weigh(lines.count, count);
  ResizedLines resized(lines, along, across.window);
  std::vector<const int32_t *> inputs(across.window);
  std::vector<int32_t> levels(resized.size());
  for (int64_t i = 0; i < count; ++i) {
    for (int64_t k = 0; k < across.count[i]; ++k) inputs[k] = resized.line(across.first[i] + k);
    for (int64_t lane = 0; lane < resized.size(); lane += kLanes) {
      const Integers blended = blend(across.weights.data() + i * across.window, across.count[i],
                                     [&](int64_t k) { return inputs[k] + lane; });
      std::memcpy(levels.data() + lane, &blended, sizeof blended);
    }
    put(i, levels.data());
  }
}

}  // namespace

// pixels uint8 [height, width, 4] → values fp32 [3, rows, columns] by table fp32 [3, 256].
// Pixels are weighed along the rows and then along the columns, or, with columns_first, the other way round.
// False if there is not the memory for it.
extern "C" bool resize(const uint8_t *pixels, int64_t height, int64_t width, const float *table, float *values,
                       int64_t rows, int64_t columns, bool columns_first) try {
  const auto put = [=](int64_t first, const int32_t *levels, int64_t step, int64_t count) {
    for (int c = 0; c < kColours; ++c)
      for (int64_t i = 0; i < count; ++i)
        values[c * rows * columns + first + i * step] = table[c * kLevels + levels[i * kChannels + c]];
  };
  const int64_t row_step = width * kChannels;
  if (columns_first)
    resize_lines({pixels, width, height, kChannels, row_step}, columns, rows,
                 [=](int64_t x, const int32_t *levels) { put(x, levels, columns, rows); });
  else
    resize_lines({pixels, height, width, row_step, kChannels}, rows, columns,
                 [=](int64_t y, const int32_t *levels) { put(y * columns, levels, 1, columns); });
  return true;
} catch (const std::bad_alloc &) {
  return false;
}
