// One step of a few rows, with the weights as they lie: to pack them would take longer than to read them once.
#pragma once

#include "sequence.h"

namespace rnnjax {
namespace RNNJAX_VARIANT {

// to[r][j] += Σ_k x[r][k] · weights[k][j] for `depth` rows k of weights, which are `across` numbers apart.
template <class T, int rows, int depth>
inline void add_products(const T* x, int64_t x_row, const T* weights, int64_t across, int64_t columns, T* to,
                         int64_t to_row) {
  constexpr int lanes = Simd<T>::kLanes;
  Vec<T> factors[rows][depth];
  for (int r = 0; r < rows; ++r) {
    for (int k = 0; k < depth; ++k) factors[r][k] = splat(x[r * x_row + k]);
  }
  // of the last columns n, a constant where there is a whole vector
  const auto add = [&](int64_t j, auto n) {
    Vec<T> w[depth];
#pragma GCC unroll 8
    for (int k = 0; k < depth; ++k) w[k] = load(weights + k * across + j, n);
#pragma GCC unroll 8
    for (int r = 0; r < rows; ++r) {
      Vec<T> sum = load(to + r * to_row + j, n);
#pragma GCC unroll 8
      for (int k = 0; k < depth; ++k) sum += factors[r][k] * w[k];
      store(to + r * to_row + j, sum, n);
    }
  };
  int64_t j = 0;
  for (; j + lanes <= columns; j += lanes) add(j, Constant<lanes>());
  if (j < columns) add(j, columns - j);
}

template <class Cell>
class Single {
  typedef typename Cell::Scalar T;
  typedef Vec<T> V;
  static constexpr int kLanes = Simd<T>::kLanes, kGates = Cell::kGates;

 public:
  // Rows up to which this is faster than packing.
  static constexpr int64_t kMostRows = 16;

  static bool fits(const Problem<T>& p) {
    return p.steps == 1 && p.batch <= kMostRows && !p.mask.data && !p.reset.data && !(p.keeps && p.every > 0);
  }
  // Numbers of scratch memory of a model.
  static int64_t size(const Problem<T>& p) { return kRows * row(p); }

  Single(const Problem<T>& p, int64_t model) : p_(p), model_(model) {}

  void run(T* z) const {
    for_row_blocks(p_.batch, [&](int64_t first, int64_t count) {
      with_constant<kRows>(count, [&](auto rows) { block<decltype(rows)::value>(first, z); });
    });
  }

 private:
  // Pre-activations of a row: a gate behind the other, and the GRU's product of the state for its candidate.
  static int64_t row(const Problem<T>& p) { return (kGates + Cell::kApart) * p.hidden; }

  template <class Q>
  Q* at(Operand<Q> operand) const {
    return operand.data ? operand.data + model_ * operand.stride : nullptr;
  }

  template <int rows>
  void block(int64_t first, T* z) const {
    const int64_t hidden = p_.hidden, across = kGates * hidden, inputs = p_.inputs, z_row = row(p_);
    for (int r = 0; r < rows; ++r) {
      std::memcpy(z + r * z_row, at(p_.b), across * sizeof(T));
      if (Cell::kApart) std::memcpy(z + r * z_row + across, at(p_.b_n), hidden * sizeof(T));
    }
    const T *x = at(p_.x) + first * inputs, *h = at(p_.h0) + first * hidden, *u = at(p_.u);
    multiply<rows>(x, inputs, at(p_.w), across, z);
    if (Cell::kApart) {
      multiply<rows>(h, hidden, u, 2 * hidden, z);
      multiply<rows>(h, hidden, u + 2 * hidden, hidden, z + across);
    } else {
      multiply<rows>(h, hidden, u, across, z);
    }
    for (int r = 0; r < rows; ++r) {
      for (int64_t unit = 0; unit < hidden; unit += kLanes) pointwise(first + r, unit, z + r * z_row + unit);
    }
  }

  template <int rows>
  void multiply(const T* left, int64_t inner, const T* weights, int64_t columns, T* z) const {
    constexpr int depth = 8;
    const int64_t across = kGates * p_.hidden, z_row = row(p_);
    int64_t k = 0;
    for (; k + depth <= inner; k += depth) {
      add_products<T, rows, depth>(left + k, inner, weights + k * across, across, columns, z, z_row);
    }
    for (; k < inner; ++k) add_products<T, rows, 1>(left + k, inner, weights + k * across, across, columns, z, z_row);
  }

  void pointwise(int64_t r, int64_t unit, const T* z) const {
    const int64_t n = least(kLanes, p_.hidden - unit), own = r * p_.hidden + unit;
    V pre[kSlots] = {}, h_new, c_new, keep[Cell::kKept + 1], c = {};
    for (int i = 0; i < kGates + Cell::kApart; ++i) pre[i] = load(z + i * p_.hidden, n);
    if (Cell::kHasC) c = load(at(p_.c0) + own, n);
    Cell::forward(pre, load(at(p_.h0) + own, n), c, &h_new, &c_new, keep);
    store(at(p_.ys) + own, h_new, n);
    store(at(p_.h) + own, h_new, n);
    if (Cell::kHasC) store(at(p_.c) + own, c_new, n);
    for (int j = 0; j < Cell::kKept && p_.keeps; ++j) {
      store(at(p_.kept) + (r * Cell::kKept + j) * p_.hidden + unit, keep[j], n);
    }
  }

  const Problem<T>& p_;
  const int64_t model_;
};

}  // namespace RNNJAX_VARIANT
}  // namespace rnnjax
