// Vectors of the width that this file is compiled for, by the compilers' vector extension.
#pragma once

#include <cmath>
#include <cstdint>
#include <cstring>

namespace rnnjax {
namespace RNNJAX_VARIANT {

template <class T>
struct Simd {
  static constexpr int kLanes = RNNJAX_VECTOR_BYTES / int(sizeof(T));
  typedef T Vec __attribute__((vector_size(RNNJAX_VECTOR_BYTES)));
  typedef decltype(Vec() < Vec()) Index;
  typedef T Loose __attribute__((vector_size(RNNJAX_VECTOR_BYTES), aligned(alignof(T)), may_alias));
};

template <class T>
using Vec = typename Simd<T>::Vec;

template <class T>
inline Vec<T> load(const T* p) {
  return *reinterpret_cast<const typename Simd<T>::Loose*>(p);
}

template <class T>
inline void store(T* p, Vec<T> v) {
  *reinterpret_cast<typename Simd<T>::Loose*>(p) = v;
}

// The first n lanes, zeros behind them; n is at least 1, and a whole vector where it is no less.
template <class T>
inline Vec<T> load(const T* p, int64_t n) {
  if (n >= Simd<T>::kLanes) return load(p);
  Vec<T> v = {};
  std::memcpy(&v, p, n * sizeof(T));
  return v;
}

template <class T>
inline void store(T* p, Vec<T> v, int64_t n) {
  if (n >= Simd<T>::kLanes) {
    store(p, v);
  } else {
    std::memcpy(p, &v, n * sizeof(T));
  }
}

template <class T>
inline Vec<T> splat(T x) {
  return x - Vec<T>{};
}

// Turns a square of numbers, a vector a row, over its diagonal: each round takes the highest bit of the number of a row and
// appends it to that of a column, and the other way about.
template <class T>
inline void transpose(Vec<T> (&rows)[Simd<T>::kLanes]) {
  constexpr int n = Simd<T>::kLanes;
#if defined(__clang__)
  for (int i = 0; i < n; ++i) {
    for (int j = 0; j < i; ++j) {
      const T x = rows[i][j];
      rows[i][j] = rows[j][i], rows[j][i] = x;
    }
  }
#else
  typename Simd<T>::Index low, high;  // the first halves of two vectors by turns, and the second ones
#pragma GCC unroll 16
  for (int i = 0; i < n; ++i) low[i] = i / 2 + i % 2 * n, high[i] = low[i] + n / 2;
#pragma GCC unroll 8
  for (int round = 1; round < n; round *= 2) {
    Vec<T> next[n];
#pragma GCC unroll 8
    for (int i = 0; i < n / 2; ++i) {
      next[2 * i] = __builtin_shuffle(rows[i], rows[i + n / 2], low);
      next[2 * i + 1] = __builtin_shuffle(rows[i], rows[i + n / 2], high);
    }
#pragma GCC unroll 16
    for (int i = 0; i < n; ++i) rows[i] = next[i];
  }
#endif
}

// x P(x²) / Q(x²), fitted for the least relative error on [-8, 8], and beyond it ±1, so that a gate can be shut for
// good. With rounding the relative error is below 4e-7 everywhere, and the result never exceeds 1.
inline Vec<float> tanh(Vec<float> x) {
  const float bound = 8.0f;
  x = x > bound ? splat(bound) : x;  // a NaN stays
  x = x < -bound ? splat(-bound) : x;
  const Vec<float> y = x * x;
  Vec<float> p = 1.5230471e-08f * y + 2.18946989e-05f;
  p = p * y + 0.00357160019f;
  p = p * y + 0.134444997f;
  p = p * y + 1.0f;
  Vec<float> q = 8.52246785e-07f * y + 0.000341129577f;
  q = q * y + 0.0261644517f;
  q = q * y + 0.467778265f;
  q = q * y + 1.0f;
  Vec<float> result = x * p / q;
  result = x == bound ? splat(1.0f) : result;
  return x == -bound ? splat(-1.0f) : result;
}

// In double precision the C library's, lane by lane.
inline Vec<double> tanh(Vec<double> x) {
  for (int i = 0; i < Simd<double>::kLanes; ++i) x[i] = std::tanh(x[i]);
  return x;
}

// Its absolute error is that of tanh, and below 2e-7; relative to a gate that is nearly shut it is larger.
template <class V>
inline V sigmoid(V x) {
  return 0.5f * tanh(0.5f * x) + 0.5f;
}

}  // namespace RNNJAX_VARIANT
}  // namespace rnnjax
