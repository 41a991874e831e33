// What XLA calls: checks the buffers of a call, and gives its blocks of rows to XLA's own threads.
#include <algorithm>
#include <atomic>
#include <chrono>
#include <condition_variable>
#include <cstdint>
#include <initializer_list>
#include <memory>
#include <mutex>
#include <string>
#include <vector>

#include "pause.h"
#include "problem.h"
#include "xla/ffi/api/ffi.h"

namespace ffi = xla::ffi;

namespace rnnjax {

// The variants of this build, the widest first, with whether this machine has what they need.
#ifdef RNNJAX_X86
namespace avx512 {
extern const Variant variant;
}
namespace avx2 {
extern const Variant variant;
}
#endif
namespace portable {
extern const Variant variant;
}

namespace {

struct Choice {
  const char* name;
  const Variant* variant;
  bool usable;
};

const Choice* choices(int64_t* count) {
#ifdef RNNJAX_X86
  static const bool wide = __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512vl") &&
                           __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512bw");
  static const bool middle = __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma");
  static const Choice all[] = {{"avx512", &avx512::variant, wide},
                               {"avx2", &avx2::variant, middle},
                               {"portable", &portable::variant, true}};
#else
  static const Choice all[] = {{"portable", &portable::variant, true}};
#endif
  *count = sizeof(all) / sizeof(all[0]);
  return all;
}

typedef std::chrono::steady_clock Clock;

// Shorter than it takes to wake a thread, or not much longer.
constexpr std::chrono::microseconds kMoment(50);

// Waits until `ready` holds, but not beyond `end`; whether it does.
template <class Ready>
bool soon(Ready&& ready, Clock::time_point end) {
  do {
    for (int i = 0; i < 16; ++i) {
      if (ready()) return true;
      pause();
    }
  } while (Clock::now() < end);
  return ready();
}

// One round of work for several threads. The calling thread takes part and waits only for what others have begun, so
// that a pool whose threads are all busy, or waiting themselves, delays it but cannot stop it.
class Round {
 public:
  Round(int64_t count, void (*task)(void*, int64_t), void* arg) : count_(count), task_(task), arg_(arg) {}

  // Whether there is a task that nobody has begun.
  bool open() const { return next_.load() < count_; }

  // Does tasks while there are any; whether it did one.
  bool take() {
    int64_t done = 0;
    for (int64_t i = next_.fetch_add(1); i < count_; i = next_.fetch_add(1)) {
      task_(arg_, i);
      ++done;
    }
    if (done > 0 && finished_.fetch_add(done) + done == count_) {
      std::lock_guard<std::mutex> lock(mutex_);
      all_.notify_all();
    }
    return done > 0;
  }

  void wait() {
    const auto over = [&] { return finished_.load() == count_; };
    if (soon(over, Clock::now() + kMoment)) return;
    std::unique_lock<std::mutex> lock(mutex_);
    all_.wait(lock, over);
  }

 private:
  const int64_t count_;
  void (*const task_)(void*, int64_t);
  void* const arg_;
  std::atomic<int64_t> next_{0}, finished_{0};
  std::mutex mutex_;
  std::condition_variable all_;
};

// Threads of XLA's that have helped in a round stay for a moment: the next one often follows, as a backward pass does or
// the next layer, and to wake a thread takes as long as a small round. Then they go back to XLA, also from rounds
// without end, because XLA may need them.
class Crew {
 public:
  static Crew& instance() {
    static Crew* crew = new Crew;  // XLA's threads may outlive any other
    return *crew;
  }

  // Whether a thread is waiting for a round.
  bool awake() const { return waiting_.load() > 0; }

  void run(ffi::ThreadPool& pool, int64_t count, void (*task)(void*, int64_t), void* arg) {
    const auto round = std::make_shared<Round>(count, task, arg);
    {
      std::lock_guard<std::mutex> lock(mutex_);
      rounds_.push_back(round);
      posted_.fetch_add(1);
    }
    const int64_t waiting = waiting_.load(), wanted = std::min<int64_t>(pool.num_threads(), count);
    // one more than can be needed: a thread that is woken on a busy core comes too late
    for (int64_t i = waiting >= wanted - 1 ? wanted : waiting; i < wanted; ++i) {
      pool.Schedule([this, round] { help(round); });
    }
    round->take();
    round->wait();
    std::lock_guard<std::mutex> lock(mutex_);
    rounds_.erase(std::find(rounds_.begin(), rounds_.end(), round));
  }

 private:
  static constexpr std::chrono::microseconds kLongest{1000};

  void help(std::shared_ptr<Round> round) {
    const auto begin = Clock::now();
    for (auto end = begin + kMoment;;) {
      const int64_t seen = posted_.load();
      for (; round; round = open()) {
        if (round->take()) end = std::min(Clock::now() + kMoment, begin + kLongest);
      }
      const auto more = [&] { return posted_.load() != seen; };
      waiting_.fetch_add(1);
      soon(more, end);
      waiting_.fetch_sub(1);
      // a round that was posted for this thread while it gave up is seen here
      if (!more()) return;
      round = open();
    }
  }
  // A round with tasks that nobody has begun, or null.
  std::shared_ptr<Round> open() {
    std::lock_guard<std::mutex> lock(mutex_);
    const auto found = std::find_if(rounds_.begin(), rounds_.end(), [](const auto& round) { return round->open(); });
    return found == rounds_.end() ? nullptr : *found;
  }

  std::mutex mutex_;
  std::vector<std::shared_ptr<Round>> rounds_;
  std::atomic<int64_t> posted_{0}, waiting_{0};
};

Runner runner_on(ffi::ThreadPool& pool) {
  const auto run = [](void* self, int64_t count, void (*task)(void*, int64_t), void* arg) {
    Crew::instance().run(*static_cast<ffi::ThreadPool*>(self), count, task, arg);
  };
  const auto awake = [](void*) { return Crew::instance().awake(); };
  return {std::max<int64_t>(1, pool.num_threads()), &pool, run, awake};
}

template <class T>
constexpr ffi::DataType kDtype = sizeof(T) == sizeof(float) ? ffi::DataType::F32 : ffi::DataType::F64;

// Reads the buffers of a call in their order, each (1 or N, ...), and keeps the first complaint.
template <class T>
class Reader {
 public:
  Reader(ffi::RemainingArgs args, ffi::RemainingRets rets, int64_t models) : args_(args), rets_(rets), models_(models) {}

  // An operand; one that is not given is left out of the call.
  Operand<const T> in(std::initializer_list<int64_t> shape, bool given = true) {
    return operand<const T>(kDtype<T>, shape, given);
  }
  Operand<const bool> flags(std::initializer_list<int64_t> shape, bool given) {
    return operand<const bool>(ffi::DataType::PRED, shape, given);
  }
  Operand<T> out(std::initializer_list<int64_t> shape, bool given = true) {
    if (!given) return {nullptr, 0};
    auto buffer = rets_.template get<ffi::AnyBuffer>(ret_++);
    if (!buffer.has_value()) return complain<T>(buffer.error().message());
    ffi::AnyBuffer found = **buffer;
    const Operand<T> result = check<T>(found, kDtype<T>, shape);
    if (models_ > 1 && result.stride == 0 && found.element_count() > 0) return complain<T>("a shared result");
    return result;
  }
  // The last operands and results were read.
  bool finish() {
    if (size_t(arg_) != args_.size() || size_t(ret_) != rets_.size()) complain<T>("too many buffers");
    return error_.empty();
  }
  const std::string& error() const { return error_; }

 private:
  template <class U>
  Operand<U> complain(const std::string& what) {
    if (error_.empty()) {
      error_ = "rnnjax: buffer " + std::to_string(arg_) + ", result " + std::to_string(ret_) + ": " + what;
    }
    return {nullptr, 0};
  }
  template <class U>
  Operand<U> operand(ffi::DataType dtype, std::initializer_list<int64_t> shape, bool given) {
    if (!given) return {nullptr, 0};
    const auto buffer = args_.template get<ffi::AnyBuffer>(arg_++);
    if (!buffer.has_value()) return complain<U>(buffer.error().message());
    return check<U>(*buffer, dtype, shape);
  }
  template <class U>
  Operand<U> check(const ffi::AnyBuffer& found, ffi::DataType dtype, std::initializer_list<int64_t> shape) {
    if (found.element_type() != dtype) return complain<U>("the wrong dtype");
    const auto dims = found.dimensions();
    if (dims.size() != shape.size() + 1) return complain<U>("the wrong number of axes");
    if (dims[0] != 1 && dims[0] != models_) return complain<U>("the wrong number of models");
    int64_t size = 1, axis = 1;
    for (const int64_t n : shape) {
      if (dims[axis++] != n) return complain<U>("the wrong shape");
      size *= n;
    }
    return {static_cast<U*>(found.untyped_data()), dims[0] == 1 ? 0 : size};
  }

  const ffi::RemainingArgs args_;
  const ffi::RemainingRets rets_;
  const int64_t models_;
  int64_t arg_ = 0, ret_ = 0;
  std::string error_;
};

struct Attributes {
  int64_t variant, cell, models;
  bool keeps;
  int64_t every;
  bool reverse, masked, resets, wants_dx, wants_state;
};

template <class T>
ffi::Error call(bool backward, ffi::ThreadPool& pool, ffi::AnyBuffer x, const Attributes& given,
                ffi::RemainingArgs args, ffi::RemainingRets rets, int64_t hidden) {
  Problem<T> p = {};
  p.cell = Cell(given.cell);
  p.models = given.models;
  p.steps = x.dimensions()[1], p.batch = x.dimensions()[2], p.inputs = x.dimensions()[3], p.hidden = hidden;
  p.reverse = given.reverse, p.keeps = given.keeps, p.every = given.every;
  p.wants_dx = given.wants_dx, p.wants_state = given.wants_state;

  const bool lstm = p.cell == kLstm, gru = p.cell == kGru;
  const int64_t T_ = p.steps, B = p.batch, I = p.inputs, H = p.hidden, G = lstm ? 4 : (gru ? 3 : 1);
  const int64_t arrays = lstm ? 5 : (gru ? 4 : 0);
  const bool keeps = p.keeps && (p.every == 0 ? arrays > 0 : lstm);
  const int64_t kept = p.every == 0 ? T_ * B * arrays * H : (T_ + p.every - 1) / p.every * B * H;

  Reader<T> read(args, rets, p.models);
  p.x = read.in({T_, B, I});
  p.w = read.in({I, G * H}), p.u = read.in({H, G * H}), p.b = read.in({G * H}), p.b_n = read.in({H}, gru);
  p.h0 = read.in({B, H}), p.c0 = read.in({B, H}, lstm);
  p.mask = read.flags({T_, B}, given.masked), p.reset = read.flags({T_, B}, given.resets);
  p.boundary_h = read.in({B, H}, given.resets), p.boundary_c = read.in({B, H}, given.resets && lstm);
  if (backward) {
    p.ys_in = read.in({T_, B, H}), p.kept_in = read.in({kept}, keeps);
    p.d_ys = read.in({T_, B, H}), p.d_h = read.in({B, H}), p.d_c = read.in({B, H}, lstm);
    p.dx = read.out({T_, B, I}, p.wants_dx);
    p.dw = read.out({I, G * H}), p.du = read.out({H, G * H}), p.db = read.out({G * H}), p.db_n = read.out({H}, gru);
    p.dh0 = read.out({B, H}), p.dc0 = read.out({B, H}, lstm);
    p.d_boundary_h = read.out({B, H}, given.resets), p.d_boundary_c = read.out({B, H}, given.resets && lstm);
  } else {
    p.ys = read.out({T_, B, H}), p.h = read.out({B, H}), p.c = read.out({B, H}, lstm);
    p.kept = read.out({kept}, keeps);
  }
  if (!read.finish()) return ffi::Error::InvalidArgument(read.error());

  int64_t count;
  const Choice* all = choices(&count);
  if (given.variant < 0 || given.variant >= count || !all[given.variant].usable) {
    return ffi::Error::Internal("rnnjax: this machine cannot run kernel variant " + std::to_string(given.variant));
  }
  const Variant& v = *all[given.variant].variant;
  const Runner runner = runner_on(pool);
  bool done;
  if constexpr (sizeof(T) == sizeof(float)) {
    done = backward ? v.backward_f32(p, runner) : v.forward_f32(p, runner);
  } else {
    done = backward ? v.backward_f64(p, runner) : v.forward_f64(p, runner);
  }
  return done ? ffi::Error::Success() : ffi::Error(ffi::ErrorCode::kResourceExhausted, "rnnjax: out of memory");
}

template <bool backward>
ffi::Error handle(ffi::ThreadPool pool, ffi::RemainingArgs args, ffi::RemainingRets rets, int64_t variant, int64_t cell,
                  int64_t models, bool keeps, int64_t every, bool reverse, bool masked, bool resets, bool wants_dx,
                  bool wants_state) {
  const auto x = args.get<ffi::AnyBuffer>(0), u = args.get<ffi::AnyBuffer>(2);
  if (!x.has_value() || !u.has_value() || x->dimensions().size() != 4 || u->dimensions().size() != 3) {
    return ffi::Error::InvalidArgument("rnnjax: x must be (N, T, B, I) and u (N, H, G·H)");
  }
  if (cell < 0 || cell >= kCells) return ffi::Error::InvalidArgument("rnnjax: unknown cell");
  if (every < 0 || models < 1) return ffi::Error::InvalidArgument("rnnjax: `every` or `models` out of range");
  if (u->dimensions()[1] < 1) return ffi::Error::InvalidArgument("rnnjax: no hidden units");
  const Attributes given = {variant, cell, models, keeps, every, reverse, masked, resets, wants_dx, wants_state};
  const int64_t hidden = u->dimensions()[1];
  if (x->element_type() == ffi::DataType::F32) return call<float>(backward, pool, *x, given, args, rets, hidden);
  if (x->element_type() == ffi::DataType::F64) return call<double>(backward, pool, *x, given, args, rets, hidden);
  return ffi::Error::InvalidArgument("rnnjax: the kernels compute in float32 and float64");
}

auto binding() {
  return ffi::Ffi::Bind()
      .Ctx<ffi::ThreadPool>()
      .RemainingArgs()
      .RemainingRets()
      .Attr<int64_t>("variant")
      .Attr<int64_t>("cell")
      .Attr<int64_t>("models")
      .Attr<bool>("keeps")
      .Attr<int64_t>("every")
      .Attr<bool>("reverse")
      .Attr<bool>("masked")
      .Attr<bool>("resets")
      .Attr<bool>("wants_dx")
      .Attr<bool>("wants_state");
}

}  // namespace
}  // namespace rnnjax

#pragma GCC visibility push(default)

XLA_FFI_DEFINE_HANDLER_SYMBOL(rnnjax_forward, rnnjax::handle<false>, rnnjax::binding());
XLA_FFI_DEFINE_HANDLER_SYMBOL(rnnjax_backward, rnnjax::handle<true>, rnnjax::binding());

// The name of a variant that this machine can run, in the order of the attribute `variant`; empty where it cannot, and
// null behind the last.
extern "C" const char* rnnjax_variant(int64_t index) {
  int64_t count;
  const rnnjax::Choice* all = rnnjax::choices(&count);
  if (index < 0 || index >= count) return nullptr;
  return all[index].usable ? all[index].name : "";
}

#pragma GCC visibility pop
