// Whole calls for one instruction set: packs the weights, hands blocks of rows to threads, adds up their gradients.
// Compiled once for each set, with RNNJAX_VARIANT as its name and RNNJAX_VECTOR_BYTES as its vectors' width. No
// standard templates here: their one copy in the library might be this set's.
#include <cstdlib>

#if defined(__linux__)
#include <sys/mman.h>
#endif

#include "sequence.h"

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

// One call with the cell known.
template <class Cell>
class Call {
  typedef typename Cell::Scalar T;
  typedef Layout<Cell> L;
  static constexpr int kLanes = L::kLanes;

 public:
  Call(const Problem<T>& p, const Runner& runner) : p_(p), runner_(runner), layout_(p.hidden) {
    const double work = double(p.models) * p.steps * p.batch * (p.inputs + p.hidden) * Cell::kGates * p.hidden;
    if (work < kWorthThreads) runner_.threads = 1;
    const int64_t threads = runner_.threads;
    // models are blocks of their own where there are enough of them
    const bool whole = p.models >= 4 * threads || p.models % threads == 0;
    splits_ = p.batch == 0 ? 0 : (whole ? 1 : least(threads, p.batch));
    shared_ = p.w.stride == 0 && p.u.stride == 0 && p.b.stride == 0 && p.b_n.stride == 0;
  }

  bool forward() {
    Buffer<T> packed(sets() * packed_size(false)), scratch(tasks() * forward_scratch());
    if (!packed.get() || !scratch.get()) return false;
    pack(packed.get(), false);
    expect(p_.ys.data, p_.models * p_.steps * p_.batch * p_.hidden * sizeof(T));
    if (p_.keeps && p_.every == 0) {
      expect(p_.kept.data, p_.models * p_.steps * p_.batch * Cell::kKept * p_.hidden * sizeof(T));
    }
    parallel(runner_, tasks(), [&](int64_t task) {
      block(task, packed.get(), false).forward(scratch.get() + task * forward_scratch());
    });
    return true;
  }

  bool backward() {
    const int64_t each = Rows<Cell>::gradient_size(p_);
    Buffer<T> packed(sets() * packed_size(true)), scratch(tasks() * backward_scratch()), gradients(tasks() * each);
    if (!packed.get() || !scratch.get() || !gradients.get()) return false;
    pack(packed.get(), true);
    if (p_.wants_dx) expect(p_.dx.data, p_.models * p_.steps * p_.batch * p_.inputs * sizeof(T));
    parallel(runner_, tasks(), [&](int64_t task) {
      block(task, packed.get(), true).backward(scratch.get() + task * backward_scratch(), gradients.get() + task * each);
    });
    parallel(for_weights(), p_.models, [&](int64_t model) { unpack(model, gradients.get() + model * splits_ * each, each); });
    return true;
  }

 private:
  // Multiplications, and numbers moved, below which a second thread takes longer to wake than it saves.
  static constexpr double kWorthThreads = 300e3;
  static constexpr int64_t kWorthMoving = 100000;

  Runner for_weights() const {
    const int64_t weights = p_.models * (p_.inputs + p_.hidden) * Cell::kGates * p_.hidden;
    return weights < kWorthMoving ? Runner{} : runner_;
  }

  int64_t tasks() const { return p_.models * splits_; }
  int64_t sets() const { return shared_ ? 1 : p_.models; }
  int64_t first_row(int64_t split) const { return p_.batch * split / splits_; }
  // Blocks have one of two numbers of rows, and the smaller may need more.
  int64_t forward_scratch() const {
    if (splits_ == 0) return 0;
    return greatest(Rows<Cell>::forward_scratch(p_, p_.batch / splits_),
                    Rows<Cell>::forward_scratch(p_, ceil_div(p_.batch, splits_)));
  }
  int64_t backward_scratch() const {
    if (splits_ == 0) return 0;
    return greatest(Rows<Cell>::backward_scratch(p_, p_.batch / splits_),
                    Rows<Cell>::backward_scratch(p_, ceil_div(p_.batch, splits_)));
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

  Rows<Cell> block(int64_t task, T* memory, bool backward) const {
    const int64_t model = task / splits_, split = task % splits_, first = first_row(split);
    const Packed<Cell> weights = packed(memory + (shared_ ? 0 : model) * packed_size(backward), backward);
    // a block that is alone has all threads to itself
    const Runner inner = tasks() == 1 ? runner_ : Runner{};
    return Rows<Cell>(p_, inner, model, first, first_row(split + 1) - first, weights);
  }

  void pack(T* memory, bool backward) const {
    const int64_t w_columns = backward && p_.wants_dx ? column_panels(p_.inputs) : 0;
    const int64_t u_columns = backward ? column_panels(p_.hidden) : 0;
    const int64_t panels = !backward || p_.every > 0 ? layout_.panels : 0;
    const int64_t jobs = panels + w_columns + u_columns + 1;
    parallel(for_weights(), sets() * jobs, [&](int64_t job) {
      const int64_t model = job / jobs;
      int64_t i = job % jobs;
      const Packed<Cell> to = packed(memory + model * packed_size(backward), backward);
      const T *w = p_.w.data + model * p_.w.stride, *u = p_.u.data + model * p_.u.stride;
      if (i < panels) {
        pack_panel(layout_, w, p_.inputs, i, const_cast<T*>(to.w) + i * in_panel(p_.inputs));
        pack_panel(layout_, u, p_.hidden, i, const_cast<T*>(to.u) + i * in_panel(p_.hidden));
      } else if ((i -= panels) < w_columns) {
        pack_transposed(layout_, w, p_.inputs, i, const_cast<T*>(to.wt) + i * transposed_size(layout_));
      } else if ((i -= w_columns) < u_columns) {
        pack_transposed(layout_, u, p_.hidden, i, const_cast<T*>(to.ut) + i * transposed_size(layout_));
      } else {
        pack_bias(model, const_cast<T*>(to.bias));
      }
    });
  }

  void pack_bias(int64_t model, T* to) const {
    const T *b = p_.b.data + model * p_.b.stride, *b_n = p_.b_n.data + model * p_.b_n.stride;
    std::memset(to, 0, layout_.panels * kSlots * kLanes * sizeof(T));
    for (int64_t panel = 0; panel < layout_.panels; ++panel, to += kSlots * kLanes) {
      for (int i = 0; i < layout_.vectors(panel); ++i) {
        const int64_t unit = layout_.first_unit(panel, i), n = least(layout_.units(panel, i), kLanes);
        std::memcpy(to + i * kLanes, b + L::gate(i) * p_.hidden + unit, n * sizeof(T));
        if (Cell::kApart && i == 2) std::memcpy(to + 3 * kLanes, b_n + unit, n * sizeof(T));
      }
    }
  }

  // Adds up the gradients of a model's blocks, always in the same order.
  void unpack(int64_t model, const T* gradients, int64_t each) const {
    const int64_t fw = Rows<Cell>::features(p_.inputs), fu = Rows<Cell>::features(p_.hidden);
    T *dw = p_.dw.data + model * p_.dw.stride, *du = p_.du.data + model * p_.du.stride;
    T *db = p_.db.data + model * p_.db.stride, *db_n = p_.db_n.data + model * p_.db_n.stride;
    if (splits_ == 0) {
      std::memset(dw, 0, p_.inputs * Cell::kGates * p_.hidden * sizeof(T));
      std::memset(du, 0, p_.hidden * Cell::kGates * p_.hidden * sizeof(T));
      std::memset(db, 0, Cell::kGates * p_.hidden * sizeof(T));
      if (Cell::kApart) std::memset(db_n, 0, p_.hidden * sizeof(T));
      return;
    }
    for (int64_t panel = 0; panel < layout_.panels; ++panel) {
      const T* from = gradients + panel * in_panel(fw + fu);
      unpack_panel(layout_, from, splits_, each, p_.inputs, panel, dw);
      unpack_panel(layout_, from + in_panel(fw), splits_, each, p_.hidden, panel, du);
      const T* sums = gradients + each - (layout_.panels - panel) * kSlots * kLanes;
      for (int i = 0; i < layout_.vectors(panel); ++i) {
        const int64_t unit = layout_.first_unit(panel, i), n = layout_.units(panel, i);
        store(db + L::gate(i) * p_.hidden + unit, total(sums + i * kLanes, each), n);
        if (Cell::kApart && i == 2) store(db_n + unit, total(sums + 3 * kLanes, each), n);
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
  bool shared_;
};

template <class T, bool backward>
bool run(const Problem<T>& p, const Runner& runner) {
  const auto go = [](auto call) { return backward ? call.backward() : call.forward(); };
  switch (p.cell) {
    case kElmanTanh:
      return go(Call<ElmanCell<T, Tanh>>(p, runner));
    case kElmanRelu:
      return go(Call<ElmanCell<T, Relu>>(p, runner));
    case kLstm:
      return go(Call<LstmCell<T>>(p, runner));
    default:
      return go(Call<GruCell<T>>(p, runner));
  }
}

}  // namespace

extern const Variant variant;
const Variant variant = {run<float, false>, run<double, false>, run<float, true>, run<double, true>};

}  // namespace RNNJAX_VARIANT
}  // namespace rnnjax
