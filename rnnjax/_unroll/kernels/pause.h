// What a thread does while it waits for another one that is about to be ready. Internal to each file, because they are
// compiled for several instruction sets.
#pragma once

namespace rnnjax {

static inline void pause() {
#if defined(__x86_64__) || defined(__i386__)
  __builtin_ia32_pause();
#elif defined(__aarch64__)
  asm volatile("isb");  // `yield` takes no time where a core has one thread
#endif
}

}  // namespace rnnjax
