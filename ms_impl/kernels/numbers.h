// Vectors of fp32, and their loading from and storing to fp32, fp16 and bf16.
#pragma once

#include <cmath>
#include <cstdint>
#include <cstring>
#include <initializer_list>
#if defined(__F16C__) || defined(__AVX2__)
#include <immintrin.h>
#endif

#if defined(__AVX512F__)
constexpr int kLanes = 16;
#elif defined(__AVX2__)
constexpr int kLanes = 8;
#else
constexpr int kLanes = 4;
#endif

typedef float Vector __attribute__((vector_size(4 * kLanes)));
typedef int32_t Integers __attribute__((vector_size(4 * kLanes)));
typedef uint16_t Halves __attribute__((vector_size(2 * kLanes)));

struct BFloat16 {
  uint16_t bits;
};
using Float16 = _Float16;

template <class V>
inline V read(const void *from) {
  V v;
  std::memcpy(&v, from, sizeof v);
  return v;
}

inline Vector load(const float *from) { return read<Vector>(from); }

inline Vector load(const BFloat16 *from) {
#if defined(__AVX512F__)
  return _mm512_castsi512_ps(_mm512_slli_epi32(_mm512_cvtepu16_epi32(read<__m256i>(from)), 16));
#else
  Integers bits = __builtin_convertvector(read<Halves>(from), Integers) << 16;
  return read<Vector>(&bits);
#endif
}

inline Vector load(const Float16 *from) {
#if defined(__AVX512F__)
  return _mm512_cvtph_ps(read<__m256i>(from));
#elif defined(__AVX2__) && defined(__F16C__)
  return _mm256_cvtph_ps(read<__m128i>(from));
#else
  Vector v;
  for (int lane = 0; lane < kLanes; ++lane) v[lane] = from[lane];
  return v;
#endif
}

// a · b + c, rounded once where the processor can; the compiler is told to fuse nothing by itself (-ffp-contract=off),
// as it would choose anew for each copy of the code, and a row would have other bits in a batch of another size.
inline Vector multiply_add(Vector a, Vector b, Vector c) {
#if defined(__AVX512F__)
  return _mm512_fmadd_ps(a, b, c);
#elif defined(__AVX2__) && defined(__FMA__)
  return _mm256_fmadd_ps(a, b, c);
#else
  return a * b + c;
#endif
}

inline Vector multiply_add(float a, Vector b, Vector c) { return multiply_add(a - Vector{}, b, c); }

inline float multiply_add(float a, float b, float c) {
#if defined(__FMA__)
  return std::fma(a, b, c);
#else
  return a * b + c;
#endif
}

// A vector that is loaded once for all its uses: left to itself the compiler loads it anew for each.
inline Vector in_register(Vector v) {
#if defined(__x86_64__)
  asm("" : "+v"(v));
#endif
  return v;
}

inline float square_root(float x) { return std::sqrt(x); }
inline Vector square_root(Vector v) {
#if defined(__AVX512F__)
  return _mm512_sqrt_ps(v);
#elif defined(__AVX2__)
  return _mm256_sqrt_ps(v);
#else
  for (int lane = 0; lane < kLanes; ++lane) v[lane] = std::sqrt(v[lane]);
  return v;
#endif
}

inline void store(Vector v, float *to) { std::memcpy(to, &v, sizeof v); }

inline float widen(float x) { return x; }
inline float widen(Float16 x) { return static_cast<float>(x); }
inline float widen(BFloat16 x) {
  uint32_t bits = static_cast<uint32_t>(x.bits) << 16;
  return read<float>(&bits);
}

inline void narrow(float x, float *to) { *to = x; }
inline void narrow(float x, Float16 *to) { *to = static_cast<Float16>(x); }
inline void narrow(float x, BFloat16 *to) {  // rounds to even; a NaN stays one
  uint32_t bits = read<uint32_t>(&x);
  to->bits = std::isnan(x) ? 0x7fc0 : (bits + 0x7fff + ((bits >> 16) & 1)) >> 16;
}

inline void narrow_all(Vector v, float *to) { store(v, to); }
inline void narrow_all(Vector v, Float16 *to) {
#if defined(__AVX512F__)
  _mm256_storeu_si256(reinterpret_cast<__m256i *>(to), _mm512_cvtps_ph(v, _MM_FROUND_TO_NEAREST_INT));
#else
  for (int lane = 0; lane < kLanes; ++lane) narrow(v[lane], to + lane);
#endif
}

template <int N>
struct Lanes {
  typedef float Type __attribute__((vector_size(4 * N)));
};

// The sum of N lanes, halves added to each other.
template <int N = kLanes>
inline float sum(typename Lanes<N>::Type v) {
  if constexpr (N == 2) {
    return v[0] + v[1];
  } else {
    using Half = typename Lanes<N / 2>::Type;
    const char *lanes = reinterpret_cast<const char *>(&v);
    return sum<N / 2>(read<Half>(lanes) + read<Half>(lanes + sizeof(Half)));
  }
}

// e to the power of each lane, for lanes of at most 0: relative error below 2e-7, and 0 under e^-87.
// x = whole · ln 2 + rest; the polynomial in rest is that of the Cephes library's expf.
inline Vector exponential(Vector x) {
  constexpr float kLowest = -87, kRounder = 12582912, kInvLn2 = 1.44269504f, kLn2High = 0.693359375f,
                  kLn2Low = -2.12194440e-4f;  // adding and taking away 1.5 · 2^23 rounds to whole numbers
  const Vector kept = x < kLowest ? Vector{} + kLowest : x;
  const Vector whole = multiply_add(kInvLn2, kept, Vector{} + kRounder) - kRounder;
  const Vector rest = multiply_add(-kLn2Low, whole, multiply_add(-kLn2High, whole, kept));
  Vector y = Vector{} + 1.9875691500e-4f;
  for (float coefficient : {1.3981999507e-3f, 8.3334519073e-3f, 4.1665795894e-2f, 1.6666665459e-1f, 5.0000001201e-1f})
    y = multiply_add(y, rest, Vector{} + coefficient);
  y = multiply_add(y * rest, rest, rest) + 1.0f;
  const Integers power = (__builtin_convertvector(whole, Integers) + 127) << 23;
  return x < kLowest ? Vector{} : y * read<Vector>(&power);
}

// e to the power of -|x|.
inline Vector decay(Vector x) { return exponential(x < 0 ? x : -x); }

inline Vector sigmoid(Vector x) {
  const Vector e = decay(x);
  return (x < 0 ? e : Vector{} + 1.0f) / (1.0f + e);
}
