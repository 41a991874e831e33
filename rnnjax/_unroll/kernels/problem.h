// One call as the kernels receive it. Plain data without functions: this header is compiled for several instruction
// sets into one library, and an inline function compiled for the widest could otherwise be linked into the narrowest.
//
// Axes: N models, T steps, B rows, I input features, H hidden units, G gates. Every array leads with N; one that all
// models share has stride 0.
#pragma once

#include <cstdint>

namespace rnnjax {

enum Cell : int { kElmanTanh, kElmanRelu, kLstm, kGru, kCells };

template <class T>
struct Operand {
  T* data;
  int64_t stride;  // elements from one model to the next
};

// Runs task(arg, 0 … count - 1) on so many threads at most, and returns when all are done. `awake`: whether another
// thread is waiting for work, which needs not be woken.
struct Runner {
  int64_t threads;
  void* self;
  void (*run)(void* self, int64_t threads, int64_t count, void (*task)(void* arg, int64_t index), void* arg);
  bool (*awake)(void* self);
};

template <class T>
struct Problem {
  Cell cell;
  int64_t models, steps, batch, inputs, hidden;
  bool reverse;
  // What the forward pass keeps for the backward pass: nothing, the gates of every step, or the state before every
  // `every` steps, from which the backward pass forms the gates again.
  bool keeps;
  int64_t every;  // 0: the gates of every step
  bool wants_dx, wants_state;  // whether the gradients of x, and of h0 and c0, are asked for; these are then 0

  Operand<const T> x;                    // (T, B, I)
  Operand<const T> w, u, b, b_n;         // (I, G·H), (H, G·H), (G·H), (H) for the GRU's recurrent candidate
  Operand<const T> h0, c0;               // (B, H); c0 for the LSTM
  Operand<const bool> mask, reset;       // (T, B), or null
  Operand<const T> boundary_h, boundary_c;  // (B, H), the state behind a reset

  Operand<T> ys, h, c, kept;             // (T, B, H), (B, H), (B, H) and what is kept

  Operand<const T> ys_in, kept_in;       // what the forward pass returned
  Operand<const T> d_ys, d_h, d_c;       // cotangents of ys, h, c
  Operand<T> dx, dw, du, db, db_n, dh0, dc0, d_boundary_h, d_boundary_c;
};

// The kernels of one instruction set. They return false when memory runs out.
struct Variant {
  bool (*forward_f32)(const Problem<float>&, const Runner&);
  bool (*forward_f64)(const Problem<double>&, const Runner&);
  bool (*backward_f32)(const Problem<float>&, const Runner&);
  bool (*backward_f64)(const Problem<double>&, const Runner&);
  // A single step of layers, of few rows and without marks.
  bool (*climb_f32)(const Problem<float>* layers, int64_t count, const Runner&);
  bool (*climb_f64)(const Problem<double>* layers, int64_t count, const Runner&);
};

}  // namespace rnnjax
