// A futex word that wakes a sleeping rank. Works between processes that share the page it lies in.
#pragma once

#include <linux/futex.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <atomic>
#include <climits>
#include <cstdint>
#include <ctime>

namespace mobula::transport {

struct alignas(64) Doorbell {
  std::atomic<std::uint32_t> armed{0};

  void arm() {
    armed.store(1, std::memory_order_relaxed);
    // The sleeper's last poll must see what a sender wrote before it looked at `armed`.
    std::atomic_thread_fence(std::memory_order_seq_cst);
  }
  void disarm() { armed.store(0, std::memory_order_relaxed); }
  void sleep(std::int64_t max_ns) {
    const timespec limit{max_ns / 1'000'000'000, max_ns % 1'000'000'000};
    syscall(SYS_futex, &armed, FUTEX_WAIT, 1, &limit, nullptr, 0);
  }
  // To be called after what the sleeper is to see has been written.
  void ring() {
    std::atomic_thread_fence(std::memory_order_seq_cst);
    if (armed.load(std::memory_order_relaxed) != 0 && armed.exchange(0, std::memory_order_relaxed) != 0) {
      syscall(SYS_futex, &armed, FUTEX_WAKE, INT_MAX, nullptr, nullptr, 0);
    }
  }
};

}  // namespace mobula::transport
