// How a call gets several threads of a pool to work for it, and how they wait for the next one. Compiled once, not for
// each instruction set.
#pragma once

#include <algorithm>
#include <atomic>
#include <chrono>
#include <condition_variable>
#include <cstdint>
#include <memory>
#include <mutex>
#include <vector>

#include "pause.h"
#include "seats.h"

namespace rnnjax {

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

// One round of work for several threads. The calling thread takes part, always with the first task, whose memory so stays
// in its own cache from call to call; and it waits only for what others have begun, so that a pool whose threads are all
// busy, or waiting themselves, delays it but cannot stop it.
class Round {
 public:
  // At most `helpers` threads work beside the calling one, which takes its seat here.
  Round(int64_t count, int64_t helpers, void (*task)(void*, int64_t), void* arg)
      : count_(count), helpers_(helpers), task_(task), arg_(arg) {
    seats_.take();
  }

  // Whether there is a task that nobody has begun, and may be begun by one more thread.
  bool open() const { return next_.load() < count_ && entered_.load() < helpers_; }

  // Whether as many threads work as can.
  bool full() const { return entered_.load() >= helpers_; }

  void lead() {
    task_(arg_, 0);
    take(1);
  }
  bool help() {
    if (!open() || entered_.fetch_add(1) >= helpers_) return false;
    seats_.take();
    return take(0);
  }

  void wait() {
    const auto over = [&] { return finished_.load() == count_; };
    if (soon(over, Clock::now() + kMoment)) return;
    std::unique_lock<std::mutex> lock(mutex_);
    all_.wait(lock, over);
  }

 private:
  // Does tasks while there are any, beside `done` before; whether it did one.
  bool take(int64_t done) {
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

  const int64_t count_, helpers_;
  void (*const task_)(void*, int64_t);
  void* const arg_;
  Seats seats_;
  std::atomic<int64_t> next_{1}, entered_{0}, finished_{0};
  std::mutex mutex_;
  std::condition_variable all_;
};

// Threads of the pool that have helped in a round stay for a moment: the next one often follows, as a backward pass does
// or the next layer, and to wake a thread takes as long as a small round. Then they go back to the pool, also from
// rounds without end, because others may need them.
class Crew {
 public:
  static Crew& instance() {
    static Crew* crew = new Crew;  // the pool's threads may outlive any other
    return *crew;
  }

  // Whether a thread is waiting for a round.
  bool awake() const { return waiting_.load() > 0; }

  // `pool`: num_threads() threads that run what is given to Schedule, of which `threads` at most work for this round.
  template <class Pool>
  void run(Pool& pool, int64_t threads, int64_t count, void (*task)(void*, int64_t), void* arg) {
    const int64_t wanted = std::min({int64_t(pool.num_threads()), threads, count});
    const auto round = std::make_shared<Round>(count, wanted - 1, task, arg);
    {
      std::lock_guard<std::mutex> lock(mutex_);
      rounds_.push_back(round);
      posted_.fetch_add(1);
    }
    const int64_t waiting = waiting_.load();
    // one more than can be needed: a thread that is woken on a busy core comes too late
    for (int64_t i = waiting >= wanted - 1 ? wanted : waiting; i < wanted; ++i) {
      scheduled_.fetch_add(1);
      pool.Schedule([this, round, most = int64_t(pool.num_threads())] { help(round, most); });
    }
    round->lead();
    round->wait();
    std::lock_guard<std::mutex> lock(mutex_);
    rounds_.erase(std::find(rounds_.begin(), rounds_.end(), round));
  }

 private:
  static constexpr std::chrono::microseconds kLongest{1000};

  // `most`: threads of the pool.
  void help(std::shared_ptr<Round> round, int64_t most) {
    const bool spare = scheduled_.fetch_sub(1) > most;
    // the one more than can be needed; or one that is late, and the pool holds another for each of its threads
    if (round->full() || (spare && !round->open())) return;
    const auto begin = Clock::now();
    for (auto end = begin + kMoment;;) {
      const int64_t seen = posted_.load();
      for (; round; round = open()) {
        if (round->help()) end = std::min(Clock::now() + kMoment, begin + kLongest);
        if (Clock::now() >= begin + kLongest) return;  // no round counts on a thread that does not wait
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
  std::atomic<int64_t> posted_{0}, waiting_{0}, scheduled_{0};
};

}  // namespace rnnjax
