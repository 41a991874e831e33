// What distinguishes one cell from another: the pointwise part of a step, forwards and backwards.
//
// The loops know a cell by panels of at most four slots, each a vector of pre-activations. Where a cell has several
// gates, a panel is one vector of units with a slot for each gate; where it has one gate, it is four vectors of units.
// The GRU's candidate keeps the products of input and state apart: slots r, z, x's part of n, h's part of n.
//
//   kGates      gates in the weights; where it is 1, slots are vectors of units
//   kKept       arrays (B, H) that the backward pass needs of each step, the cell state first where there is one
//   forward     pre-activations z[slot], h and c before -> h and c after, and what is kept
//   backward    what was kept, h and c before, h after, cotangents of h and c after -> cotangents dz[slot] of the
//               pre-activations, c's before, and the part of h's before that goes past the products
#pragma once

#include "simd.h"

namespace rnnjax {
namespace RNNJAX_VARIANT {

constexpr int kSlots = 4;

template <class T>
struct LstmCell {
  typedef T Scalar;
  typedef Vec<T> V;
  static constexpr int kGates = 4, kKept = 5;
  static constexpr bool kHasC = true, kApart = false;

  static inline void forward(const V* z, V, V c, V* h_new, V* c_new, V* kept) {
    const V i = sigmoid(z[0]), f = sigmoid(z[1]), g = tanh(z[2]), o = sigmoid(z[3]);
    c = f * c + i * g;
    *h_new = o * tanh(c);
    *c_new = c;
    kept[0] = c, kept[1] = i, kept[2] = f, kept[3] = g, kept[4] = o;
  }

  static inline void backward(const V* kept, V, V c_before, V, V dh, V* dc, V* dz, V* past) {
    const V i = kept[1], f = kept[2], g = kept[3], o = kept[4], phi = tanh(kept[0]);
    const V d = *dc + dh * o * (1 - phi * phi);
    dz[0] = d * g * (i * (1 - i));
    dz[1] = d * c_before * (f * (1 - f));
    dz[2] = d * i * (1 - g * g);
    dz[3] = dh * phi * (o * (1 - o));
    *dc = d * f;
    *past = V{};
  }
};

template <class T>
struct GruCell {
  typedef T Scalar;
  typedef Vec<T> V;
  static constexpr int kGates = 3, kKept = 4;
  static constexpr bool kHasC = false, kApart = true;

  static inline void forward(const V* z, V h, V, V* h_new, V*, V* kept) {
    const V r = sigmoid(z[0]), u = sigmoid(z[1]), n = tanh(z[2] + r * z[3]);
    *h_new = (1 - u) * n + u * h;
    kept[0] = r, kept[1] = u, kept[2] = n, kept[3] = z[3];
  }

  static inline void backward(const V* kept, V h_before, V, V, V dh, V*, V* dz, V* past) {
    const V r = kept[0], u = kept[1], n = kept[2], product = kept[3];
    const V dn = dh * (1 - u) * (1 - n * n);
    dz[0] = dn * product * (r * (1 - r));
    dz[1] = dh * (h_before - n) * (u * (1 - u));
    dz[2] = dn;
    dz[3] = dn * r;
    *past = dh * u;
  }
};

struct Tanh {
  template <class V>
  static inline V value(V x) {
    return tanh(x);
  }
  template <class V>
  static inline V back(V y, V dy) {
    return dy * (1 - y * y);
  }
};

struct Relu {
  template <class V>
  static inline V value(V x) {
    return x < 0 ? V{} : x;  // a NaN stays
  }
  template <class V>
  static inline V back(V y, V dy) {
    return y > 0 ? dy : V{};  // nothing of a NaN or infinity where the slope is 0
  }
};

template <class T, class Activation>
struct ElmanCell {
  typedef T Scalar;
  typedef Vec<T> V;
  static constexpr int kGates = 1, kKept = 0;
  static constexpr bool kHasC = false, kApart = false;

  static inline void forward(const V* z, V, V, V* h_new, V*, V*) { *h_new = Activation::value(z[0]); }

  static inline void backward(const V*, V, V, V h_after, V dh, V*, V* dz, V* past) {
    dz[0] = Activation::back(h_after, dh);
    *past = V{};
  }
};

}  // namespace RNNJAX_VARIANT
}  // namespace rnnjax
