// What every transport must do. One suite; each implementation gives it a way to run a function on n ranks.
#pragma once

#include <gtest/gtest.h>

#include <chrono>
#include <cstring>
#include <functional>
#include <mutex>
#include <set>
#include <stdexcept>
#include <thread>

#include "transport/transport.hpp"

namespace mobula::transport::contract {

using core::ObjectId;
using detail::SpanId;

// A check that works in any thread of any rank.
inline void require(bool condition, const std::string& what) {
  if (!condition) throw std::runtime_error(what);
}

// Runs one thread for each of n ranks; what they throw fails the test.
inline void on_threads(std::uint32_t n, const std::function<void(RankId)>& act) {
  std::vector<std::thread> threads;
  std::mutex mutex;
  std::string failed;
  for (RankId r = 0; r < n; ++r) {
    threads.emplace_back([&, r] {
      try {
        act(r);
      } catch (const std::exception& e) {
        const std::lock_guard lock(mutex);
        failed += "rank " + std::to_string(r) + ": " + e.what() + "\n";
      }
    });
  }
  for (auto& t : threads) t.join();
  EXPECT_EQ(failed, "");
}

class Endpoint {
 public:
  explicit Endpoint(Wire& wire) : transport(wire) {}

  // Polls until `met`, or fails after a minute.
  template <class Handle>
  void until(const std::function<bool()>& met, Handle&& handle) {
    const auto limit = std::chrono::steady_clock::now() + std::chrono::seconds(60);
    while (!met()) {
      const bool happened = transport.poll([&](RankId from, ByteView frame) {
        core::read_frame(frame, [&](const auto& message) { handle(from, message); });
      });
      transport.flush();
      if (!happened) sched_yield();
      require(std::chrono::steady_clock::now() < limit, "nothing came for a minute");
    }
  }
  void drain() {
    until([this] { return !transport.busy() && !transport.has_unsent(); }, [](RankId, const auto&) {});
  }
  Transport transport;
};

inline core::Data data(std::uint64_t n, ByteView value) {
  core::Data message;
  message.id = {SpanId{n}, 0};
  message.value = value;
  return message;
}

// Messages of all sizes keep their order: rank 0 sends, rank 1 checks.
inline void order_and_sizes(Wire& wire) {
  Endpoint end(wire);
  const std::vector<std::size_t> sizes{0, 1, 100, 4'000, 30'000, 33'000, 65'000, 66'000, 200'000, 1'000'000, 3};
  constexpr std::uint64_t kRounds = 20;
  if (wire.rank() == 0) {
    std::vector<std::byte> bytes(1'000'000);
    for (std::uint64_t n = 0; n < kRounds * sizes.size(); ++n) {
      const std::size_t size = sizes[n % sizes.size()];
      std::memset(bytes.data(), static_cast<int>(n), size);
      end.transport.send(1, data(n, ByteView(bytes.data(), size)));
    }
    bool over = false;
    end.until([&] { return over; },
              [&](RankId, const auto& m) { over = over || std::is_same_v<std::decay_t<decltype(m)>, core::Stop>; });
  } else if (wire.rank() == 1) {
    std::uint64_t next = 0;
    end.until([&] { return next == kRounds * sizes.size(); },
              [&](RankId from, const auto& m) {
                if constexpr (std::is_same_v<std::decay_t<decltype(m)>, core::Data>) {
                  require(from == 0 && m.id.span.value == next, "in order");
                  require(m.value.size() == sizes[next % sizes.size()], "whole");
                  for (const std::byte b : m.value) require(b == static_cast<std::byte>(next), "undamaged");
                  ++next;
                }
              });
    end.transport.send(0, core::Stop{});
  }
  end.drain();
}

// Two ranks send each other messages of all sizes at once, so that credits come back with frames that have to wait.
inline void both_ways(Wire& wire) {
  Endpoint end(wire);
  if (wire.rank() > 1) return;
  const std::vector<std::size_t> sizes{100, 70'000, 10, 30'000, 20, 20, 500'000, 20, 40'000, 20, 33'000, 200'000};
  constexpr std::uint64_t kMessages = 600;
  const RankId peer = 1 - wire.rank();
  const std::vector<std::byte> bytes(500'000, std::byte{7});
  std::uint64_t sent = 0;
  std::uint64_t next = 0;
  const auto handle = [&](RankId from, const auto& m) {
    if constexpr (std::is_same_v<std::decay_t<decltype(m)>, core::Data>) {
      require(from == peer && m.id.span.value == next, "in order");
      require(m.value.size() == sizes[next % sizes.size()], "whole");
      ++next;
    }
  };
  while (sent != kMessages) {
    end.transport.send(peer, data(sent, ByteView(bytes.data(), sizes[sent % sizes.size()])));
    ++sent;
    int polls = 0;
    if (sent % 3 == 0) end.until([&polls] { return polls++ == 2; }, handle);
  }
  end.until([&] { return next == kMessages; }, handle);
  end.drain();
}

// All others send to rank 0 at once, which takes its time.
inline void many_to_one(Wire& wire) {
  Endpoint end(wire);
  constexpr std::uint64_t kEach = 2000;
  if (wire.rank() == 0) {
    std::vector<std::uint64_t> next(wire.size(), 0);
    std::uint64_t all = 0;
    end.until([&] { return all == kEach * (wire.size() - 1); },
              [&](RankId from, const auto& m) {
                if constexpr (std::is_same_v<std::decay_t<decltype(m)>, core::Data>) {
                  require(m.id.span.value == next[from]++, "in order from each");
                  ++all;
                }
              });
    for (RankId r = 1; r < wire.size(); ++r) end.transport.send(r, core::Stop{});
  } else {
    const std::vector<std::byte> bytes(200);
    for (std::uint64_t n = 0; n < kEach; ++n) end.transport.send(0, data(n, bytes));
    bool over = false;
    end.until([&] { return over; },
              [&](RankId, const auto& m) { over = over || std::is_same_v<std::decay_t<decltype(m)>, core::Stop>; });
  }
  end.drain();
}

// A receiver that does not look gets no more than the window; the rest waits with the sender, who can see it.
inline void slow_receiver(Wire& wire) {
  Endpoint end(wire);
  constexpr std::uint64_t kMessages = 20'000;
  if (wire.rank() == 0) {
    const std::vector<std::byte> bytes(1000);
    for (std::uint64_t n = 0; n < kMessages; ++n) {
      end.transport.send(1, data(n, bytes));
      if (n % 50 == 0) end.transport.flush();
    }
    end.transport.flush();
    require(end.transport.frames_sent() <= Transport::kWindow, "no more than the window is under way");
    require(end.transport.backlog() > kMessages * 1000 / 2, "the sender sees what waits");
    end.transport.send(2, core::Stop{});  // rank 2 says when rank 1 may look
    bool over = false;
    end.until([&] { return over; },
              [&](RankId, const auto& m) { over = over || std::is_same_v<std::decay_t<decltype(m)>, core::Stop>; });
  } else if (wire.rank() == 2) {
    bool started = false;
    end.until([&] { return started; }, [&](RankId, const auto&) { started = true; });
    end.transport.send(1, core::TakeBack{1});
  } else if (wire.rank() == 1) {
    std::uint64_t next = 0;
    end.until([&] { return next == kMessages; },
              [&](RankId, const auto& m) {
                if constexpr (std::is_same_v<std::decay_t<decltype(m)>, core::Data>)
                  require(m.id.span.value == next++, "in order");
              });
    end.transport.send(0, core::Stop{});
  }
  end.drain();
}

// A block of any size arrives whole in the memory given for it.
inline void block(Wire& wire, std::size_t size) {
  Endpoint end(wire);
  if (wire.rank() == 0) {
    auto bytes = std::make_shared<Buffer>();
    bytes->extend(size);
    for (std::size_t i = 0; i < size; i += 4096) bytes->data()[i] = static_cast<std::byte>(i / 4096);
    core::Data message;
    message.size = size;
    message.block = end.transport.send_block(1, bytes->view(), bytes);
    end.transport.send(1, message);
    bool over = false;
    end.until([&] { return over; },
              [&](RankId, const auto& m) { over = over || std::is_same_v<std::decay_t<decltype(m)>, core::Stop>; });
  } else if (wire.rank() == 1) {
    Buffer into;
    bool whole = false;
    end.until([&] { return whole; },
              [&](RankId from, const auto& m) {
                if constexpr (std::is_same_v<std::decay_t<decltype(m)>, core::Data>) {
                  into.extend(m.size);
                  end.transport.receive_block(from, m.block, {into.data(), into.size()}, [&] { whole = true; });
                }
              });
    for (std::size_t i = 0; i < size; i += 4096)
      require(into.data()[i] == static_cast<std::byte>(i / 4096), "undamaged");
    end.transport.send(0, core::Stop{});
  }
  end.drain();
}

inline void own_messages(Wire& wire) {
  Endpoint end(wire);
  int seen = 0;
  for (int i = 0; i < 100; ++i) end.transport.send(wire.rank(), core::TakeBack{static_cast<std::uint32_t>(i)});
  end.until([&] { return seen == 100; },
            [&](RankId from, const auto& m) {
              if constexpr (std::is_same_v<std::decay_t<decltype(m)>, core::TakeBack>) {
                require(from == wire.rank() && m.tasks == static_cast<std::uint32_t>(seen), "in order, from oneself");
                ++seen;
              }
            });
}

}  // namespace mobula::transport::contract
