// Several callers at once share one pool through the crew, for ThreadSanitizer to watch: rounds of small tasks, and
// kernels whose blocks of rows, panels of weights and pairs of threads run in it. Also which processors threads take, how
// many, and that others have their turn. Files are written where it runs.
//
// Every task must have run once when its round is over. Whatever a number of threads may not change must have the bits
// that one thread gives.
#include <sched.h>

#include <atomic>
#include <cmath>
#include <condition_variable>
#include <cstdio>
#include <cstring>
#include <deque>
#include <fstream>
#include <functional>
#include <mutex>
#include <random>
#include <set>
#include <thread>
#include <vector>

#include "crew.h"
#include "problem.h"
#include "quota.h"

namespace rnnjax {
namespace RNNJAX_VARIANT {
extern const Variant variant;
}

namespace {

std::atomic<int> failures{0};

void check(bool holds, const char* what) {
  if (holds) return;
  ++failures;
  std::printf("%s\n", what);
}

// Threads that run what they are given, in its order.
class Pool {
 public:
  explicit Pool(int64_t threads) {
    for (int64_t i = 0; i < threads; ++i) threads_.emplace_back([this] { work(); });
  }
  ~Pool() {
    {
      std::lock_guard<std::mutex> lock(mutex_);
      over_ = true;
    }
    given_.notify_all();
    for (auto& thread : threads_) thread.join();
  }
  int64_t num_threads() const { return int64_t(threads_.size()); }
  void Schedule(std::function<void()> task) {
    {
      std::lock_guard<std::mutex> lock(mutex_);
      tasks_.push_back(std::move(task));
    }
    given_.notify_one();
  }

 private:
  void work() {
    for (;;) {
      std::unique_lock<std::mutex> lock(mutex_);
      given_.wait(lock, [this] { return over_ || !tasks_.empty(); });
      if (tasks_.empty()) return;
      const std::function<void()> task = std::move(tasks_.front());
      tasks_.pop_front();
      lock.unlock();
      task();
    }
  }

  std::mutex mutex_;
  std::condition_variable given_;
  std::deque<std::function<void()>> tasks_;
  bool over_ = false;
  std::vector<std::thread> threads_;
};

// What a pool may do whose queues are full: it runs all that it is given on the calling thread, at once.
class Inline {
 public:
  int64_t num_threads() const { return 3; }
  void Schedule(const std::function<void()>& task) { task(); }
};

template <class Threads>
Runner runner_on(Threads& pool) {
  const auto run = [](void* self, int64_t threads, int64_t count, void (*task)(void*, int64_t), void* arg) {
    Crew::instance().run(*static_cast<Threads*>(self), threads, count, task, arg);
  };
  return {pool.num_threads(), &pool, run, [](void*) { return Crew::instance().awake(); }};
}

// Rounds of many sizes, with pauses behind some of them, after which the threads are asleep.
void rounds(Pool& pool, int seed) {
  std::mt19937 numbers(seed);
  for (int i = 0; i < 300; ++i) {
    struct Done {
      int64_t times = 0;
      std::thread::id by;
    };
    std::vector<Done> done(1 + numbers() % 7);
    const int64_t threads = 1 + numbers() % 4;
    const auto task = [](void* arg, int64_t index) {
      Done& own = (*static_cast<std::vector<Done>*>(arg))[index];
      ++own.times, own.by = std::this_thread::get_id();
    };
    Crew::instance().run(pool, threads, int64_t(done.size()), task, &done);
    std::set<std::thread::id> workers;
    for (const Done& own : done) check(own.times == 1, "a task did not run once"), workers.insert(own.by);
    check(int64_t(workers.size()) <= threads, "more threads than asked for");
    if (numbers() % 8 == 0) std::this_thread::sleep_for(std::chrono::microseconds(numbers() % 400));
  }
}

// An LSTM's forward and backward pass, and those of its results that do not depend on the number of threads.
std::vector<float> lstm(const Runner& runner, int64_t steps, int64_t batch, int64_t inputs, int64_t hidden) {
  std::mt19937 numbers(1);
  std::normal_distribution<float> normal(0, 1 / std::sqrt(float(hidden)));
  std::deque<std::vector<float>> all;
  const auto out = [&](int64_t n) { return Operand<float>{all.emplace_back(n).data(), 0}; };
  const auto in = [&](int64_t n) {
    auto& drawn = all.emplace_back(n);
    for (float& x : drawn) x = normal(numbers);
    return Operand<const float>{drawn.data(), 0};
  };
  const int64_t rows = steps * batch, across = 4 * hidden, state = batch * hidden;
  Problem<float> p = {};
  p.cell = kLstm, p.models = 1, p.steps = steps, p.batch = batch, p.inputs = inputs, p.hidden = hidden;
  p.keeps = p.wants_dx = p.wants_state = true;
  p.x = in(rows * inputs), p.w = in(inputs * across), p.u = in(hidden * across), p.b = in(across);
  p.h0 = in(state), p.c0 = in(state), p.d_ys = in(rows * hidden), p.d_h = in(state), p.d_c = in(state);
  p.ys = out(rows * hidden), p.h = out(state), p.c = out(state), p.kept = out(5 * rows * hidden);
  p.dx = out(rows * inputs), p.dw = out(inputs * across), p.du = out(hidden * across), p.db = out(across);
  p.dh0 = out(state), p.dc0 = out(state);
  check(RNNJAX_VARIANT::variant.forward_f32(p, runner), "out of memory");
  p.ys_in = {p.ys.data, 0}, p.kept_in = {p.kept.data, 0};
  check(RNNJAX_VARIANT::variant.backward_f32(p, runner), "out of memory");
  std::vector<float> found(p.ys.data, p.ys.data + rows * hidden);
  found.insert(found.end(), p.h.data, p.h.data + state);
  found.insert(found.end(), p.c.data, p.c.data + state);
  found.insert(found.end(), p.dx.data, p.dx.data + rows * inputs);
  if (batch > 1) return found;  // of more rows, each thread adds up the weights' gradients of its own
  found.insert(found.end(), p.dw.data, p.dw.data + inputs * across);
  found.insert(found.end(), p.du.data, p.du.data + hidden * across);
  return found;
}

// A stream through layers, whose states lie where the ones before lay, and its last outputs and states.
std::vector<float> stream(const Runner& runner) {
  constexpr int64_t kLayers = 3, kUnits = 192, kRows = 2;
  std::mt19937 numbers(1);
  std::normal_distribution<float> normal(0, 1 / std::sqrt(float(kUnits)));
  std::deque<std::vector<float>> all;
  const auto drawn = [&](int64_t n) {
    auto& made = all.emplace_back(n);
    for (float& x : made) x = normal(numbers);
    return made.data();
  };
  std::vector<Problem<float>> layers(kLayers);
  std::vector<float> found(kRows * kUnits);
  for (int64_t i = 0; i < kLayers; ++i) {
    Problem<float>& p = layers[i];
    p = {};
    p.cell = kLstm, p.models = p.steps = 1, p.batch = kRows, p.inputs = p.hidden = kUnits;
    p.h.data = drawn(kRows * kUnits), p.c.data = drawn(kRows * kUnits);
    p.h0.data = p.h.data, p.c0.data = p.c.data;
    p.x.data = i == 0 ? drawn(kRows * kUnits) : layers[i - 1].h.data;
    p.w.data = drawn(4 * kUnits * kUnits), p.u.data = drawn(4 * kUnits * kUnits), p.b.data = drawn(4 * kUnits);
  }
  layers.back().ys.data = found.data();
  for (int step = 0; step < 20; ++step) {
    check(RNNJAX_VARIANT::variant.climb_f32(layers.data(), kLayers, runner), "out of memory");
  }
  for (const auto& p : layers) {
    found.insert(found.end(), p.h.data, p.h.data + kRows * kUnits);
    found.insert(found.end(), p.c.data, p.c.data + kRows * kUnits);
  }
  return found;
}

template <class Threads>
void kernels(Threads& pool, int times) {
  const std::vector<float> alone = stream(Runner{1, nullptr, nullptr, nullptr});
  for (int i = 0; i < times; ++i) {
    const std::vector<float> shared = stream(runner_on(pool));
    check(std::memcmp(alone.data(), shared.data(), alone.size() * sizeof(float)) == 0, "other bits of a stream");
  }
  // two threads share the steps of one row, also while others form products behind them, and within two blocks of rows;
  // blocks of rows; one step
  const int64_t sizes[][4] = {{60, 1, 3, 96}, {600, 1, 3, 96}, {300, 2, 3, 96}, {9, 37, 5, 64}, {1, 4, 200, 128}};
  for (const auto& s : sizes) {
    const std::vector<float> alone = lstm(Runner{1, nullptr, nullptr, nullptr}, s[0], s[1], s[2], s[3]);
    for (int i = 0; i < times; ++i) {
      const std::vector<float> shared = lstm(runner_on(pool), s[0], s[1], s[2], s[3]);
      check(std::memcmp(alone.data(), shared.data(), alone.size() * sizeof(float)) == 0, "other bits");
    }
  }
}

// A thread that starts where the leading one runs goes elsewhere, and may run where it might before.
void seats() {
#ifdef __linux__
  cpu_set_t all, one;
  CPU_ZERO(&all);
  CPU_ZERO(&one);
  sched_getaffinity(0, sizeof all, &all);
  if (CPU_COUNT(&all) < 2) return;
  const cpu_set_t before = all;
  const int leads = sched_getcpu();
  CPU_SET(leads, &one);
  // as many as it is made for
  for (int cpu = 0, kept = 1; cpu < CPU_SETSIZE; ++cpu) {
    if (cpu != leads && CPU_ISSET(cpu, &all) && ++kept > 4) CPU_CLR(cpu, &all);
  }
  sched_setaffinity(0, sizeof one, &one);
  Seats seats;
  seats.take();
  check(sched_getcpu() == leads, "the leading thread has moved");
  std::thread([&] {
    cpu_set_t after;
    check(sched_getcpu() == leads, "a thread did not start where it was tied to");
    sched_setaffinity(0, sizeof all, &all);
    seats.take();
    check(sched_getcpu() != leads, "two threads share a processor");
    sched_getaffinity(0, sizeof after, &after);
    check(CPU_EQUAL(&after, &all), "a thread is tied to a processor");
  }).join();
  sched_setaffinity(0, sizeof before, &before);
#endif
}

// Callers whose rounds never end leave the pool's threads to the tasks of others too.
void others() {
  std::atomic<int64_t> rounds{0}, ran{0};
  {
    Pool pool(2);
    std::vector<std::thread> callers;
    for (int caller = 0; caller < 30; ++caller) {
      callers.emplace_back([&] {
        const auto task = [](void*, int64_t) { std::this_thread::sleep_for(std::chrono::microseconds(500)); };
        for (int64_t i = rounds++; i < 2000; i = rounds++) {
          if (i == 1000) pool.Schedule([&] { ran = rounds.load(); });
          Crew::instance().run(pool, 2, 8, task, nullptr);
        }
      });
    }
    for (auto& caller : callers) caller.join();
  }
  check(ran < 1500, "the task of another waits behind the rounds");
}

// The files of control groups, which are missing where a text is null.
void quotas() {
  struct Files {
    const char *both, *quota, *period;
    int64_t expected;
  };
  const Files cases[] = {{"200000 100000\n", nullptr, nullptr, 2},
                         {"150000 100000\n", nullptr, nullptr, 1},
                         {"50000 100000\n", nullptr, nullptr, 1},
                         {"max 100000\n", nullptr, nullptr, INT64_MAX},
                         {"200000\n", nullptr, nullptr, INT64_MAX},
                         {"two of them\n", nullptr, nullptr, INT64_MAX},
                         {"", nullptr, nullptr, INT64_MAX},
                         {nullptr, nullptr, nullptr, INT64_MAX},
                         {nullptr, "350000\n", "100000\n", 3},
                         {nullptr, "-1\n", "100000\n", INT64_MAX},
                         {nullptr, "350000\n", "0\n", INT64_MAX},
                         {nullptr, "350000\n", nullptr, INT64_MAX}};
  for (const Files& files : cases) {
    const auto put = [](const char* name, const char* text) {
      std::remove(name);
      if (text) std::ofstream(name) << text;
    };
    put("both", files.both), put("quota", files.quota), put("period", files.period);
    check(worth("both", "quota", "period") == files.expected, files.both ? files.both : "a quota of version 1");
  }
}

}  // namespace
}  // namespace rnnjax

int main() {
  rnnjax::quotas();
  rnnjax::seats();
  rnnjax::others();
  {
    rnnjax::Pool pool(4);
    std::vector<std::thread> callers;
    for (int seed = 0; seed < 3; ++seed) callers.emplace_back([&, seed] { rnnjax::rounds(pool, seed); });
    for (int i = 0; i < 2; ++i) callers.emplace_back([&] { rnnjax::kernels(pool, 4); });
    for (auto& caller : callers) caller.join();
  }
  rnnjax::Inline full;
  rnnjax::kernels(full, 1);
  std::printf("%d failures\n", rnnjax::failures.load());
  return rnnjax::failures != 0;
}
