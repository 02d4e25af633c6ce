// Frames of videos: resized with sums in float32, and cut into patches with their levels looked up.
//
// Every sum is made in the order of the numpy code beside it, without fused operations, so that both give equal bits.
#if defined(__clang__)
#pragma STDC FP_CONTRACT OFF
#else
#pragma GCC optimize("fp-contract=off")
#endif

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <new>
#include <vector>

namespace {

constexpr int64_t kColours = 3, kLanes = 4;  // of a pixel, and of the vector that it is added in
constexpr int64_t kPatch = 14, kUnit = 2, kFrames = 2, kLevels = 256;

typedef float Pixel __attribute__((vector_size(4 * kLanes)));

// The inputs of each output along one axis, and their weights: [outputs, count].
struct Taps {
  const int64_t *inputs;
  const float *weights;
  int64_t outputs, count;
};

// One line of the height pass: Σ weight · row, or the row itself where the height stays.
void blend_rows(const uint8_t *image, int64_t size, const Taps &taps, int64_t output, float *line) {
  std::fill(line, line + size, 0.0f);
  for (int64_t k = 0; k < taps.count; ++k) {
    const float weight = taps.weights[output * taps.count + k];
    const uint8_t *row = image + taps.inputs[output * taps.count + k] * size;
    for (int64_t x = 0; x < size; ++x) line[x] += weight * row[x];
  }
}

inline uint8_t level(float value) {
  return static_cast<uint8_t>(std::nearbyint(std::min(std::max(value, 0.0f), 255.0f)));
}

void blend_columns(const float *line, const Taps &taps, uint8_t *out) {
  for (int64_t x = 0; x < taps.outputs; ++x) {
    Pixel sum = {};
    for (int64_t k = 0; k < taps.count; ++k) {
      Pixel pixel;
      std::memcpy(&pixel, line + taps.inputs[x * taps.count + k] * kColours, sizeof pixel);
      sum += taps.weights[x * taps.count + k] * pixel;
    }
    for (int64_t c = 0; c < kColours; ++c) out[x * kColours + c] = level(sum[c]);
  }
}

}  // namespace

// image uint8 [height, width, 3] → out uint8 [rows, columns, 3]. An axis without taps (count 0) keeps its size.
// False if there is not the memory for a line.
extern "C" bool resize_frame(const uint8_t *image, int64_t width, const int64_t *row_inputs, const float *row_weights,
                             int64_t rows, int64_t row_count, const int64_t *column_inputs, const float *column_weights,
                             int64_t columns, int64_t column_count, uint8_t *out) try {
  const int64_t size = width * kColours;
  const Taps down{row_inputs, row_weights, rows, row_count};
  const Taps across{column_inputs, column_weights, columns, column_count};
  std::vector<float> line(size + kLanes);
  for (int64_t y = 0; y < rows; ++y, out += columns * kColours) {
    if (row_count)
      blend_rows(image, size, down, y, line.data());
    else
      std::copy(image + y * size, image + (y + 1) * size, line.data());
    if (column_count)
      blend_columns(line.data(), across, out);
    else
      std::transform(line.data(), line.data() + size, out, level);
  }
  return true;
} catch (const std::bad_alloc &) {
  return false;
}

// pair uint8 [2, height, width, 3] → out fp32 [patches, 3 · 2 · 14 · 14] by table fp32 [3, 256]: 2 × 2 unit after unit.
extern "C" void cut_patches(const uint8_t *pair, int64_t height, int64_t width, const float *table, float *out) {
  constexpr int64_t side = kPatch * kUnit;
  for (int64_t top = 0; top < height; top += side)
    for (int64_t left = 0; left < width; left += side)
      for (int64_t place = 0; place < kUnit * kUnit; ++place)
        for (int64_t c = 0; c < kColours; ++c)
          for (int64_t t = 0; t < kFrames; ++t)
            for (int64_t y = 0; y < kPatch; ++y) {
              const int64_t row = t * height + top + place / kUnit * kPatch + y;
              const uint8_t *pixels = pair + (row * width + left + place % kUnit * kPatch) * kColours + c;
              for (int64_t x = 0; x < kPatch; ++x) *out++ = table[c * kLevels + pixels[x * kColours]];
            }
}
