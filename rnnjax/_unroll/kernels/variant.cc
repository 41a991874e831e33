// Whole calls for one instruction set: packs the weights, hands blocks of rows to threads, adds up their gradients.
// Compiled once for each set, with RNNJAX_VARIANT as its name and RNNJAX_VECTOR_BYTES as its vectors' width. No
// standard templates here: their one copy in the library might be this set's.
#include <cstdlib>

#if defined(__linux__)
#include <sys/mman.h>
#endif

#include "step.h"

namespace rnnjax {
namespace RNNJAX_VARIANT {
namespace {

// Asks for large pages where a large result is about to be written for the first time: the kernel's work on small ones
// is a tenth of a large call's time.
inline void expect(void* memory, int64_t bytes) {
#if defined(MADV_HUGEPAGE)
  constexpr uintptr_t page = 2 << 20;
  const uintptr_t begin = (reinterpret_cast<uintptr_t>(memory) + page - 1) / page * page;
  const uintptr_t end = (reinterpret_cast<uintptr_t>(memory) + bytes) / page * page;
  if (memory && end > begin) madvise(reinterpret_cast<void*>(begin), end - begin, MADV_HUGEPAGE);
#endif
}

// Memory that is freed with it.
template <class T>
class Buffer {
 public:
  explicit Buffer(int64_t n) {
    const size_t bytes = (size_t(n) * sizeof(T) + 63) / 64 * 64 + 64;
    if (posix_memalign(&memory_, 64, bytes) != 0) memory_ = nullptr;
    expect(memory_, bytes);
  }
  ~Buffer() { std::free(memory_); }
  Buffer(const Buffer&) = delete;
  Buffer& operator=(const Buffer&) = delete;
  T* get() const { return static_cast<T*>(memory_); }

 private:
  void* memory_ = nullptr;
};

// Multiplications below which a second thread takes longer to wake than it saves.
constexpr double kWorthThreads = 300e3;

// Calls f(cell) with a value of no meaning of the problem's cell.
template <class T, class F>
auto with_cell(Cell cell, F&& f) {
  switch (cell) {
    case kElmanTanh:
      return f(ElmanCell<T, Tanh>());
    case kElmanRelu:
      return f(ElmanCell<T, Relu>());
    case kLstm:
      return f(LstmCell<T>());
    default:
      return f(GruCell<T>());
  }
}

template <class T>
double multiplications(const Problem<T>& p) {
  return with_cell<T>(p.cell, [&](auto cell) {
    return double(p.models) * p.steps * p.batch * (p.inputs + p.hidden) * decltype(cell)::kGates * p.hidden;
  });
}

// A single step of layers, each of which reads what the one below returns.
template <class T>
bool climb(const Problem<T>* layers, int64_t count, const Runner& runner) {
  int64_t each = 0;
  double work = 0;
  for (int64_t i = 0; i < count; ++i) {
    each += with_cell<T>(layers[i].cell, [&](auto cell) { return Single<decltype(cell)>::size(layers[i]); });
    work += multiplications(layers[i]);
  }
  const int64_t models = layers[0].models;
  Buffer<T> scratch(models * each);
  Buffer<char> lines((count + 1) * Claims::kLine);
  if (!scratch.get() || !lines.get()) return false;
  const auto up = [&](int64_t model, auto&& each_layer) {
    T* own = scratch.get() + model * each;
    for (int64_t i = 0; i < count; ++i) {
      with_cell<T>(layers[i].cell, [&](auto cell) {
        each_layer(i, Single<decltype(cell)>(layers[i], model, own));
        own += Single<decltype(cell)>::size(layers[i]);
      });
    }
  };
  const bool helped = runner.threads > 1 && (work >= kWorthThreads || runner.awake(runner.self));
  if (models > 1 || !helped) {
    parallel(helped ? runner : Runner{}, models, [&](int64_t model) {
      up(model, [](int64_t, const auto& layer) { layer.inputs(), layer.state(), layer.finish(); });
    });
    return true;
  }
  // The last line is the leader's. The other thread stays until it is through, so that it is awake when the next step
  // comes, as it mostly does at once; but not without end, because a pool may run both tasks on one thread, in any order.
  std::memset(lines.get(), 0, (count + 1) * Claims::kLine);
  Claims claims(lines.get());
  parallel(runner, 2, [&](int64_t thread) {
    up(0, [&](int64_t i, const auto& layer) {
      if (thread == 0) layer.inputs();
      if (claims.claim(i)) {
        layer.state();
        claims.done(i);
      }
      if (thread > 0) return;
      claims.wait(i);
      layer.finish();
    });
    thread == 0 ? claims.done(count) : claims.stay(count);
  });
  return true;
}

// One call with the cell known.
template <class Cell>
class Call {
  typedef typename Cell::Scalar T;
  typedef Layout<Cell> L;
  static constexpr int kLanes = L::kLanes;

 public:
  Call(const Problem<T>& p, const Runner& runner, bool backward) : p_(p), runner_(runner), layout_(p.hidden) {
    // two threads from kWorthThreads on, and more as there is more to do
    const double worth = 2 * multiplications(p) / kWorthThreads;
    if (worth < double(runner_.threads)) runner_.threads = greatest(1, int64_t(worth));
    const int64_t threads = runner_.threads;
    // models are blocks of their own where there are enough of them, or as many for each thread
    const int64_t shares = p.models % threads == 0 ? 1 : least(threads, ceil_div(kTasks * threads, p.models));
    // backwards, each block has a gradient of its own
    const int64_t bytes = Rows<Cell>::gradient_size(p) * int64_t(sizeof(T));
    const int64_t blocks = backward ? greatest(p.models > 1 ? 1 : 2, kGradientBytes / bytes / greatest(p.models, 1)) : threads;
    splits_ = least(least(shares, p.batch), blocks);
    whole_ = splits_ == 1 && (p.models > 1 || threads == 1);
    shared_ = p.w.stride == 0 && p.u.stride == 0 && p.b.stride == 0 && p.b_n.stride == 0;
  }

  bool forward() {
    if (Single<Cell>::fits(p_)) return climb(&p_, 1, runner_);
    Buffer<T> packed(sets() * packed_size(false)), scratch(workers() * forward_scratch());
    if (!packed.get() || !scratch.get()) return false;
    if (!alone()) pack_all(packed.get(), false);
    expect(p_.ys.data, p_.models * p_.steps * p_.batch * p_.hidden * sizeof(T));
    if (p_.keeps && p_.every == 0) {
      expect(p_.kept.data, p_.models * p_.steps * p_.batch * Cell::kKept * p_.hidden * sizeof(T));
    }
    each_task([&](int64_t worker, int64_t task) {
      T* own = weights_of(worker, task, packed.get(), false);
      block(task, own, false).forward(scratch.get() + worker * forward_scratch());
    });
    return true;
  }

  bool backward() {
    const int64_t each = Rows<Cell>::gradient_size(p_);
    Buffer<T> packed(sets() * packed_size(true)), scratch(workers() * backward_scratch());
    Buffer<T> gradients((whole_ ? workers() : tasks()) * each);
    if (!packed.get() || !scratch.get() || !gradients.get()) return false;
    if (!alone()) pack_all(packed.get(), true);
    if (p_.wants_dx) expect(p_.dx.data, p_.models * p_.steps * p_.batch * p_.inputs * sizeof(T));
    each_task([&](int64_t worker, int64_t task) {
      T *own = weights_of(worker, task, packed.get(), true);
      T *gradient = gradients.get() + (whole_ ? worker : task) * each;
      block(task, own, true).backward(scratch.get() + worker * backward_scratch(), gradient);
      if (whole_) unpack(task, gradient, each, 0, layout_.panels);
    });
    if (splits_ == 0) {
      for (int64_t model = 0; model < p_.models; ++model) clear(model);
    } else if (!whole_) {
      parallel(for_weights(), p_.models * layout_.panels, [&](int64_t i) {
        const int64_t model = i / layout_.panels, panel = i % layout_.panels;
        unpack(model, gradients.get() + model * splits_ * each, each, panel, panel + 1);
      });
    }
    return true;
  }

 private:
  // Numbers moved below which a second thread takes longer to wake than it saves.
  static constexpr int64_t kWorthMoving = 100000;
  // Bytes of the gradients that all blocks may have together, and tasks of each thread, which share memory.
  static constexpr int64_t kGradientBytes = 256 << 20, kTasks = 4;

  int64_t weights() const { return (p_.inputs + p_.hidden) * Cell::kGates * p_.hidden; }
  Runner for_weights() const {
    const bool alone = runner_.threads <= 1 || (p_.models * weights() < kWorthMoving && !runner_.awake(runner_.self));
    return alone ? Runner{} : runner_;
  }

  int64_t tasks() const { return p_.models * splits_; }
  // Blocks fewer than the threads share these among them.
  Runner inner() const {
    Runner own = runner_;
    own.threads = tasks() > 0 ? greatest(1, runner_.threads / tasks()) : 1;
    return own;
  }
  // Workers take several tasks one after another, in memory that stays in their cache.
  int64_t workers() const { return least(tasks(), kTasks * runner_.threads); }
  template <class F>
  void each_task(F&& f) const {
    const int64_t count = workers();
    parallel(runner_, count, [&](int64_t worker) {
      for (int64_t task = tasks() * worker / count; task < tasks() * (worker + 1) / count; ++task) f(worker, task);
    });
  }
  // Whether a worker packs the weights of its task itself: nobody else needs them, or it takes no longer than to fetch
  // them from another core.
  bool alone() const {
    return tasks() > 1 && (whole_ ? !shared_ : p_.models == 1 && weights() < kWorthMoving);
  }
  int64_t sets() const { return alone() ? workers() : (shared_ ? 1 : p_.models); }
  int64_t first_row(int64_t split) const { return p_.batch * split / splits_; }
  // Blocks have one of two numbers of rows, and the smaller may need more.
  int64_t forward_scratch() const {
    if (splits_ == 0) return 0;
    return greatest(Rows<Cell>::forward_scratch(p_, inner(), p_.batch / splits_),
                    Rows<Cell>::forward_scratch(p_, inner(), ceil_div(p_.batch, splits_)));
  }
  int64_t backward_scratch() const {
    if (splits_ == 0) return 0;
    return greatest(Rows<Cell>::backward_scratch(p_, inner(), p_.batch / splits_),
                    Rows<Cell>::backward_scratch(p_, inner(), ceil_div(p_.batch, splits_)));
  }

  int64_t in_panel(int64_t rows) const { return rows * L::kVectors * kLanes; }
  int64_t column_panels(int64_t columns) const { return ceil_div(columns, kSlots * kLanes); }
  int64_t packed_size(bool backward) const {
    int64_t size = layout_.panels * kSlots * kLanes;
    if (!backward || p_.every > 0) size += layout_.panels * in_panel(p_.inputs + p_.hidden);
    if (backward) size += (column_panels(p_.inputs) + column_panels(p_.hidden)) * transposed_size(layout_);
    return size;
  }

  Packed<Cell> packed(T* memory, bool backward) const {
    Packed<Cell> to = {};
    to.bias = memory, memory += layout_.panels * kSlots * kLanes;
    if (!backward || p_.every > 0) {
      to.w = memory, memory += layout_.panels * in_panel(p_.inputs);
      to.u = memory, memory += layout_.panels * in_panel(p_.hidden);
    }
    if (backward) {
      to.wt = memory, memory += column_panels(p_.inputs) * transposed_size(layout_);
      to.ut = memory;
    }
    return to;
  }

  // `memory`: the packed weights of the task's model.
  Rows<Cell> block(int64_t task, T* memory, bool backward) const {
    const int64_t model = task / splits_, split = task % splits_, first = first_row(split);
    return Rows<Cell>(p_, inner(), model, first, first_row(split + 1) - first, packed(memory, backward));
  }
  T* weights_of(int64_t worker, int64_t task, T* memory, bool backward) const {
    if (!alone()) return memory + (shared_ ? 0 : task / splits_) * packed_size(backward);
    T* own = memory + worker * packed_size(backward);
    for (int64_t job = 0; job < pack_jobs(backward); ++job) pack(task / splits_, job, own, backward);
    return own;
  }

  void pack_all(T* memory, bool backward) const {
    const int64_t jobs = pack_jobs(backward);
    parallel(for_weights(), sets() * jobs, [&](int64_t i) {
      pack(i / jobs, i % jobs, memory + i / jobs * packed_size(backward), backward);
    });
  }
  int64_t pack_jobs(bool backward) const {
    const int64_t columns = column_panels(p_.hidden) + (p_.wants_dx ? column_panels(p_.inputs) : 0);
    return 1 + (!backward || p_.every > 0 ? layout_.panels : 0) + (backward ? columns : 0);
  }
  // One part of a model's weights: panels, then columns of u and of w, and the bias.
  void pack(int64_t model, int64_t job, T* memory, bool backward) const {
    const int64_t panels = !backward || p_.every > 0 ? layout_.panels : 0;
    const int64_t u_columns = backward ? column_panels(p_.hidden) : 0;
    const Packed<Cell> to = packed(memory, backward);
    const T *w = p_.w.data + model * p_.w.stride, *u = p_.u.data + model * p_.u.stride;
    if (job + 1 == pack_jobs(backward)) {
      pack_bias(model, const_cast<T*>(to.bias));
    } else if (job < panels) {
      pack_panel(layout_, w, p_.inputs, job, const_cast<T*>(to.w) + job * in_panel(p_.inputs));
      pack_panel(layout_, u, p_.hidden, job, const_cast<T*>(to.u) + job * in_panel(p_.hidden));
    } else if ((job -= panels) < u_columns) {
      pack_transposed(layout_, u, p_.hidden, job, const_cast<T*>(to.ut) + job * transposed_size(layout_));
    } else {
      job -= u_columns;
      pack_transposed(layout_, w, p_.inputs, job, const_cast<T*>(to.wt) + job * transposed_size(layout_));
    }
  }

  void pack_bias(int64_t model, T* to) const {
    const T *b = p_.b.data + model * p_.b.stride, *b_n = p_.b_n.data + model * p_.b_n.stride;
    std::memset(to, 0, layout_.panels * kSlots * kLanes * sizeof(T));
    for (int64_t panel = 0; panel < layout_.panels; ++panel, to += kSlots * kLanes) {
      const typename L::Places places(layout_, panel);
      for (int i = 0; i < layout_.vectors(panel); ++i) {
        store(to + i * kLanes, load(b + places.first + i * places.apart, places.n[i]));
        if (Cell::kApart && i == 2) store(to + 3 * kLanes, load(b_n + places.first, places.n[i]));
      }
    }
  }

  // The gradients of a model without rows.
  void clear(int64_t model) const {
    std::memset(p_.dw.data + model * p_.dw.stride, 0, p_.inputs * Cell::kGates * p_.hidden * sizeof(T));
    std::memset(p_.du.data + model * p_.du.stride, 0, p_.hidden * Cell::kGates * p_.hidden * sizeof(T));
    std::memset(p_.db.data + model * p_.db.stride, 0, Cell::kGates * p_.hidden * sizeof(T));
    if (Cell::kApart) std::memset(p_.db_n.data + model * p_.db_n.stride, 0, p_.hidden * sizeof(T));
  }

  // Adds up panels first … last - 1 of the gradients of a model's blocks, always in the same order.
  void unpack(int64_t model, const T* gradients, int64_t each, int64_t first, int64_t last) const {
    const int64_t fw = Rows<Cell>::features(p_.inputs), fu = Rows<Cell>::features(p_.hidden);
    T *dw = p_.dw.data + model * p_.dw.stride, *du = p_.du.data + model * p_.du.stride;
    T *db = p_.db.data + model * p_.db.stride, *db_n = p_.db_n.data + model * p_.db_n.stride;
    for (int64_t panel = first; panel < last; ++panel) {
      const T* from = gradients + panel * in_panel(fw + fu);
      unpack_panel(layout_, from, splits_, each, p_.inputs, panel, dw);
      unpack_panel(layout_, from + in_panel(fw), splits_, each, p_.hidden, panel, du);
      const T* sums = gradients + each - (layout_.panels - panel) * kSlots * kLanes;
      const typename L::Places places(layout_, panel);
      for (int i = 0; i < layout_.vectors(panel); ++i) {
        store(db + places.first + i * places.apart, total(sums + i * kLanes, each), places.n[i]);
        if (Cell::kApart && i == 2) store(db_n + places.first, total(sums + 3 * kLanes, each), places.n[i]);
      }
    }
  }
  Vec<T> total(const T* sums, int64_t each) const {
    Vec<T> v = load(sums);
    for (int64_t part = 1; part < splits_; ++part) v += load(sums + part * each);
    return v;
  }

  const Problem<T>& p_;
  Runner runner_;
  L layout_;
  int64_t splits_;
  bool whole_, shared_;
};

template <class T, bool backward>
bool run(const Problem<T>& p, const Runner& runner) {
  return with_cell<T>(p.cell, [&](auto cell) {
    Call<decltype(cell)> call(p, runner, backward);
    return backward ? call.backward() : call.forward();
  });
}

}  // namespace

extern const Variant variant;
const Variant variant = {run<float, false>, run<double, false>, run<float, true>, run<double, true>,
                         climb<float>, climb<double>};

}  // namespace RNNJAX_VARIANT
}  // namespace rnnjax
