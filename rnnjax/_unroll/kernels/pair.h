// Two threads that take turns at a step: one leads and posts steps, the other one follows and reports them done.
#pragma once

#include <sched.h>

#include <cstdint>

#include "pause.h"

namespace rnnjax {
namespace RNNJAX_VARIANT {

// Pauses of a thread, some 10 ns each, after which the other one counts as late where a step is short. A test sets it.
#ifndef RNNJAX_PATIENCE
#define RNNJAX_PATIENCE 2000
#endif
constexpr int64_t kPatience = RNNJAX_PATIENCE;

// What is written before `post`, `report` and `finish` is seen by the other thread behind its wait.
class Pair {
 public:
  // 0 for the thread that leads, 1 for the one that follows.
  int64_t arrive() { return __atomic_fetch_add(&arrived_, 1, __ATOMIC_ACQ_REL); }
  bool complete() const { return __atomic_load_n(&arrived_, __ATOMIC_ACQUIRE) > 1; }

  // The leader's: the first step that will be posted, each step that may begin, and the end.
  void begin(int64_t step) { first_ = step; }
  void post(int64_t step) { __atomic_store_n(&posted_, step, __ATOMIC_RELEASE); }
  void finish() { __atomic_store_n(&over_, true, __ATOMIC_RELEASE); }
  // Whether the step was reported within so many pauses.
  bool wait_done(int64_t step, int64_t patience) const {
    for (int64_t i = 0; i < patience; ++i, pause()) {
      if (__atomic_load_n(&done_, __ATOMIC_ACQUIRE) >= step) return true;
    }
    return false;
  }

  // The follower's: waits for the step behind the last one that it reported; false when there is none any more.
  bool wait_posted(int64_t* step) const {
    for (int64_t i = 0; __atomic_load_n(&posted_, __ATOMIC_ACQUIRE) <= done_; ++i) {
      if (__atomic_load_n(&over_, __ATOMIC_ACQUIRE)) return false;
      i < kBusy ? pause() : (void)sched_yield();
    }
    *step = done_ < 0 ? first_ : done_ + 1;
    return true;
  }
  void report(int64_t step) { __atomic_store_n(&done_, step, __ATOMIC_RELEASE); }

 private:
  static constexpr int64_t kBusy = 2000;

  // lines of their own for what each thread writes
  alignas(64) int64_t arrived_ = 0;
  alignas(64) int64_t posted_ = -1;
  int64_t first_ = -1;
  bool over_ = false;
  alignas(64) int64_t done_ = -1;
};

}  // namespace RNNJAX_VARIANT
}  // namespace rnnjax
