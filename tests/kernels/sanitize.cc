// Runs the kernels on buffers of exact size at odd addresses, for the sanitizers to watch, on several threads.
//
// Every result is filled with NaN beforehand and must hold none afterwards. The bits must be those of buffers at
// aligned addresses, and, where two threads share the steps of one row, those of one thread.
#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <limits>
#include <memory>
#include <new>
#include <random>
#include <thread>
#include <utility>
#include <vector>

#include "problem.h"

namespace rnnjax {
namespace RNNJAX_VARIANT {
extern const Variant variant;
}

namespace {

std::mt19937 random_numbers(1);
int failures = 0;
// Elements from an aligned address to where the next buffers begin.
int64_t offset = 1;

// Numbers that end where the memory ends.
template <class T>
class Numbers {
 public:
  explicit Numbers(int64_t n)
      : n_(n), offset_(offset), memory_(static_cast<T*>(operator new((n + offset) * sizeof(T), kAligned))) {}
  ~Numbers() { operator delete(memory_, kAligned); }
  Numbers(const Numbers&) = delete;
  Numbers& operator=(const Numbers&) = delete;
  T* data() { return memory_ + offset_; }
  int64_t size() const { return n_; }
  Numbers& draw(double deviation = 0.3) {
    std::normal_distribution<double> normal(0, deviation);
    for (int64_t i = 0; i < n_; ++i) data()[i] = T(normal(random_numbers));
    return *this;
  }
  Numbers& clear() {
    for (int64_t i = 0; i < n_; ++i) data()[i] = std::numeric_limits<T>::quiet_NaN();
    return *this;
  }
  bool finite() {
    for (int64_t i = 0; i < n_; ++i) {
      if (!std::isfinite(data()[i])) return false;
    }
    return true;
  }

 private:
  static constexpr std::align_val_t kAligned{64};
  const int64_t n_, offset_;
  T* const memory_;
};

void on_threads(void*, int64_t threads, int64_t count, void (*task)(void*, int64_t), void* arg) {
  std::vector<std::thread> all;
  for (int64_t t = 0; t < threads; ++t) {
    all.emplace_back([=] {
      for (int64_t i = t; i < count; i += threads) task(arg, i);
    });
  }
  for (auto& thread : all) thread.join();
}

template <class T>
struct Case {
  Cell cell;
  int64_t models, steps, batch, inputs, hidden, every;
  bool reverse, flagged, shared;

  // All results, one after another.
  std::vector<T> run(int64_t threads) const {
    const bool lstm = cell == kLstm, gru = cell == kGru;
    const int64_t N = models, TB = steps * batch, BH = batch * hidden, G = lstm ? 4 : (gru ? 3 : 1);
    const int64_t kept = every == 0 ? TB * (lstm ? 5 : (gru ? 4 : 0)) * hidden
                                    : (lstm ? (steps + every - 1) / every * BH : 0);
    Problem<T> p = {};
    p.cell = cell, p.models = N, p.steps = steps, p.batch = batch, p.inputs = inputs, p.hidden = hidden;
    p.reverse = reverse, p.keeps = true, p.every = every, p.wants_dx = true, p.wants_state = every != 3;

    std::vector<std::unique_ptr<Numbers<T>>> drawn, results;
    const auto in = [&](int64_t n, bool one = false, double deviation = 0.3) {
      drawn.push_back(std::make_unique<Numbers<T>>((one ? 1 : N) * n));
      return Operand<const T>{drawn.back()->draw(deviation).data(), one ? 0 : n};
    };
    // no greater, because neither states nor gradients may grow from step to step
    const double recurrent = std::fmin(0.3, 1 / std::sqrt(double(hidden)));
    const auto out = [&](int64_t n) {
      results.push_back(std::make_unique<Numbers<T>>(N * n));
      return Operand<T>{results.back()->clear().data(), n};
    };
    Numbers<bool> mask(TB), reset(TB);
    for (int64_t i = 0; i < TB; ++i) {
      mask.data()[i] = random_numbers() % 4 > 0, reset.data()[i] = random_numbers() % 5 == 0;
    }

    p.x = in(TB * inputs, shared), p.w = in(inputs * G * hidden, shared);
    p.u = in(hidden * G * hidden, shared, recurrent);
    p.b = in(G * hidden, shared), p.b_n = in(hidden, shared), p.h0 = in(BH, false, every == 1 ? 0.3 : 0.0), p.c0 = in(BH);
    if (flagged) {
      // without steps null, as XLA's empty arrays are
      if (TB > 0) p.mask = {mask.data(), 0}, p.reset = {reset.data(), 0};
      p.boundary_h = in(BH), p.boundary_c = in(BH);
    }
    p.ys = out(TB * hidden), p.h = out(BH), p.kept = out(kept);
    if (lstm) p.c = out(BH);
    Runner runner = {threads, nullptr, on_threads, [](void*) { return true; }};
    bool done = forward(p, runner);
    p.ys_in = {p.ys.data, p.ys.stride}, p.kept_in = {p.kept.data, p.kept.stride};
    p.d_ys = in(TB * hidden), p.d_h = in(BH), p.d_c = in(BH);
    p.dx = out(TB * inputs), p.dw = out(inputs * G * hidden), p.du = out(hidden * G * hidden), p.db = out(G * hidden);
    if (gru) p.db_n = out(hidden);
    p.dh0 = out(BH);
    if (lstm) p.dc0 = out(BH);
    if (flagged) p.d_boundary_h = out(BH);
    if (flagged && lstm) p.d_boundary_c = out(BH);
    done = done && backward(p, runner);
    for (auto& result : results) done = done && result->finite();
    std::vector<T> all;
    for (auto& result : results) all.insert(all.end(), result->data(), result->data() + result->size());
    if (!done) fail("out of memory, or not all is finite");
    return all;
  }

  // Once on aligned buffers and once more on others: the bits must be the same.
  void check(int64_t threads) const { check(threads, threads); }
  void check(int64_t threads, int64_t other_threads) const {
    const std::mt19937 before = random_numbers;
    offset = 0;
    const std::vector<T> aligned = run(threads);
    random_numbers = before;
    offset = 1;
    const std::vector<T> others = run(other_threads);
    if (std::memcmp(aligned.data(), others.data(), aligned.size() * sizeof(T)) != 0) {
      fail(threads == other_threads ? "aligned buffers have other bits" : "two threads have other bits");
    }
  }

  void fail(const char* why) const {
    ++failures;
    std::printf("cell %d, %zu bytes, models %d, steps %d, batch %d, inputs %d, hidden %d, every %d, flags %d: %s\n",
                cell, sizeof(T), int(models), int(steps), int(batch), int(inputs), int(hidden), int(every), flagged,
                why);
  }

  static bool forward(const Problem<float>& p, const Runner& r) { return RNNJAX_VARIANT::variant.forward_f32(p, r); }
  static bool forward(const Problem<double>& p, const Runner& r) { return RNNJAX_VARIANT::variant.forward_f64(p, r); }
  static bool backward(const Problem<float>& p, const Runner& r) { return RNNJAX_VARIANT::variant.backward_f32(p, r); }
  static bool backward(const Problem<double>& p, const Runner& r) { return RNNJAX_VARIANT::variant.backward_f64(p, r); }
};

bool climb(const Problem<float>* p, int64_t n, const Runner& r) { return RNNJAX_VARIANT::variant.climb_f32(p, n, r); }
bool climb(const Problem<double>* p, int64_t n, const Runner& r) { return RNNJAX_VARIANT::variant.climb_f64(p, n, r); }

// Three steps of layers of all kinds, whose states lie where the ones before lay; the last outputs and states.
template <class T>
std::vector<T> climb_on(int64_t threads, int64_t batch) {
  const std::pair<Cell, int64_t> kinds[] = {{kLstm, 5}, {kGru, 17}, {kElmanTanh, 3}, {kElmanRelu, 33}, {kLstm, 16}};
  std::vector<std::unique_ptr<Numbers<T>>> drawn;
  const auto draw = [&](int64_t n) {
    drawn.push_back(std::make_unique<Numbers<T>>(n));
    return drawn.back()->draw(0.3).data();
  };
  std::vector<Problem<T>> layers;
  int64_t inputs = 7;
  const T* x = draw(batch * inputs);
  for (const auto& [cell, hidden] : kinds) {
    const int64_t across = hidden * (cell == kLstm ? 4 : (cell == kGru ? 3 : 1));
    Problem<T> p = {};
    p.cell = cell, p.models = p.steps = 1, p.batch = batch, p.inputs = inputs, p.hidden = hidden;
    p.x.data = x, p.w.data = draw(inputs * across), p.u.data = draw(hidden * across), p.b.data = draw(across);
    p.b_n.data = draw(hidden);
    p.h0.data = p.h.data = draw(batch * hidden), p.c0.data = p.c.data = draw(batch * hidden);
    layers.push_back(p);
    x = p.h.data, inputs = hidden;
  }
  layers.back().ys.data = draw(batch * inputs);
  const Runner runner = {threads, nullptr, on_threads, [](void*) { return true; }};
  bool done = true;
  for (int step = 0; step < 3; ++step) done = done && climb(layers.data(), int64_t(layers.size()), runner);
  std::vector<T> all(layers.back().ys.data, layers.back().ys.data + batch * inputs);
  for (const auto& p : layers) {
    all.insert(all.end(), p.h.data, p.h.data + batch * p.hidden);
    all.insert(all.end(), p.c.data, p.c.data + batch * p.hidden);
  }
  if (!done) ++failures, std::printf("a step of layers: out of memory\n");
  return all;
}

template <class T>
void check_climb(int64_t batch) {
  const std::mt19937 before = random_numbers;
  offset = 0;
  const std::vector<T> aligned = climb_on<T>(1, batch);
  random_numbers = before;
  offset = 1;
  const std::vector<T> others = climb_on<T>(2, batch);
  if (std::memcmp(aligned.data(), others.data(), aligned.size() * sizeof(T)) != 0) {
    ++failures, std::printf("a step of layers, batch %d: other bits\n", int(batch));
  }
}

template <class T>
void run_all() {
  for (const int64_t batch : {1, 3, 16}) check_climb<T>(batch);
  const int64_t sizes[][4] = {{0, 3, 4, 5},  {3, 0, 4, 5},  {1, 1, 1, 1},     {5, 3, 7, 17},
                              {4, 7, 3, 33}, {3, 17, 9, 1}, {40, 13, 129, 7}, {2, 8, 16, 64},
                              {1, 7, 19, 33}, {1, 17, 8, 16}};
  for (int cell = 0; cell < kCells; ++cell) {
    for (const auto& s : sizes) {
      for (const int64_t every : {0, 1, 3}) {
        for (const bool flagged : {false, true}) {
          Case<T>{Cell(cell), 1, s[0], s[1], s[2], s[3], every, flagged, flagged, false}.check(1);
          Case<T>{Cell(cell), 3, s[0], s[1], s[2], s[3], every, !flagged, flagged, every == 0}.run(2);
        }
      }
    }
    // large enough for several threads to share the rows of one model
    Case<T>{Cell(cell), 1, 12, 19, 40, 48, 0, false, true, false}.check(3);
    // more models than workers, which take several one after another
    Case<T>{Cell(cell), 11, 5, 3, 4, 9, 0, false, true, false}.check(1);
    for (const bool shared : {false, true}) Case<T>{Cell(cell), 19, 6, 9, 20, 33, 0, true, false, shared}.check(2);
    // fewer models than threads, whose blocks of rows are more than the workers
    Case<T>{Cell(cell), 5, 12, 19, 40, 48, 0, false, true, false}.check(8);
    // large enough for two threads to share the steps of one row, and long enough for more than one stretch of them
    for (const int64_t every : {0, 5}) {
      Case<T>{Cell(cell), 1, 400, 1, 3, 200, every, every > 0, false, false}.check(1, 2);
      // fewer rows than threads, which share the work of each block
      Case<T>{Cell(cell), 1, 150, 3, 5, 200, every, every == 0, false, false}.check(8);
    }
  }
}

}  // namespace
}  // namespace rnnjax

int main() {
  rnnjax::run_all<float>();
  rnnjax::run_all<double>();
  std::printf("%d failures\n", rnnjax::failures);
  return rnnjax::failures != 0;
}
