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

// What is written before `post` and `report` is seen by the other thread behind its wait.
class Pair {
 public:
  // 0 for the thread that leads, 1 for the one that follows.
  int64_t arrive() { return __atomic_fetch_add(&arrived_, 1, __ATOMIC_ACQ_REL); }
  bool complete() const { return __atomic_load_n(&arrived_, __ATOMIC_ACQUIRE) > 1; }

  // The leader's: the first step that will be posted, and each step that may begin.
  void begin(int64_t step) { first_ = step; }
  void post(int64_t step) { __atomic_store_n(&posted_, step, __ATOMIC_RELEASE); }
  // Whether the step was reported within so many pauses.
  bool wait_done(int64_t step, int64_t patience) const {
    for (int64_t i = 0; i < patience; ++i, pause()) {
      if (__atomic_load_n(&done_, __ATOMIC_ACQUIRE) >= step) return true;
    }
    return false;
  }
  // The follower begins no other step from now on. The last one that it has begun, or -1.
  int64_t close() { return __atomic_exchange_n(&begun_, kClosed, __ATOMIC_ACQ_REL); }

  // The follower's: waits for the step behind the last one that it reported, and begins it; false when there is none any
  // more.
  bool wait_posted(int64_t* step) {
    for (int64_t i = 0; __atomic_load_n(&posted_, __ATOMIC_ACQUIRE) <= done_; ++i) {
      if (__atomic_load_n(&begun_, __ATOMIC_ACQUIRE) == kClosed) return false;
      i < kBusy ? pause() : (void)sched_yield();
    }
    int64_t before = done_;
    *step = before < 0 ? first_ : before + 1;
    return __atomic_compare_exchange_n(&begun_, &before, *step, false, __ATOMIC_ACQ_REL, __ATOMIC_ACQUIRE);
  }
  void report(int64_t step) { __atomic_store_n(&done_, step, __ATOMIC_RELEASE); }

 private:
  static constexpr int64_t kBusy = 2000, kClosed = INT64_MAX;

  // lines of their own for what each thread writes
  alignas(64) int64_t arrived_ = 0;
  alignas(64) int64_t posted_ = -1;
  int64_t first_ = -1;
  alignas(64) int64_t begun_ = -1, done_ = -1;
};

}  // namespace RNNJAX_VARIANT
}  // namespace rnnjax
