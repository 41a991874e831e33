// The product that every loop here is made of, and the layouts that it reads.
//
// A tile is up to kRows rows times up to four vectors of columns, held in registers while it runs along k. The right
// operand is packed in panels, so that one k is a few vectors side by side; the left one is read one number at a time.
#pragma once

#include "cells.h"

namespace rnnjax {
namespace RNNJAX_VARIANT {

// 32 vector registers hold six rows of four vectors. 16 hold six rows of two, so that a panel is taken in two passes, or
// two rows of four, of which fewer would wait for each other's sums.
constexpr int kRows = 6;
#if defined(__AVX512F__) || defined(__aarch64__)
constexpr int pass(int) { return 4; }
#else
constexpr int pass(int rows) { return rows <= 2 ? 4 : 2; }
#endif

struct SameSlot {
  static constexpr int slot(int i) { return i; }
};

// The third gate of the GRU's recurrent product has a slot of its own.
struct ApartSlot {
  static constexpr int slot(int i) { return i == 2 ? 3 : i; }
};

template <bool apart>
struct Slots {
  typedef SameSlot Type;
};
template <>
struct Slots<true> {
  typedef ApartSlot Type;
};

// acc[r][To::slot(i)] += Σ_k a(r, k) · b(k)[From::slot(i)] for i in first … first + count - 1; one row of b is b_step
// numbers. a(r, k) = a[r · a_row + k] where the left operand lies in rows, or a[k · kRows + r] where it is packed. Where
// it `fetches`, a vector a step of what lies from `ahead` on is brought into the second cache meanwhile.
template <class T, int rows, int first, int count, bool packed, class From, class To, bool fetches = false>
inline __attribute__((always_inline)) void multiply(Vec<T> (&acc)[rows][kSlots], const T* a, int64_t a_row, const T* b,
                                                    int64_t b_step, int64_t steps, const T* ahead = nullptr) {
  constexpr int lanes = Simd<T>::kLanes;
  for (int64_t k = 0; k < steps; ++k) {
    Vec<T> columns[count];
#pragma GCC unroll 8
    for (int i = 0; i < count; ++i) columns[i] = load(b + From::slot(first + i) * lanes);
#pragma GCC unroll 8
    for (int r = 0; r < rows; ++r) {
      const Vec<T> x = splat(packed ? a[r] : a[r * a_row]);
#pragma GCC unroll 8
      for (int i = 0; i < count; ++i) acc[r][To::slot(first + i)] += x * columns[i];
    }
    if constexpr (fetches) __builtin_prefetch(ahead + k * lanes, 0, 2);
    a += packed ? kRows : 1;
    b += b_step;
  }
}

// f(r, i) for every row and every one of these vectors of a tile, without a loop, so that the tile stays in registers
// between its products: written to memory and read back it costs a tile of 128 steps a tenth of its time.
template <int rows, int first, int count, class F>
inline __attribute__((always_inline)) void each(F&& f) {
#pragma GCC unroll 8
  for (int i = first; i < first + count; ++i) {
#pragma GCC unroll 8
    for (int r = 0; r < rows; ++r) f(r, i);
  }
}

template <int n>
struct Constant {
  static constexpr int value = n;
  constexpr operator int64_t() const { return n; }
};

// Calls f(Constant<n>()) for a number n in 1 … greatest.
template <int greatest, class F>
inline void with_constant(int64_t n, F&& f) {
  if constexpr (greatest == 1) {
    f(Constant<1>());
  } else if (n >= greatest) {
    f(Constant<greatest>());
  } else {
    with_constant<greatest - 1>(n, f);
  }
}

inline int64_t ceil_div(int64_t a, int64_t b) { return (a + b - 1) / b; }
inline int64_t least(int64_t a, int64_t b) { return a < b ? a : b; }
inline int64_t greatest(int64_t a, int64_t b) { return a > b ? a : b; }

// Calls body(first, count) for blocks of at most kRows rows of about equal height.
template <class Body>
inline void for_row_blocks(int64_t rows, Body&& body) {
  const int64_t blocks = ceil_div(rows, kRows);
  for (int64_t i = 0; i < blocks; ++i) {
    const int64_t first = rows * i / blocks, last = rows * (i + 1) / blocks;
    body(first, last - first);
  }
}

// The tiles that cells share. They are functions of their own, so that there is one of each size and not one for each
// cell, and a tile is long enough for a call not to matter.

// z[r][slot] = bias[r][slot] + x w + h u for the packed vectors first … first + count - 1 of one panel, whose rows hold
// `vectors` of them. x and h are rows of numbers, w and u panels; a bias for all rows has `bias_row` 0. `ahead`: a vector
// for each k of the panel of u that comes next.
template <class T, int rows, int first, int count, class OfState>
__attribute__((noinline)) void forward_tile(const T* x, int64_t x_row, const T* w, int64_t inputs, const T* h,
                                            int64_t h_row, const T* u, int64_t hidden, int64_t vectors, const T* bias,
                                            int64_t bias_row, T* z, const T* ahead) {
  constexpr int lanes = Simd<T>::kLanes;
  Vec<T> acc[rows][kSlots];
  each<rows, first, count>([&](int r, int i) {
    acc[r][i] = load(bias + r * bias_row + i * lanes);
    acc[r][OfState::slot(i)] = load(bias + r * bias_row + OfState::slot(i) * lanes);
  });
  multiply<T, rows, first, count, false, SameSlot, SameSlot>(acc, x, x_row, w, vectors * lanes, inputs);
  multiply<T, rows, first, count, false, SameSlot, OfState, true>(acc, h, h_row, u, vectors * lanes, hidden, ahead);
  each<rows, first, count>([&](int r, int i) {
    store(z + (r * kSlots + i) * lanes, acc[r][i]);
    store(z + (r * kSlots + OfState::slot(i)) * lanes, acc[r][OfState::slot(i)]);
  });
}

// Cotangents dz of pre-activations of some rows, [panel][row][slot][lane], as a left operand: of each panel the first
// `run` vectors, and after them the one in slot `apart`, if that is not 0.
template <class T>
struct Cotangents {
  const T* dz;
  int64_t panels, in_panel;  // in_panel: numbers from one panel to the next
  int64_t run, last_run;     // last_run: in the last panel
  int64_t apart;
};

// to[r][0 … limit) = dz · weights, or += where it adds, for the vectors first … first + count - 1 of a column panel.
// `ahead`: a vector for each k of the column panel that comes next.
template <class T, int rows, int first, int count>
__attribute__((noinline)) void product_tile(const Cotangents<T>& left, const T* dz, const T* weights, T* const* to,
                                            int64_t limit, bool adds, const T* ahead) {
  constexpr int lanes = Simd<T>::kLanes, step = kSlots * lanes;
  Vec<T> acc[rows][kSlots];
  each<rows, first, count>([&](int r, int i) { acc[r][i] = adds ? load(to[r] + i * lanes) : Vec<T>{}; });
  for (int64_t panel = 0; panel < left.panels; ++panel, dz += left.in_panel) {
    const int64_t run = lanes * (panel + 1 == left.panels ? left.last_run : left.run);
    multiply<T, rows, first, count, false, SameSlot, SameSlot, true>(acc, dz, step, weights, step, run, ahead);
    weights += run * step, ahead += run * lanes;
    if (left.apart == 0) continue;
    multiply<T, rows, first, count, false, SameSlot, SameSlot>(acc, dz + left.apart * lanes, step, weights, step, lanes);
    weights += lanes * step;
  }
  each<rows, first, count>([&](int r, int i) {
    if (i * lanes < limit) store(to[r] + i * lanes, acc[r][i], limit - i * lanes);
  });
}

// gradient[j][vector] = Σ_k left[k][j] dz[k][slot], or += where it adds, for kRows features; a row of `gradient` holds
// `vectors` of them.
template <class T, int first, int count, class Of>
__attribute__((noinline)) void gradient_tile(const T* left, const T* dz, int64_t depth, int64_t vectors, bool adds,
                                             T* gradient) {
  constexpr int lanes = Simd<T>::kLanes;
  Vec<T> acc[kRows][kSlots];
  each<kRows, first, count>([&](int j, int i) {
    acc[j][i] = adds ? load(gradient + (j * vectors + i) * lanes) : Vec<T>{};
  });
  multiply<T, kRows, first, count, true, Of, SameSlot>(acc, left, 0, dz, kSlots * lanes, depth);
  each<kRows, first, count>([&](int j, int i) { store(gradient + (j * vectors + i) * lanes, acc[j][i]); });
}

// How the units and gates of a cell lie in panels.
template <class C>
struct Layout {
  typedef C Cell;
  typedef typename C::Scalar T;
  static constexpr int kLanes = Simd<T>::kLanes;
  static constexpr int kUnitVectors = Cell::kGates == 1 ? kSlots : 1;   // vectors of units in a panel
  static constexpr int kVectors = Cell::kGates == 1 ? kSlots : Cell::kGates;  // vectors of weights in a row of a panel
  static constexpr int kWidth = kUnitVectors * kLanes;                  // units in a panel

  int64_t hidden, panels, padded;  // padded: units in all panels

  explicit Layout(int64_t hidden)
      : hidden(hidden), panels(ceil_div(hidden, kWidth)), padded(panels * kWidth) {}

  // Vectors of weights in a panel that hold any unit.
  int64_t vectors(int64_t panel) const {
    if (Cell::kGates > 1) return kVectors;
    return least(kVectors, ceil_div(hidden - panel * kWidth, kLanes));
  }
  // Calls f with the constant `vectors(panel)`.
  template <class F>
  void with_vectors(int64_t panel, F&& f) const {
    if constexpr (Cell::kGates > 1) {
      f(Constant<kVectors>());
    } else {
      with_constant<kVectors>(vectors(panel), f);
    }
  }
  // Where the vectors of a panel lie in a row of the weights (K, G·H): the first one, from one to the next, from row to row,
  // and how many of their lanes are units.
  struct Places {
    int64_t first, apart, across, n[kVectors];
    Places(const Layout& layout, int64_t panel)
        : first(layout.first_unit(panel, 0)),
          apart(Cell::kGates == 1 ? kLanes : layout.hidden),
          across(Cell::kGates * layout.hidden) {
      for (int i = 0; i < kVectors; ++i) n[i] = layout.units(panel, i);
    }
  };
  int64_t first_unit(int64_t panel, int i) const { return panel * kWidth + (Cell::kGates == 1 ? i * kLanes : 0); }
  // Units from first_unit on that exist.
  int64_t units(int64_t panel, int i) const { return least(kLanes, hidden - first_unit(panel, i)); }
};

// Weights (K, G·H) as panels [panel][k][vector][lane]; lanes without a unit are zero.
template <class L, class T>
void pack_panel(const L& layout, const T* weights, int64_t rows, int64_t panel, T* out) {
  const typename L::Places places(layout, panel);
  weights += places.first;
  for (int64_t k = 0; k < rows; ++k, weights += places.across) {
#pragma GCC unroll 4
    for (int i = 0; i < L::kVectors; ++i, out += L::kLanes) {
      store(out, places.n[i] > 0 ? load(weights + i * places.apart, places.n[i]) : Vec<T>{});
    }
  }
}

// Undoes pack_panel, adding up `parts` panels that lie `part_stride` apart.
template <class L, class T>
void unpack_panel(const L& layout, const T* in, int64_t parts, int64_t part_stride, int64_t rows, int64_t panel,
                  T* weights) {
  const typename L::Places places(layout, panel);
  weights += places.first;
  for (int64_t k = 0; k < rows; ++k, weights += places.across) {
#pragma GCC unroll 4
    for (int i = 0; i < L::kVectors; ++i, in += L::kLanes) {
      if (places.n[i] <= 0) continue;
      Vec<T> v = load(in);
      for (int64_t part = 1; part < parts; ++part) v += load(in + part * part_stride);
      store(weights + i * places.apart, v, places.n[i]);
    }
  }
}

// Weights (K, G·H) transposed, for products with dz: the columns are the K rows, in panels of four vectors, and k runs
// over the cotangents in their order, [panel][slot][lane], without the slots that the product leaves out.
template <class L, class T>
void pack_transposed(const L& layout, const T* weights, int64_t rows, int64_t column_panel, T* out) {
  constexpr int64_t lanes = L::kLanes, width = kSlots * lanes;
  const int64_t first = column_panel * width, n = least(width, rows - first);
  for (int64_t panel = 0; panel < layout.panels; ++panel) {
    const typename L::Places places(layout, panel);
    const T* from = weights + first * places.across + places.first;
    for (int i = 0; i < layout.vectors(panel); ++i, out += lanes * width) {
      for (int64_t column = 0; column < width; column += lanes) {
        Vec<T> square[lanes];
        for (int64_t j = 0; j < lanes; ++j) {
          const T* row = from + (column + j) * places.across + i * places.apart;
          square[j] = column + j < n && places.n[i] > 0 ? load(row, places.n[i]) : Vec<T>{};
        }
        transpose<T>(square);
        for (int64_t lane = 0; lane < lanes; ++lane) store(out + lane * width + column, square[lane]);
      }
    }
  }
}

// Numbers in a column panel of pack_transposed.
template <class L>
int64_t transposed_size(const L& layout) {
  int64_t vectors = 0;
  for (int64_t panel = 0; panel < layout.panels; ++panel) vectors += layout.vectors(panel);
  return vectors * L::kLanes * kSlots * L::kLanes;
}

}  // namespace RNNJAX_VARIANT
}  // namespace rnnjax
