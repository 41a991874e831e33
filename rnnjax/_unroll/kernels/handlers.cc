// What XLA calls: checks the buffers of a call, and gives its blocks of rows to XLA's own threads.
#include <algorithm>
#include <cstdint>
#include <initializer_list>
#include <string>
#include <vector>

#include "crew.h"
#include "problem.h"
#include "quota.h"
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

// Read once, because the bits of a call depend on its threads.
int64_t quota() {
  static const int64_t processors = worth("/sys/fs/cgroup/cpu.max", "/sys/fs/cgroup/cpu/cpu.cfs_quota_us",
                                          "/sys/fs/cgroup/cpu/cpu.cfs_period_us");
  return processors;
}

Runner runner_on(ffi::ThreadPool& pool) {
  const auto run = [](void* self, int64_t threads, int64_t count, void (*task)(void*, int64_t), void* arg) {
    Crew::instance().run(*static_cast<ffi::ThreadPool*>(self), threads, count, task, arg);
  };
  const auto awake = [](void*) { return Crew::instance().awake(); };
  return {std::clamp<int64_t>(pool.num_threads(), 1, quota()), &pool, run, awake};
}

template <class T>
constexpr ffi::DataType kDtype = sizeof(T) == sizeof(float) ? ffi::DataType::F32 : ffi::DataType::F64;

// Reads the buffers of a call in their order, each (1 or N, ...), or without that axis for 0 models, and keeps the first
// complaint.
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
    const size_t lead = models_ > 0;
    if (dims.size() != shape.size() + lead) return complain<U>("the wrong number of axes");
    if (lead && dims[0] != 1 && dims[0] != models_) return complain<U>("the wrong number of models");
    int64_t size = 1, axis = lead;
    for (const int64_t n : shape) {
      if (dims[axis++] != n) return complain<U>("the wrong shape");
      size *= n;
    }
    return {static_cast<U*>(found.untyped_data()), !lead || dims[0] == 1 ? 0 : size};
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

// Runs f with the kernels of this number, where the machine has them.
template <class F>
ffi::Error on(int64_t variant, F&& f) {
  int64_t count;
  const Choice* all = choices(&count);
  if (variant < 0 || variant >= count || !all[variant].usable) {
    return ffi::Error::Internal("rnnjax: this machine cannot run kernel variant " + std::to_string(variant));
  }
  if (f(*all[variant].variant)) return ffi::Error::Success();
  return ffi::Error(ffi::ErrorCode::kResourceExhausted, "rnnjax: out of memory");
}

typedef ffi::Span<const int64_t> Sizes;

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

  return on(given.variant, [&](const Variant& v) {
    const Runner runner = runner_on(pool);
    if constexpr (sizeof(T) == sizeof(float)) return backward ? v.backward_f32(p, runner) : v.forward_f32(p, runner);
    else return backward ? v.backward_f64(p, runner) : v.forward_f64(p, runner);
  });
}

// A single step of layers, each of which reads what the one below returns: x (B, I), of each layer weights and
// state -> of each layer the state, and at the end the outputs of the last.
template <class T>
ffi::Error climb(ffi::ThreadPool& pool, ffi::AnyBuffer x, int64_t variant, Sizes cells, Sizes hidden,
                 ffi::RemainingArgs args, ffi::RemainingRets rets) {
  const int64_t count = cells.size(), B = x.dimensions()[0];
  std::vector<Problem<T>> layers(count);
  Reader<T> read(args, rets, 0);
  for (int64_t i = 0; i < count; ++i) {
    Problem<T>& p = layers[i];
    p.cell = Cell(cells[i]);
    p.models = p.steps = 1, p.batch = B, p.hidden = hidden[i];
    p.inputs = i == 0 ? x.dimensions()[1] : hidden[i - 1];
    const bool lstm = p.cell == kLstm, gru = p.cell == kGru;
    const int64_t I = p.inputs, H = p.hidden, G = lstm ? 4 : (gru ? 3 : 1);
    p.x = i == 0 ? read.in({B, I}) : Operand<const T>{layers[i - 1].h.data, 0};
    p.w = read.in({I, G * H}), p.u = read.in({H, G * H}), p.b = read.in({G * H}), p.b_n = read.in({H}, gru);
    p.h0 = read.in({B, H}), p.c0 = read.in({B, H}, lstm);
    p.h = read.out({B, H}), p.c = read.out({B, H}, lstm);
  }
  layers.back().ys = read.out({B, hidden[count - 1]});
  if (!read.finish()) return ffi::Error::InvalidArgument(read.error());
  return on(variant, [&](const Variant& v) {
    const Runner runner = runner_on(pool);
    if constexpr (sizeof(T) == sizeof(float)) return v.climb_f32(layers.data(), count, runner);
    else return v.climb_f64(layers.data(), count, runner);
  });
}

ffi::Error handle_climb(ffi::ThreadPool pool, ffi::RemainingArgs args, ffi::RemainingRets rets, int64_t variant,
                        Sizes cells, Sizes hidden) {
  const auto x = args.get<ffi::AnyBuffer>(0);
  if (!x.has_value() || x->dimensions().size() != 2) return ffi::Error::InvalidArgument("rnnjax: x must be (B, I)");
  if (cells.size() == 0 || cells.size() != hidden.size()) return ffi::Error::InvalidArgument("rnnjax: no layers");
  for (const int64_t cell : cells) {
    if (cell < 0 || cell >= kCells) return ffi::Error::InvalidArgument("rnnjax: unknown cell");
  }
  for (const int64_t units : hidden) {
    if (units < 1) return ffi::Error::InvalidArgument("rnnjax: no hidden units");
  }
  if (x->element_type() == ffi::DataType::F32) return climb<float>(pool, *x, variant, cells, hidden, args, rets);
  if (x->element_type() == ffi::DataType::F64) return climb<double>(pool, *x, variant, cells, hidden, args, rets);
  return ffi::Error::InvalidArgument("rnnjax: the kernels compute in float32 and float64");
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

auto climbing() {
  return ffi::Ffi::Bind()
      .Ctx<ffi::ThreadPool>()
      .RemainingArgs()
      .RemainingRets()
      .Attr<int64_t>("variant")
      .Attr<Sizes>("cells")
      .Attr<Sizes>("hidden");
}

}  // namespace
}  // namespace rnnjax

#pragma GCC visibility push(default)

XLA_FFI_DEFINE_HANDLER_SYMBOL(rnnjax_forward, rnnjax::handle<false>, rnnjax::binding());
XLA_FFI_DEFINE_HANDLER_SYMBOL(rnnjax_backward, rnnjax::handle<true>, rnnjax::binding());
XLA_FFI_DEFINE_HANDLER_SYMBOL(rnnjax_climb, rnnjax::handle_climb, rnnjax::climbing());

// The name of a variant that this machine can run, in the order of the attribute `variant`; empty where it cannot, and
// null behind the last.
extern "C" const char* rnnjax_variant(int64_t index) {
  int64_t count;
  const rnnjax::Choice* all = rnnjax::choices(&count);
  if (index < 0 || index >= count) return nullptr;
  return all[index].usable ? all[index].name : "";
}

// Of the sources, as fingerprint.py has it.
extern "C" const char* rnnjax_fingerprint() { return RNNJAX_FINGERPRINT; }

#pragma GCC visibility pop
