// How much of the processors' time a container may take.
#pragma once

#include <algorithm>
#include <cstdint>
#include <fstream>

namespace rnnjax {

// The processors that a quota of Linux's control groups is worth, rounded down but at least one; INT64_MAX without one.
// `both` is the file of version 2, with quota and period; version 1 has a file for each.
inline int64_t worth(const char* both, const char* quota, const char* period) {
  int64_t time, each;
  const bool found = (std::ifstream(both) >> time >> each) ||
                     (std::ifstream(quota) >> time && std::ifstream(period) >> each);
  return found && time > 0 && each > 0 ? std::max<int64_t>(1, time / each) : INT64_MAX;
}

}  // namespace rnnjax
