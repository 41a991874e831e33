// A block of rows over all time steps, forwards and backwards: the one skeleton of every cell.
//
// Rows of a batch do not depend on each other, so that a thread takes a block of them through the whole sequence
// without waiting for anyone. Only the weights' gradients add up over rows: each block has its own, added at the end.
#pragma once

#include <type_traits>

#include "pair.h"
#include "problem.h"
#include "tile.h"

namespace rnnjax {
namespace RNNJAX_VARIANT {

// The packed weights of one model.
template <class Cell>
struct Packed {
  typedef typename Cell::Scalar T;
  const T *w, *u;      // pack_panel
  const T* bias;       // [panel][slot][lane]
  const T *wt, *ut;    // pack_transposed, for the backward pass
};

template <class F>
void parallel(const Runner& runner, int64_t count, F&& body) {
  if (runner.threads <= 1 || count <= 1) {
    for (int64_t i = 0; i < count; ++i) body(i);
  } else {
    typedef typename std::remove_reference<F>::type Body;
    runner.run(runner.self, runner.threads, count, [](void* arg, int64_t i) { (*static_cast<Body*>(arg))(i); }, (void*)&body);
  }
}

// What one model's block of rows reads and writes.
template <class Cell>
class Rows {
  typedef typename Cell::Scalar T;
  typedef Vec<T> V;
  typedef Layout<Cell> L;
  typedef typename Slots<Cell::kApart>::Type OfState;
  static constexpr int kLanes = L::kLanes;
  static constexpr int kKept = Cell::kKept;

 public:
  // `runner`: threads for the parts of this block's work that can be divided, where no other block needs them.
  Rows(const Problem<T>& p, const Runner& runner, int64_t model, int64_t first, int64_t rows,
       const Packed<Cell>& packed)
      : p_(p), runner_(runner), layout_(p.hidden), packed_(packed), model_(model), first_(first), rows_(rows) {
    stride_ = layout_.padded + kLanes;  // not a power of two, which would crowd a cache's sets
    const int64_t bytes_a_row = layout_.panels * kSlots * RNNJAX_VECTOR_BYTES;
    const int64_t depth = greatest(kBlockBytes / bytes_a_row, kLeastDepth);
    block_ = greatest(1, least(ceil_div(depth, greatest(rows_, 1)), p.steps));
    ahead_ = rows_ < kFewRows ? least(kAhead, p.steps) : 0;
  }
  // Rows of the first step whose products with u are left out: all where they begin with zeros, as they mostly do.
  int64_t resting() const {
    if (p_.reset.data) return 0;
    const T* h0 = at(p_.h0) + first_ * p_.hidden;
    typename Simd<T>::Index moves = {};
    for (int64_t i = 0; i < rows_ * p_.hidden; i += kLanes) moves |= load(h0 + i, rows_ * p_.hidden - i) != 0;
    for (int lane = 0; lane < kLanes; ++lane) {
      if (moves[lane]) return 0;
    }
    return rows_;
  }

  // Numbers of scratch memory that forward and backward need.
  static int64_t forward_scratch(const Problem<T>& p, const Runner& runner, int64_t rows) {
    Packed<Cell> none = {};
    return Rows(p, runner, 0, 0, rows, none).forward_size();
  }
  static int64_t backward_scratch(const Problem<T>& p, const Runner& runner, int64_t rows) {
    Packed<Cell> none = {};
    return Rows(p, runner, 0, 0, rows, none).backward_size();
  }
  // Numbers in the packed gradient of w, u and the biases.
  static int64_t gradient_size(const Problem<T>& p) {
    const L layout(p.hidden);
    return layout.panels * (features(p.inputs) + features(p.hidden)) * L::kVectors * kLanes +
           layout.panels * kSlots * kLanes;
  }
  static int64_t features(int64_t n) { return ceil_div(n, kRows) * kRows; }

  void forward(T* scratch) {
    State states[kStates];
    for (State& one : states) one = state(scratch);
    State &now = states[0], &next = states[1];
    start(at(p_.h0), at(p_.c0), now);
    const bool rests = resting() > 0;
    T* products = take(scratch, ahead_ * rows_ * in_row());
    T* kept = p_.keeps && p_.every == 0 ? at(p_.kept) : nullptr;
    // keeps what has to be kept of a whole state
    const auto begin = [&](int64_t s, State now) {
      if (p_.keeps && p_.every > 0 && Cell::kHasC && s % p_.every == 0) {
        unload(now.c, at(p_.kept) + (s / p_.every * p_.batch + first_) * p_.hidden);
      }
      restart(time(s), now);
    };
    const auto step = [&](int64_t s, State now, State next) {
      const int64_t t = time(s), row = t * p_.batch + first_;
      return Step{t, s == 0 && rests, now, next, ahead_ > 0 ? products + s % ahead_ * kSlots * kLanes : nullptr,
                  at(p_.ys) + row * p_.hidden, kept ? kept + row * kKept * p_.hidden : nullptr};
    };
    const int64_t part = ahead_ > 0 ? ahead_ : greatest(p_.steps, 1);
    for (int64_t from = 0; from < p_.steps; from += part) {
      const int64_t to = least(from + part, p_.steps);
      if (ahead_ > 0) project(from, to, products);
      if (paired()) {
        in_pair(from, to, begin, step, states);
        continue;
      }
      for (int64_t s = from; s < to; ++s, swap(now, next)) {
        begin(s, now);
        panels(step(s, now, next), 0, layout_.panels);
      }
    }
    unload(now.h, at(p_.h) + first_ * p_.hidden);
    if (Cell::kHasC) unload(now.c, at(p_.c) + first_ * p_.hidden);
  }

  // `gradient` is this block's packed gradient of the weights, which it sets.
  void backward(T* scratch, T* gradient) {
    dh_ = take(scratch, rows_ * stride_);
    dc_ = take(scratch, rows_ * stride_);
    d_boundary_h_ = take(scratch, rows_ * stride_);
    d_boundary_c_ = take(scratch, rows_ * stride_);
    Piece now = piece(scratch), last = overlaps() ? piece(scratch) : Piece{};
    gradient_ = gradient;
    if (p_.steps == 0) zero(gradient_, gradient_size(p_));
    zero(d_boundary_h_, rows_ * stride_);
    zero(d_boundary_c_, rows_ * stride_);
    fill(at(p_.d_h) + first_ * p_.hidden, dh_);
    if (Cell::kHasC) fill(at(p_.d_c) + first_ * p_.hidden, dc_);

    // A thread goes back through a piece. Other threads form the products of the piece before meanwhile, or the same
    // thread forms those of this one at once, while it is in the cache.
    const int64_t part = p_.every > 0 ? p_.every : greatest(p_.steps, 1);
    for (int64_t from = (p_.steps - 1) / part * part; from >= 0 && p_.steps > 0; from -= part) {
      const int64_t to = least(from + part, p_.steps);
      for (int64_t end = to; end > from; end -= block_) {
        now.begin = greatest(end - block_, from), now.end = end;
        parallel(runner_, 1 + weighings(last), [&](int64_t i) {
          if (i > 0) return weigh(last, i - 1);
          if (p_.every > 0 && end == to) remember(from, to, scratch);
          back_through(now, from);
        });
        if (overlaps()) {
          swap(now, last);
        } else {
          for (int64_t i = 0; i < weighings(now); ++i) weigh(now, i);
        }
      }
    }
    parallel(runner_, weighings(last), [&](int64_t i) { weigh(last, i); });

    unload(dh_, at(p_.dh0) + first_ * p_.hidden);
    if (Cell::kHasC) unload(dc_, at(p_.dc0) + first_ * p_.hidden);
    // not `reset`, which is null also where there are no steps
    if (p_.d_boundary_h.data) unload(d_boundary_h_, at(p_.d_boundary_h) + first_ * p_.hidden);
    if (p_.d_boundary_c.data) unload(d_boundary_c_, at(p_.d_boundary_c) + first_ * p_.hidden);
  }

 private:
  // The weights' gradients are formed for a block of steps at once: so many bytes of dz, which stay in the cache, but
  // at least so many rows, that the products are deep enough.
  static constexpr int64_t kBlockBytes = 384 << 10, kLeastDepth = 128;
  // Fewer rows than these leave the products waiting for the weights to come from the cache. Those with the inputs are
  // then formed for so many steps at once.
  static constexpr int64_t kFewRows = 4, kAhead = 192;
  // Rows of dx that are formed at once.
  static constexpr int64_t kInputRows = 48;
  // Multiplications of a step from which two threads share it.
  static constexpr int64_t kWorthPairing = 32 << 10;

  // The rows' h, and c behind it where the cell has one.
  struct State {
    T *h, *c;
  };
  // One step forwards: what it reads and what it sets. `product` is what `project` formed; it, ys and kept may be null.
  // `rests`: h before it is zero.
  struct Step {
    int64_t t;
    bool rests;
    State before, after;
    const T* product;
    T *ys, *kept;
  };
  // Steps begin … end - 1 backwards: their cotangents, the left operands of their products, and the rows of the first step
  // that are left out of those with u.
  struct Piece {
    int64_t begin, end;
    T *dz, *left;
    int64_t rests;
  };
  // Forwards, the states that a step reads and sets; two threads have three more.
  static constexpr int kStates = 5;

  // Pre-activations of a row, or their cotangents.
  int64_t in_row() const { return layout_.panels * kSlots * kLanes; }
  // Whether there are threads that form products while another one goes on.
  bool overlaps() const { return runner_.threads > 1; }
  Piece piece(T*& scratch) const {
    T* dz = take(scratch, block_ * rows_ * in_row());
    return {0, 0, dz, take(scratch, block_ * rows_ * (features(p_.inputs) + features(p_.hidden))), 0};
  }

  int64_t state_size() const { return (Cell::kHasC ? 2 : 1) * rows_ * stride_; }
  State state(T*& scratch) const {
    T* h = take(scratch, state_size());
    return {h, Cell::kHasC ? h + rows_ * stride_ : nullptr};
  }

  int64_t forward_size() const {
    return kStates * state_size() + kLanes + ahead_ * rows_ * in_row();
  }
  int64_t backward_size() const {
    int64_t size = 4 * rows_ * stride_ + kLanes;
    size += (overlaps() ? 2 : 1) * block_ * rows_ * (in_row() + features(p_.inputs) + features(p_.hidden));
    if (p_.every > 0) size += 2 * state_size() + least(p_.every, p_.steps) * rows_ * kKept * p_.hidden;
    return size;
  }

  static T* take(T*& scratch, int64_t n) {
    T* taken = scratch;
    scratch += n;
    return taken;
  }
  template <class Q>
  static void swap(Q& a, Q& b) {
    const Q c = a;
    a = b;
    b = c;
  }
  static void zero(T* p, int64_t n) { std::memset(p, 0, n * sizeof(T)); }

  template <class Q>
  Q* at(Operand<Q> operand) const {
    return operand.data ? operand.data + model_ * operand.stride : nullptr;
  }
  int64_t time(int64_t s) const { return p_.reverse ? p_.steps - 1 - s : s; }
  bool masked(int64_t t, int64_t r) const { return p_.mask.data && !at(p_.mask)[t * p_.batch + first_ + r]; }
  bool restarts(int64_t t, int64_t r) const { return p_.reset.data && at(p_.reset)[t * p_.batch + first_ + r]; }

  // Rows (rows, H) to and from rows with padding.
  void fill(const T* from, T* to) const {
    for (int64_t r = 0; r < rows_; ++r) fill_row(from + r * p_.hidden, to + r * stride_);
  }
  void fill_row(const T* from, T* to) const {
    std::memcpy(to, from, p_.hidden * sizeof(T));
    zero(to + p_.hidden, stride_ - p_.hidden);
  }
  void unload(const T* from, T* to) const {
    for (int64_t r = 0; r < rows_; ++r) std::memcpy(to + r * p_.hidden, from + r * stride_, p_.hidden * sizeof(T));
  }
  void start(const T* h0, const T* c0, State to) const {
    fill(h0 + first_ * p_.hidden, to.h);
    if (Cell::kHasC) fill(c0 + first_ * p_.hidden, to.c);
  }

  // Pre-activations from the inputs of steps from … to - 1 alone, as [panel][row][step][slot][lane].
  void project(int64_t from, int64_t to, T* products) const {
    constexpr int step = L::kVectors * kLanes;
    const int64_t across = (p_.reverse ? -1 : 1) * p_.batch * p_.inputs;
    parallel(runner_, layout_.panels, [&](int64_t panel) {
      const T *w = packed_.w + panel * p_.inputs * step, *bias = packed_.bias + panel * kSlots * kLanes;
      layout_.with_vectors(panel, [&](auto vectors) {
        constexpr int n = decltype(vectors)::value;
        for (int64_t r = 0; r < rows_; ++r) {
          const T* x = at(p_.x) + (time(from) * p_.batch + first_ + r) * p_.inputs;
          T* z = products + (panel * rows_ + r) * ahead_ * kSlots * kLanes;
          for_row_blocks(to - from, [&](int64_t s, int64_t count) {
            with_constant<kRows>(count, [&](auto rows) {
              constexpr int m = decltype(rows)::value;
              both_passes<m, n>(x + s * across, across, w, p_.inputs, nullptr, 0, nullptr, 0, bias, 0,
                                z + s * kSlots * kLanes, nullptr);
            });
          });
        }
      });
    });
  }

  // The state of every row where a reset comes before this time.
  void restart(int64_t t, State state) const {
    for (int64_t r = 0; r < rows_ && p_.reset.data; ++r) {
      if (!restarts(t, r)) continue;
      fill_row(at(p_.boundary_h) + (first_ + r) * p_.hidden, state.h + r * stride_);
      if (Cell::kHasC) fill_row(at(p_.boundary_c) + (first_ + r) * p_.hidden, state.c + r * stride_);
    }
  }

  // Panels first … last - 1 of one step forwards.
  void panels(const Step& step, int64_t first, int64_t last) const {
    const T* x = at(p_.x) + (step.t * p_.batch + first_) * p_.inputs;
    for (int64_t panel = first; panel < last; ++panel) {
      layout_.with_vectors(panel, [&](auto vectors) {
        for_row_blocks(rows_, [&](int64_t r, int64_t count) {
          with_constant<kRows>(count, [&](auto rows) {
            tile<decltype(rows)::value, decltype(vectors)::value>(step, panel, r, x);
          });
        });
      });
    }
  }

  // Whether two threads gain more by sharing each step than the waiting at its end costs. A reset would have to wait once
  // more.
  bool paired() const {
    return ahead_ > 0 && runner_.threads > 1 && layout_.panels > 1 && rows_ * work() >= kWorthPairing && !p_.reset.data;
  }
  int64_t work() const { return p_.hidden * Cell::kGates * p_.hidden; }

  // Steps from … to - 1 by two threads: the first to come leads, and has the first half of the panels; the other one,
  // from when it comes, has the rest. A panel is computed alike by either. Each goes on to the next step as soon as both
  // halves of the last one are there. Where the other one is late, as on a busy machine, the leader goes on alone. The
  // other one then still ends the step that it has begun, which may be this one or the next: its results are left to it,
  // and the leader forms the state again where nobody else writes or reads: three states in turn, so that the next step
  // sets none that this one reads, and two more. states[0] is the state before and afterwards.
  template <class Begin, class Make>
  void in_pair(int64_t from, int64_t to, Begin&& begin, Make&& make, State (&states)[kStates]) const {
    Pair pair;
    Step given[2];  // steps s and s + 1
    const int64_t middle = (layout_.panels + 1) / 2;
    const auto post = [&](int64_t s, State before, State after) {
      given[s % 2] = make(s, before, after);
      pair.post(s);
    };
    const auto lead = [&] {
      State &now = states[0], &next = states[1], &later = states[2];
      bool both = false, alone = false;
      int64_t theirs = -1;  // the last step of which the other one sets its half
      const auto rest = [&](int64_t s, Step step) {
        if (s <= theirs) step.ys = step.kept = nullptr;
        panels(step, middle, layout_.panels);
      };
      for (int64_t s = from; s < to; ++s, swap(now, next)) {
        begin(s, now);
        if (!both && !alone && pair.complete()) {
          both = true;
          pair.begin(s);
          post(s, now, next);
        }
        Step step = make(s, now, next);
        panels(step, 0, middle);
        if (!both) {
          rest(s, step);
          continue;
        }
        if (s + 1 < to) post(s + 1, next, later);
        if (pair.wait_done(s, kPatience + rows_ * work() / 64)) {
          swap(now, later);
          continue;
        }
        both = false, alone = true;
        theirs = pair.close();
        step.after = states[3];
        panels(step, 0, middle);
        rest(s, step);
        swap(next, states[3]);
        swap(now, states[4]);
      }
      pair.close();
    };
    const auto follow = [&] {
      for (int64_t s; pair.wait_posted(&s);) {
        panels(given[s % 2], middle, layout_.panels);
        pair.report(s);
      }
    };
    parallel(runner_, 2, [&](int64_t) { pair.arrive() == 0 ? lead() : follow(); });
  }

  template <int rows, int vectors>
  void tile(const Step& to, int64_t panel, int64_t r, const T* x) const {
    constexpr int step = L::kVectors * kLanes, wide = kSlots * kLanes;
    V z[rows][kSlots];
    const T *w = packed_.w + panel * p_.inputs * step, *u = packed_.u + panel * p_.hidden * step;
    const int64_t across = ahead_ * wide;
    const T* bias = to.product ? to.product + (panel * rows_ + r) * across : packed_.bias + panel * wide;
    const T* next = packed_.u + (panel + 1 < layout_.panels ? panel + 1 : 0) * p_.hidden * step;
    both_passes<rows, vectors>(x + r * p_.inputs, p_.inputs, w, to.product ? 0 : p_.inputs, to.before.h + r * stride_,
                               stride_, u, to.rests ? 0 : p_.hidden, bias, to.product ? across : 0,
                               reinterpret_cast<T*>(z), next + share(r) % L::kVectors * p_.hidden * kLanes);
    for (int i = 0; i < rows; ++i) {
      const bool held = masked(to.t, r + i);
      for (int v = 0; v < (Cell::kGates == 1 ? vectors : 1); ++v) {
        const int64_t unit = layout_.first_unit(panel, v), n = layout_.units(panel, v);
        const int64_t own = (r + i) * stride_ + unit;
        const V before = load(to.before.h + own);
        V h_new, c_new, keep[kKept + 1];
        V c_before = {};
        if (Cell::kHasC) c_before = load(to.before.c + own);
        Cell::forward(z[i] + v, before, c_before, &h_new, &c_new, keep);
        if (held) {
          h_new = before;
          if (Cell::kHasC) keep[0] = c_new = c_before;
        }
        store(to.after.h + own, h_new);
        if (Cell::kHasC) store(to.after.c + own, c_new);
        if (to.ys) store(to.ys + (r + i) * p_.hidden + unit, h_new, n);
        for (int j = 0; j < kKept && to.kept; ++j) {
          store(to.kept + ((r + i) * kKept + j) * p_.hidden + unit, keep[j], n);
        }
      }
    }
  }

  // A forward tile of all vectors of a panel.
  template <int rows, int vectors>
  static void both_passes(const T* x, int64_t x_row, const T* w, int64_t inputs, const T* h, int64_t h_row, const T* u,
                          int64_t hidden, const T* bias, int64_t bias_row, T* z, const T* ahead) {
    constexpr int once = vectors < pass(rows) ? vectors : pass(rows);
    forward_tile<T, rows, 0, once, OfState>(x, x_row, w, inputs, h, h_row, u, hidden, L::kVectors, bias, bias_row, z, ahead);
    if constexpr (vectors > once) {
      forward_tile<T, rows, once, vectors - once, OfState>(x, x_row, w, inputs, h, h_row, u, hidden, L::kVectors, bias,
                                                           bias_row, z, ahead);
    }
  }

  // While the rows of one panel are computed, the next one comes nearer: each block of rows fetches a vector of every
  // row of it, as it takes from its own. Without, large weights are waited for again in every step.
  static int64_t share(int64_t r) { return r / kRows % kSlots; }

  // Forms again what the steps from … to - 1 keep, from the state before them.
  void remember(int64_t from, int64_t to, T* scratch) {
    State now = state(scratch), next = state(scratch);
    remembered_ = scratch;
    for (int64_t r = 0; r < rows_; ++r) fill_row(h_before(from, r), now.h + r * stride_);
    if (Cell::kHasC) fill(at(p_.kept_in) + (from / p_.every * p_.batch + first_) * p_.hidden, now.c);
    for (int64_t s = from; s < to && kKept > 0; ++s, swap(now, next)) {
      const int64_t t = time(s);
      restart(t, now);
      panels({t, false, now, next, nullptr, nullptr, remembered_ + (s - from) * rows_ * kKept * p_.hidden}, 0, layout_.panels);
    }
  }

  // What step s kept of a row; `from` is the first step that is remembered.
  const T* kept_of(int64_t s, int64_t r, int64_t from) const {
    const int64_t row = p_.every > 0 ? (s - from) * rows_ + r : time(s) * p_.batch + first_ + r;
    return (p_.every > 0 ? remembered_ : at(p_.kept_in)) + row * kKept * p_.hidden;
  }
  // A row's state as step s finds it, before a reset.
  const T* h_before(int64_t s, int64_t r) const {
    if (s == 0) return at(p_.h0) + (first_ + r) * p_.hidden;
    return at(p_.ys_in) + (time(s - 1) * p_.batch + first_ + r) * p_.hidden;
  }
  const T* c_before(int64_t s, int64_t r, int64_t from) const {
    if (s == 0) return at(p_.c0) + (first_ + r) * p_.hidden;
    if (p_.every > 0 && s == from) return at(p_.kept_in) + (s / p_.every * p_.batch + first_ + r) * p_.hidden;
    return kept_of(s - 1, r, from);
  }

  // Back through a piece: its cotangents, and what its steps have read as operands of products.
  void back_through(Piece& piece, int64_t from) {
    for (int64_t s = piece.end - 1; s >= piece.begin; --s) {
      const int64_t t = time(s);
      T* dz = piece.dz + (s - piece.begin) * rows_ * kSlots * kLanes;
      for (int64_t r = 0; r < rows_; ++r) pointwise(s, t, r, from, dz + r * kSlots * kLanes);
      if (s == 0 && !p_.wants_state && !p_.reset.data) {
        zero(dh_, rows_ * stride_), zero(dc_, rows_ * stride_);
        continue;
      }
      product(cotangents(dz, Cell::kApart), packed_.ut, p_.hidden, rows_, true,
              [&](int64_t r) { return dh_ + r * stride_; });
      for (int64_t r = 0; r < rows_ && p_.reset.data; ++r) {
        if (!restarts(t, r)) continue;
        cut(dh_ + r * stride_, d_boundary_h_ + r * stride_);
        if (Cell::kHasC) cut(dc_ + r * stride_, d_boundary_c_ + r * stride_);
      }
    }
    const int64_t begin = piece.begin, rests = begin == 0 ? resting() : 0;
    piece.rests = rests;
    pack_left(p_.inputs, depth(piece), piece.left, [&](int64_t i) {
      return at(p_.x) + (time(begin + i / rows_) * p_.batch + first_ + i % rows_) * p_.inputs;
    });
    pack_left(p_.hidden, depth(piece) - rests, h_left(piece), [&](int64_t i) {
      const int64_t s = begin + (i + rests) / rows_, r = (i + rests) % rows_;
      return restarts(time(s), r) ? at(p_.boundary_h) + (first_ + r) * p_.hidden : h_before(s, r);
    });
  }

  int64_t depth(const Piece& piece) const { return (piece.end - piece.begin) * rows_; }
  T* h_left(const Piece& piece) const { return piece.left + depth(piece) * features(p_.inputs); }

  // The products of a piece: panels of the weights' gradients, and after them blocks of rows of dx.
  int64_t weighings(const Piece& piece) const {
    if (piece.end == piece.begin) return 0;
    return layout_.panels + (p_.wants_dx ? ceil_div(depth(piece), kInputRows) : 0);
  }
  void weigh(const Piece& piece, int64_t i) const {
    if (i < layout_.panels) return weigh_panel(piece, i);
    const int64_t first = (i - layout_.panels) * kInputRows;
    product(cotangents(piece.dz + first * kSlots * kLanes, false), packed_.wt, p_.inputs,
            least(kInputRows, depth(piece) - first), false, [&](int64_t r) { return dx_of(piece.begin, first + r); });
  }

  void weigh_panel(const Piece& piece, int64_t panel) const {
    const int64_t rows = depth(piece), rests = piece.rests;
    const bool adds = piece.end < p_.steps;  // the last steps come first
    const T* dz = piece.dz + panel * block_ * rows_ * kSlots * kLanes;
    T* gradient = gradient_ + panel * (features(p_.inputs) + features(p_.hidden)) * L::kVectors * kLanes;
    layout_.with_vectors(panel, [&](auto vectors) {
      constexpr int n = decltype(vectors)::value;
      accumulate<n, SameSlot>(piece.left, features(p_.inputs), dz, rows, adds, gradient);
      accumulate<n, OfState>(h_left(piece), features(p_.hidden), dz + rests * kSlots * kLanes, rows - rests, adds,
                             gradient);
    });
    sum(dz, rows, adds, gradient_ + gradient_size(p_) - (layout_.panels - panel) * kSlots * kLanes);
  }

  T* dx_of(int64_t begin, int64_t i) const {
    return at(p_.dx) + (time(begin + i / rows_) * p_.batch + first_ + i % rows_) * p_.inputs;
  }
  void cut(T* d, T* total) const {
    for (int64_t j = 0; j < stride_; ++j) total[j] += d[j], d[j] = 0;
  }

  // Through a row's pointwise part: dh_ and dc_ after the step -> dz, dc_ before it and what of dh_ goes past it.
  void pointwise(int64_t s, int64_t t, int64_t r, int64_t from, T* dz) const {
    const int64_t row = (t * p_.batch + first_ + r) * p_.hidden, in_panel = block_ * rows_ * kSlots * kLanes;
    const T *d_ys = at(p_.d_ys) + row, *after = at(p_.ys_in) + row;
    const bool held = masked(t, r), restart = restarts(t, r);
    const T* kept = kKept > 0 ? kept_of(s, r, from) : nullptr;
    const T* h = restart ? at(p_.boundary_h) + (first_ + r) * p_.hidden : h_before(s, r);
    const T* c = nullptr;
    if (Cell::kHasC) c = restart ? at(p_.boundary_c) + (first_ + r) * p_.hidden : c_before(s, r, from);
    for (int64_t panel = 0; panel < layout_.panels; ++panel, dz += in_panel) {
      const int vectors = Cell::kGates == 1 ? int(layout_.vectors(panel)) : 1;
      for (int v = 0; v < vectors; ++v) {
        const int64_t unit = layout_.first_unit(panel, v), n = layout_.units(panel, v);
        T *dh = dh_ + r * stride_ + unit, *dc = dc_ + r * stride_ + unit;
        const V d = load(dh) + load(d_ys + unit, n);
        if (held) {
          store(dh, d);
          for (int j = 0; j < (Cell::kGates == 1 ? 1 : kSlots); ++j) store(dz + (v + j) * kLanes, V{});
          continue;
        }
        V keep[kKept + 1], grads[kSlots], past, d_c = {}, before = {};
        for (int j = 0; j < kKept; ++j) keep[j] = load(kept + j * p_.hidden + unit, n);
        if (Cell::kHasC) d_c = load(dc), before = load(c + unit, n);
        Cell::backward(keep, load(h + unit, n), before, load(after + unit, n), d, &d_c, grads, &past);
        store(dh, past);
        if (Cell::kHasC) store(dc, d_c);
        constexpr int slots = Cell::kGates == 1 ? 1 : (Cell::kApart ? kSlots : Cell::kGates);
        for (int j = 0; j < slots; ++j) store(dz + (v + j) * kLanes, grads[j]);
      }
    }
  }

  Cotangents<T> cotangents(const T* dz, bool apart) const {
    const int64_t in_panel = block_ * rows_ * kSlots * kLanes, most = L::kVectors - apart;
    const int64_t last = greatest(1, layout_.vectors(layout_.panels - 1) - apart);
    return {dz, layout_.panels, in_panel, most, last, apart ? kSlots - 1 : 0};
  }

  // to(row)[0 … columns) = dz · the transposed weights, or += where it adds; then the rows are padded.
  template <class To>
  void product(const Cotangents<T>& left, const T* weights, int64_t columns, int64_t count, bool adds, To&& to) const {
    const int64_t size = transposed_size(layout_), width = kSlots * kLanes;
    for (int64_t first = 0; first < columns; first += width, weights += size) {
      const int64_t limit = adds ? width : columns - first;
      const T* next = first + width < columns ? weights + size : weights - first / width * size;
      with_constant<kSlots>(ceil_div(columns - first, kLanes), [&](auto vectors) {
        for_row_blocks(count, [&](int64_t r, int64_t height) {
          T* rows_to[kRows];
          for (int64_t i = 0; i < height; ++i) rows_to[i] = to(r + i) + first;
          with_constant<kRows>(height, [&](auto rows) {
            constexpr int n = decltype(vectors)::value, m = decltype(rows)::value, once = n < pass(m) ? n : pass(m);
            const T *dz = left.dz + r * width, *ahead = next + share(r) * size / kSlots;
            product_tile<T, m, 0, once>(left, dz, weights, rows_to, limit, adds, ahead);
            if constexpr (n > once) {
              product_tile<T, m, once, n - once>(left, dz, weights, rows_to, limit, adds, ahead);
            }
          });
        });
      });
    }
  }

  // Rows of a left operand as [block of kRows features][row][feature], zeros where there is none.
  template <class Row>
  static void pack_left(int64_t columns, int64_t depth, T* out, Row&& row) {
    const int64_t blocks = ceil_div(columns, kRows);
    for (int64_t i = 0; i < depth; ++i) {
      const T* from = row(i);
      T* to = out + i * kRows;
      for (int64_t b = 0; b < columns / kRows; ++b, to += depth * kRows) {
        std::memcpy(to, from + b * kRows, kRows * sizeof(T));
      }
      if (blocks * kRows == columns) continue;
      const int64_t done = (blocks - 1) * kRows;
      for (int j = 0; j < kRows; ++j) to[j] = done + j < columns ? from[done + j] : T(0);
    }
  }

  // gradient = leftᵀ dz for one panel, or += where it adds; `gradient` moves on behind it.
  template <int n, class Of>
  void accumulate(const T* left, int64_t features, const T* dz, int64_t depth, bool adds, T*& gradient) const {
    for (int64_t f = 0; f < features; f += kRows, left += depth * kRows, gradient += kRows * L::kVectors * kLanes) {
      constexpr int once = n < pass(kRows) ? n : pass(kRows);
      gradient_tile<T, 0, once, Of>(left, dz, depth, L::kVectors, adds, gradient);
      if constexpr (n > once) gradient_tile<T, once, n - once, Of>(left, dz, depth, L::kVectors, adds, gradient);
    }
  }
  static void sum(const T* dz, int64_t depth, bool adds, T* total) {
    V acc[kSlots];
    for (int i = 0; i < kSlots; ++i) acc[i] = adds ? load(total + i * kLanes) : V{};
    for (int64_t k = 0; k < depth; ++k, dz += kSlots * kLanes) {
      for (int i = 0; i < kSlots; ++i) acc[i] += load(dz + i * kLanes);
    }
    for (int i = 0; i < kSlots; ++i) store(total + i * kLanes, acc[i]);
  }

  const Problem<T>& p_;
  const Runner runner_;
  const L layout_;
  const Packed<Cell> packed_;
  int64_t model_, first_, rows_, stride_, block_, ahead_;
  T *dh_, *dc_, *d_boundary_h_, *d_boundary_c_, *gradient_, *remembered_;
};

}  // namespace RNNJAX_VARIANT
}  // namespace rnnjax
