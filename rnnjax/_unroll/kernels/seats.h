// Which processors the threads of a round run on.
#pragma once

#if defined(__linux__)
#include <sched.h>
#endif

#include <atomic>
#include <cstdint>

namespace rnnjax {

#if defined(__linux__)

// A processor for each thread of a round. A thread that is woken often starts on the processor of the one that woke it
// and takes it away from it while another processor is idle; the kernel parts the two only after milliseconds, which is
// longer than most rounds. Here the second one goes to another processor at once, where there are so few that it is
// hardly a busy one.
class Seats {
 public:
  // The calling thread takes the processor that it runs on, or another one if that is taken. It is not tied to it.
  void take() {
    for (int tries = 0; tries < kFew && !claim(sched_getcpu()); ++tries) {
      cpu_set_t allowed, others;
      if (sched_getaffinity(0, sizeof allowed, &allowed) != 0 || CPU_COUNT(&allowed) > kFew) return;
      CPU_ZERO(&others);
      for (int cpu = 0; cpu < CPU_SETSIZE; ++cpu) {
        if (CPU_ISSET(cpu, &allowed) && !taken(cpu)) CPU_SET(cpu, &others);
      }
      if (CPU_COUNT(&others) == 0 || sched_setaffinity(0, sizeof others, &others) != 0) return;
      if (sched_setaffinity(0, sizeof allowed, &allowed) == 0) continue;
      // meanwhile the process may run nowhere of what it might before
      for (int cpu = 0; cpu < CPU_SETSIZE; ++cpu) CPU_SET(cpu, &allowed);
      sched_setaffinity(0, sizeof allowed, &allowed);
      return;
    }
  }

 private:
  static constexpr int kFew = 4;

  // Whether the processor was free. One whose number is unknown is no other thread's.
  bool claim(int cpu) { return cpu < 0 || !(seats_.fetch_or(seat(cpu)) & seat(cpu)); }
  bool taken(int cpu) const { return seats_.load() & seat(cpu); }
  static uint64_t seat(int cpu) { return uint64_t(1) << cpu % 64; }

  std::atomic<uint64_t> seats_{0};
};

#else

// Elsewhere a thread cannot say where it runs.
class Seats {
 public:
  void take() {}
};

#endif

}  // namespace rnnjax
