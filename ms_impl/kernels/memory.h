// In which order memory is asked for what is read soon.
#pragma once

#include <cstdint>

constexpr int64_t kCacheLine = 64;    // bytes
constexpr int64_t kWindow = 8 << 12;  // bytes: eight pages

// A line of the window for each of its lines in order: the first of each page, then the second of each. A core gets
// half as much again from several pages side by side as from one after the other.
inline uintptr_t side_by_side(uintptr_t at) {
  constexpr int kLine = 6, kPage = 12, kPages = 3;  // bits
  const uintptr_t line = at >> kLine, page = line & ((1 << kPages) - 1);
  const uintptr_t within = line >> kPages & ((1 << (kPage - kLine)) - 1);
  return at / kWindow * kWindow + (page << kPage) + (within << kLine);
}

// Fetches what follows on what is read in order, into the second cache: the rest of its bytes, then those of `next`.
class Ahead {
 public:
  Ahead(const void *now, int64_t bytes, const void *next)
      : window_(static_cast<const char *>(now)), next_(static_cast<const char *>(next)),
        left_((bytes + kWindow - 1) / kWindow), strip_(whole_lines(bytes, left_ * kStrips)) {
    go_on();
  }

  // So many times eight lines, while as many are read: each time one of each strip of a window.
  void fetch(int64_t times) {
    for (; times > 0; --times) {
      for (int64_t i = 0; i < kStrips; ++i) __builtin_prefetch(window_ + i * strip_ + line_, 0, 2);
      if ((line_ += kCacheLine) == strip_) go_on();
    }
  }

 private:
  static constexpr int64_t kStrips = 8;

  static int64_t whole_lines(int64_t bytes, int64_t parts) {
    return (bytes + parts * kCacheLine - 1) / (parts * kCacheLine) * kCacheLine;
  }
  void go_on() { line_ = 0, window_ = --left_ > 0 ? window_ + kStrips * strip_ : next_; }

  const char *window_, *next_;
  int64_t left_, strip_, line_ = 0;  // windows, bytes of a strip, and where in each
};
