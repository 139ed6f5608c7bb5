#pragma once

#include <gtest/gtest.h>

#include <mobula/mobula.hpp>
#include <thread>

namespace support {

using namespace std::chrono_literals;

inline int twice(int x) { return 2 * x; }
inline int plus(int a, int b) { return a + b; }
inline void nothing() {}
inline void sleep_ms(int ms) { std::this_thread::sleep_for(std::chrono::milliseconds(ms)); }
inline int sleep_and_return(int ms, int value) {
  sleep_ms(ms);
  return value;
}
inline std::uint32_t where() { return mobula::here().rank; }

inline std::size_t workers() {
  std::size_t n = 0;
  for (const auto& rank : mobula::cluster().ranks) n += rank.slots > 0 ? 1 : 0;
  return n;
}

}  // namespace support
