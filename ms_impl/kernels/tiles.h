// Products of many rows by the processor's tiles of bf16 (AMX), as exact as in fp32.
//
// A number is the sum of its pieces in bf16: three of fp32, two of fp16, one of bf16, and nothing is left over;
// unless only the first is taken, which rounds to bf16. Products of pieces are exact in fp32; those under 2^-24 of the
// whole are left out. Sums are fp32. Against fp32 two things differ: numbers under 2^-126 count as zero, and a sum with
// an infinite term may be NaN.
#pragma once

#include <type_traits>

#include "operator.h"
#include "panels.h"

#if defined(__AMX_TILE__) && defined(__AMX_BF16__) && defined(__AVX512BF16__)
#define KERNEL_TILES
#include <sys/syscall.h>
#include <unistd.h>

constexpr int64_t kSide = 16, kTile = kSide * kSide;  // rows and columns of sums in a tile, and all of them
constexpr int64_t kStep = 2 * kSide;                  // of the depth: numbers of bf16 in a row of a tile
constexpr int64_t kPair = 2 * kSide;                  // two tiles side by side are multiplied with two others
constexpr int64_t kHeld = 512;                        // rows of x, whose chunks stay in the second cache
constexpr int64_t kGroup = 512;                       // columns likewise

constexpr int kExact = 3;                             // pieces at most, and products of pieces with one number

// Of the depth: what is summed before it is added up. All pieces of as much of two tiles of columns stay in the first
// cache.
template <int Most>
constexpr int64_t kChunk = Most == 1 ? 256 : 128;

template <class T, int Most>
constexpr int kPieces = std::min(Most, std::is_same_v<T, float> ? 3 : std::is_same_v<T, Float16> ? 2 : 1);

// Whether the kernel lets this process use tiles; it must be asked.
inline bool tiles_allowed() {
  constexpr long kAsk = 0x1023, kTileData = 18;  // ARCH_REQ_XCOMP_PERM, XFEATURE_XTILEDATA
  static const bool allowed = !syscall(SYS_arch_prctl, kAsk, kTileData);
  return allowed;
}

// The shapes of this thread's eight tiles: 16 rows of 64 bytes, unless others are set.
struct alignas(64) TileShapes {
  uint8_t palette = 1, start = 0, reserved[14] = {};
  uint16_t bytes[16] = {64, 64, 64, 64, 64, 64, 64, 64};
  uint8_t rows[16] = {16, 16, 16, 16, 16, 16, 16, 16};

  // Of tiles [first, last).
  TileShapes &set(int first, int last, int64_t their_rows, int64_t row_bytes) {
    for (int i = first; i < last; ++i) rows[i] = their_rows, bytes[i] = row_bytes;
    return *this;
  }
  // From now on; what was in the tiles is lost.
  void load() const {
    asm volatile("" ::"r"(this) : "memory");  // GCC takes but eight bytes of it for read
    _tile_loadconfig(this);
  }
};

// This thread has tiles while one such object of it lives.
class Tiles {
 public:
  Tiles() {
    if (!held()++) TileShapes().load();
  }
  Tiles(const Tiles &) = delete;
  ~Tiles() {
    if (!--held()) _tile_release();
  }

 private:
  static int &held() {
    static thread_local int count = 0;
    return count;
  }
};

// The next 32 numbers of a row, of which `there` are left; zeros behind them.
template <class T>
inline void load_step(const T *from, int64_t there, Vector (&v)[2]) {
  T few[kStep] = {};
  if (there < kStep) from = std::copy_n(from, std::max<int64_t>(there, 0), few) - std::max<int64_t>(there, 0);
  v[0] = load(from), v[1] = load(from + kLanes);
}

// Takes the next piece out of 32 numbers; rounds to even.
inline __m512i take_piece(Vector (&v)[2]) {
  const auto piece = (__m512i)_mm512_cvtne2ps_pbh(v[1], v[0]);
  const __m256i halves[2] = {_mm512_castsi512_si256(piece), _mm512_extracti64x4_epi64(piece, 1)};
  for (int i = 0; i < 2; ++i) {
    const Vector rest = v[i] - load(reinterpret_cast<const BFloat16 *>(&halves[i]));
    v[i] = rest == rest ? rest : Vector{};  // nothing is left of what is not finite
  }
  return piece;
}

// 16 rows of w [·, n], zeros for missing ones: tiles [step][piece], a row of each holding 32 numbers of one of w's.
// They are read row by row, as they lie in memory; meanwhile those from `next` on are fetched.
template <int P, class W>
inline void cut_columns(const W *w, const W *next, int64_t count, int64_t n, int64_t depth, char *to) {
  for (int64_t i = 0; i < kSide; ++i)
    for (int64_t k = 0; k < depth; k += kStep) {
      for (size_t byte = 0; byte < kStep * sizeof(W); byte += 64)
        __builtin_prefetch(reinterpret_cast<const char *>(next + i * n + k) + byte, 0, 2);
      if (std::is_same_v<W, BFloat16> && i < count && depth - k >= kStep) {
        std::memcpy(to + (k / kStep * kSide + i) * 64, w + i * n + k, 64);
        continue;
      }
      Vector v[2] = {};
      if (i < count) load_step(w + i * n + k, depth - k, v);
      for (int p = 0; p < P; ++p)
        _mm512_store_si512(to + ((k / kStep * P + p) * kSide + i) * 64, take_piece(v));
    }
}

// 16 rows of x likewise, a row of each tile holding two numbers of all 16 rows.
template <int P, class X>
inline void cut_rows(const X *x, int64_t count, int64_t n, int64_t depth, char *to) {
  for (int64_t k = 0; k < depth; k += kStep) {
    Vector v[kSide][2] = {};
    for (int64_t i = 0; i < count; ++i) load_step(x + i * n + k, depth - k, v[i]);
    for (int p = 0; p < P; ++p) {
      Vector pairs[kLanes];
      for (int64_t i = 0; i < kSide; ++i) pairs[i] = (Vector)take_piece(v[i]);
      transpose(pairs);
      for (int64_t i = 0; i < kSide; ++i)
        std::memcpy(to + ((k / kStep * P + p) * kSide + i) * 64, &pairs[i], 64);
    }
  }
}

// 16 columns of x [·, n], `there` of which exist, and 32 of its rows, `count` of which exist, likewise: tiles [piece],
// a row of each holding the 32 numbers of a column.
template <int P, class X>
inline void cut_transposed(const X *x, int64_t count, int64_t there, int64_t n, char *to) {
  Vector v[2][kLanes] = {};
  for (int64_t i = 0; i < std::min(count, kStep); ++i)
    v[i / kSide][i % kSide] = there < kSide ? load_slots<kSingle>(x + i * n, there) : load(x + i * n);
  transpose(v[0]), transpose(v[1]);
  for (int64_t i = 0; i < kSide; ++i) {
    Vector column[2] = {v[0][i], v[1][i]};
    for (int p = 0; p < P; ++p) _mm512_store_si512(to + (p * kSide + i) * 64, take_piece(column));
  }
}

// 16 columns of x [depth, n], `there` of which exist, as `cut_rows` lays rows.
template <int P, class X>
inline void cut_pairs(const X *x, int64_t there, int64_t n, int64_t depth, char *to) {
  const auto row = [=](int64_t k) {
    if (k >= depth) return Vector{};
    return there < kSide ? load_slots<kSingle>(x + k * n, there) : load(x + k * n);
  };
  for (int64_t k = 0; k < depth; k += kStep)
    for (int64_t i = 0; i < kSide; ++i) {
      Vector v[2] = {row(k + 2 * i), row(k + 2 * i + 1)};
      for (int p = 0; p < P; ++p)
        _mm512_store_si512(to + ((k / kStep * P + p) * kSide + i) * 64, paired(take_piece(v)));
    }
}

// Where the sums of tiles lie: how far tiles of the next columns, tiles of the next rows, and rows of a tile are apart.
struct SumsAt {
  int64_t columns, rows, next;
};

// sums [2][2] tiles += two tiles of columns by two of rows, whose tiles lie `w_next` and `x_next` bytes apart; or,
// where they are the first, = these.
template <int PW, int PX>
inline void multiply_tiles(const char *w, int64_t w_next, const char *x, int64_t x_next, int64_t steps, bool first,
                           float *sums, const SumsAt &at) {
  asm volatile("" ::: "memory");  // what the tiles are loaded from has been written: the compiler does not see it
  // clang-format off
  _tile_zero(0); _tile_zero(1); _tile_zero(2); _tile_zero(3);
  for (int64_t step = 0; step < steps; ++step) {
    const char *columns = w + step * PW * 1024, *rows = x + step * PX * 1024;
    for (int p = PW - 1, start = 0; p >= 0; --p) {
      const int count = std::min(PX, kExact - p);
      _tile_loadd(4, columns + p * 1024, 64); _tile_loadd(5, columns + p * 1024 + w_next, 64);
      for (int i = 0; i < count; ++i) {
        const int q = (start + i) % count;
        if (i > 0 || p == PW - 1) { _tile_loadd(6, rows + q * 1024, 64); _tile_loadd(7, rows + q * 1024 + x_next, 64); }
        _tile_dpbf16ps(0, 4, 6); _tile_dpbf16ps(1, 4, 7); _tile_dpbf16ps(2, 5, 6); _tile_dpbf16ps(3, 5, 7);
      }
      start = (start + count - 1) % count;  // the piece of x that is there is the next one's first
    }
  }
  alignas(64) float found[4][kTile];
  _tile_stored(0, found[0], 64); _tile_stored(1, found[1], 64);
  _tile_stored(2, found[2], 64); _tile_stored(3, found[3], 64);
  // clang-format on
  for (int tile = 0; tile < 4; ++tile)
    for (int64_t i = 0; i < kSide; ++i) {
      float *to = sums + tile / 2 * at.columns + tile % 2 * at.rows + i * at.next;
      const Vector sum = load(found[tile] + i * kSide);
      store(first ? sum : load(to) + sum, to);
    }
}
#endif
