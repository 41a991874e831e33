// One step of a few rows, with the weights as they lie: to pack them would take longer than to read them once. Layers on
// top of each other are one call, because two threads then halve them as no single layer could be: the products with the
// states need no other layer's result, so that one thread forms them ahead while the other one goes up the layers.
#pragma once

#include <sched.h>

#include "pause.h"
#include "sequence.h"

namespace rnnjax {
namespace RNNJAX_VARIANT {

// to[r][j] += Σ_k x[r][k] · weights[k][j] for `inner` rows k of weights, which are `across` numbers apart, and `width`
// vectors of columns, of which n numbers exist, a constant where all do.
template <class T, int rows, int width, class N>
inline void add_products(const T* x, int64_t inner, const T* weights, int64_t across, N n, T* to, int64_t to_row) {
  constexpr int lanes = Simd<T>::kLanes;
  Vec<T> sums[rows][width];
#pragma GCC unroll 8
  for (int r = 0; r < rows; ++r) {
#pragma GCC unroll 16
    for (int i = 0; i < width; ++i) sums[r][i] = load(to + r * to_row + i * lanes, n - i * lanes);
  }
  for (int64_t k = 0; k < inner; ++k, weights += across) {
    Vec<T> columns[width];
#pragma GCC unroll 16
    for (int i = 0; i < width; ++i) columns[i] = load(weights + i * lanes, n - i * lanes);
#pragma GCC unroll 8
    for (int r = 0; r < rows; ++r) {
      const Vec<T> factor = splat(x[r * inner + k]);
#pragma GCC unroll 16
      for (int i = 0; i < width; ++i) sums[r][i] += factor * columns[i];
    }
  }
#pragma GCC unroll 8
  for (int r = 0; r < rows; ++r) {
#pragma GCC unroll 16
    for (int i = 0; i < width; ++i) store(to + r * to_row + i * lanes, sums[r][i], n - i * lanes);
  }
}

// One layer's step of one model.
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
  // Numbers of scratch memory.
  static int64_t size(const Problem<T>& p) { return 2 * p.batch * row(p); }

  Single(const Problem<T>& p, int64_t model, T* scratch)
      : p_(p), model_(model), from_x_(scratch), from_h_(scratch + p.batch * row(p)) {}

  // The biases and the products with the inputs.
  void inputs() const {
    const int64_t across = kGates * p_.hidden, wide = row(p_);
    for (int64_t r = 0; r < p_.batch; ++r) {
      std::memcpy(from_x_ + r * wide, at(p_.b), across * sizeof(T));
      if (Cell::kApart) std::memcpy(from_x_ + r * wide + across, at(p_.b_n), p_.hidden * sizeof(T));
    }
    multiply(at(p_.x), p_.inputs, at(p_.w), across, from_x_);
  }
  // The products with the state, for which no other layer's result is needed.
  void state() const {
    const int64_t hidden = p_.hidden, across = kGates * hidden;
    std::memset(from_h_, 0, p_.batch * row(p_) * sizeof(T));
    const T *h = at(p_.h0), *u = at(p_.u);
    if (Cell::kApart) {
      multiply(h, hidden, u, 2 * hidden, from_h_);
      multiply(h, hidden, u + 2 * hidden, hidden, from_h_ + across);
    } else {
      multiply(h, hidden, u, across, from_h_);
    }
  }
  void finish() const {
    for (int64_t r = 0; r < p_.batch; ++r) {
      for (int64_t unit = 0; unit < p_.hidden; unit += kLanes) pointwise(r, unit);
    }
  }

 private:
  // Pre-activations of a row: a gate behind the other, and the GRU's product of the state for its candidate.
  static int64_t row(const Problem<T>& p) { return (kGates + Cell::kApart) * p.hidden; }

  template <class Q>
  Q* at(Operand<Q> operand) const {
    return operand.data ? operand.data + model_ * operand.stride : nullptr;
  }

  // to += left · weights, whose rows lie as far apart as all gates are wide. As many sums as registers hold go through
  // all rows of the weights, of which each is so read in long pieces.
  void multiply(const T* left, int64_t inner, const T* weights, int64_t columns, T* to) const {
    const int64_t across = kGates * p_.hidden, wide = row(p_);
    for_row_blocks(p_.batch, [&](int64_t first, int64_t count) {
      with_constant<kRows>(count, [&](auto rows) {
        constexpr int m = decltype(rows)::value, width = pass(kRows) * (m == 1 ? 4 : (m == 2 ? 2 : 1));
        const T* x = left + first * inner;
        T* z = to + first * wide;
        int64_t j = 0;
        for (; j + width * kLanes <= columns; j += width * kLanes) {
          add_products<T, m, width>(x, inner, weights + j, across, Constant<width * kLanes>(), z + j, wide);
        }
        for (; j < columns; j += kLanes) {
          add_products<T, m, 1>(x, inner, weights + j, across, least(kLanes, columns - j), z + j, wide);
        }
      });
    });
  }

  void pointwise(int64_t r, int64_t unit) const {
    const int64_t n = least(kLanes, p_.hidden - unit), own = r * p_.hidden + unit, first = r * row(p_) + unit;
    V pre[kSlots] = {}, h_new, c_new, keep[Cell::kKept + 1], c = {};
    for (int i = 0; i < kGates + Cell::kApart; ++i) {
      pre[i] = load(from_x_ + first + i * p_.hidden, n) + load(from_h_ + first + i * p_.hidden, n);
    }
    if (Cell::kHasC) c = load(at(p_.c0) + own, n);
    Cell::forward(pre, load(at(p_.h0) + own, n), c, &h_new, &c_new, keep);
    if (p_.ys.data) store(at(p_.ys) + own, h_new, n);
    store(at(p_.h) + own, h_new, n);
    if (Cell::kHasC) store(at(p_.c) + own, c_new, n);
    for (int j = 0; j < Cell::kKept && p_.keeps; ++j) {
      store(at(p_.kept) + (r * Cell::kKept + j) * p_.hidden + unit, keep[j], n);
    }
  }

  const Problem<T>& p_;
  const int64_t model_;
  T *const from_x_, *const from_h_;
};

// What two threads have of the products with the states: each is formed by the thread that claims it first.
class Claims {
 public:
  // `lines`: kLine bytes for each product, all zero.
  explicit Claims(void* lines) : lines_(static_cast<Line*>(lines)) {}
  static constexpr int64_t kLine = 64;

  bool claim(int64_t i) {
    int64_t none = kOpen;
    return __atomic_compare_exchange_n(&lines_[i].state, &none, kTaken, false, __ATOMIC_ACQ_REL, __ATOMIC_ACQUIRE);
  }
  void done(int64_t i) { __atomic_store_n(&lines_[i].state, kDone, __ATOMIC_RELEASE); }
  // For what another thread has claimed.
  void wait(int64_t i) const {
    for (int64_t n = 0; !over(i); ++n) n < kBusy ? pause() : (void)sched_yield();
  }
  // For what may not have begun.
  void stay(int64_t i) const {
    for (int64_t n = 0; !over(i) && n < kBusy; ++n) pause();
  }

 private:
  bool over(int64_t i) const { return __atomic_load_n(&lines_[i].state, __ATOMIC_ACQUIRE) == kDone; }

  enum : int64_t { kOpen, kTaken, kDone, kBusy = 2000 };
  struct alignas(kLine) Line {
    int64_t state;
  };
  Line* const lines_;
};

}  // namespace RNNJAX_VARIANT
}  // namespace rnnjax
