// What the memory gives at best: all threads read an array of fp32 once, each its share in order. Meanwhile the next
// window of each share is fetched, page beside page: more comes at once from several pages than from one.
#include <omp.h>

#include <cstdint>

namespace {

constexpr int64_t kLine = 16, kPage = 1024, kPages = 16, kWindow = kPages * kPage;  // numbers; pages of a window

float read_window(const float *data) {
  float total = 0;
  for (int64_t i = 0; i < kWindow / kLine; ++i) {
    __builtin_prefetch(data + kWindow + i % kPages * kPage + i / kPages * kLine, 0, 2);
    for (int64_t j = 0; j < kLine; ++j) total += data[i * kLine + j];
  }
  return total;
}

}  // namespace

extern "C" float read_memory(const float *data, int64_t count) {
  const int64_t windows = count / kWindow;
  float total = 0;
#pragma omp parallel for schedule(static) reduction(+ : total)
  for (int64_t i = 0; i < windows; ++i) total += read_window(data + i * kWindow);
  for (int64_t i = windows * kWindow; i < count; ++i) total += data[i];
  return total;
}
