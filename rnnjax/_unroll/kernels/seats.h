// Which processors the threads of a round run on.
#pragma once

#include <sched.h>

#include <atomic>
#include <cstdint>

namespace rnnjax {

#ifdef __linux__

// A processor for each thread of a round. A thread that is woken often starts on the processor of the one that woke it
// and takes it away from it while another processor is idle; the kernel parts the two only after milliseconds, which is
// longer than most rounds. Here the second one goes to a free processor, among those that it may use, at once.
class Seats {
 public:
  // The calling thread takes the processor that it runs on, or another one if that is taken. It is not tied to it.
  void take() {
    for (int tries = 0; tries < 3 && !claim(sched_getcpu()); ++tries) {
      cpu_set_t allowed, free;
      if (sched_getaffinity(0, sizeof allowed, &allowed) != 0) return;
      CPU_ZERO(&free);
      for (int cpu = 0; cpu < CPU_SETSIZE; ++cpu) {
        if (CPU_ISSET(cpu, &allowed) && !taken(cpu)) CPU_SET(cpu, &free);
      }
      if (CPU_COUNT(&free) == 0 || sched_setaffinity(0, sizeof free, &free) != 0) return;
      sched_setaffinity(0, sizeof allowed, &allowed);
    }
  }

 private:
  static constexpr int kBits = 64;

  // Whether the processor was free. One whose number is unknown, or too high, is no other thread's.
  bool claim(int cpu) {
    if (cpu < 0 || cpu >= CPU_SETSIZE) return true;
    const uint64_t bit = uint64_t(1) << cpu % kBits;
    return !(words_[cpu / kBits].fetch_or(bit) & bit);
  }
  bool taken(int cpu) const { return words_[cpu / kBits].load() >> cpu % kBits & 1; }

  std::atomic<uint64_t> words_[CPU_SETSIZE / kBits] = {};
};

#else

// Elsewhere a thread cannot say where it runs.
class Seats {
 public:
  void take() {}
};

#endif

}  // namespace rnnjax
