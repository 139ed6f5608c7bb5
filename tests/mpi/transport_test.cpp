// The transport's contract over MPI: transport_mpi_test CASE [SIZE], on as many ranks as the case needs.
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <fstream>
#include <numeric>

#include "transport/mpi_wire.hpp"
#include "unit/transport/contract.hpp"

namespace mobula::transport {
namespace {

using contract::data;
using contract::Endpoint;
using contract::require;

constexpr std::size_t kMiB = 1 << 20;

std::size_t resident() {
  std::ifstream in("/proc/self/statm");
  std::size_t all = 0;
  std::size_t pages = 0;
  in >> all >> pages;
  return pages * static_cast<std::size_t>(sysconf(_SC_PAGESIZE));
}

// What the ranks of the node tell each other past MPI. Made by all of them together.
class Flag {
 public:
  explicit Flag(MpiWire& wire) : memory_(wire.share_on_node(sizeof(std::atomic<int>), MpiWire::Pages::made)) {
    require(memory_ != nullptr, "the ranks share memory");
  }
  void raise() { value().store(1); }
  bool is_up() const { return value().load() != 0; }
  void await() const {
    while (!is_up()) usleep(1000);
  }

 private:
  std::atomic<int>& value() const { return *reinterpret_cast<std::atomic<int>*>(memory_->memory().data()); }
  std::unique_ptr<core::SharedMemory> memory_;
};

// Beside a rank that takes nothing in, what others have taken in is given back: rank 0 sends to both.
void stopped_receiver(MpiWire& wire) {
  Flag over(wire);
  Endpoint end(wire);
  constexpr std::uint64_t kMessages = 20'000;
  const std::vector<std::byte> bytes(30'000);
  std::uint64_t came = 0;
  const auto count = [&](RankId, const auto& m) { came += std::is_same_v<std::decay_t<decltype(m)>, core::Data>; };
  if (wire.rank() == 0) {
    for (std::uint64_t n = 0; n < 64; ++n) end.transport.send(1, data(n, bytes));
    end.transport.flush();
    const std::size_t before = resident();
    for (std::uint64_t n = 0; n < kMessages; ++n) {
      end.transport.send(2, data(n, bytes));
      end.until([&] { return end.transport.backlog() < 4 * kMiB; }, count);
    }
    bool heard = false;
    end.until([&] { return heard; }, [&](RankId, const auto&) { heard = true; });
    const std::size_t more = resident() - before;
    over.raise();
    require(more < 64 * kMiB, std::to_string(more / kMiB) + " MiB more for 600 MB that were taken in");
  } else if (wire.rank() == 2) {
    end.until([&] { return came == kMessages; }, count);
    end.transport.send(0, core::Stop{});
  } else {
    over.await();
    end.until([&] { return came == 64; }, count);
  }
  end.drain();
}

// Ranks that are lost cost those that stay neither memory nor time.
void lost_ranks(MpiWire& wire) {
  const auto nothing = [](RankId, ByteView) {};
  const auto time_of_polls = [&] {
    auto least = std::chrono::steady_clock::duration::max();
    for (int i = 0; i < 20; ++i) {
      const auto start = std::chrono::steady_clock::now();
      for (int n = 0; n < 1000; ++n) wire.poll(nothing);
      least = std::min(least, std::chrono::steady_clock::now() - start);
    }
    return least;
  };
  if (wire.rank() == 0) {
    const auto quick = time_of_polls();
    const std::size_t before = resident();
    for (int i = 0; i < 128; ++i) wire.abandon(1);
    const auto later = time_of_polls();
    const std::size_t more = resident() - before;
    require(more < 8 * kMiB, std::to_string(more / kMiB) + " MiB more");
    require(later < 5 * quick, "a poll takes " + std::to_string(later / quick) + " times as long");
  }
}

// A rank stops in the middle of all that it may have under way, more than there are receives; others are heard, and
// what it had begun comes when it goes on. For a transport that needs the sender for large frames.
void stopped_sender(MpiWire& wire) {
  Flag sent(wire);
  Flag over(wire);
  Endpoint end(wire);
  constexpr std::uint64_t kLarge = Transport::kWindow;
  const std::vector<std::byte> bytes(60'000, std::byte{7});
  if (wire.rank() == 1) {
    for (std::uint64_t n = 0; n < kLarge; ++n) {
      end.transport.send(0, data(n, bytes));
      end.transport.flush();
    }
    sent.raise();
    over.await();
  } else if (wire.rank() == 2) {
    sent.await();
    for (std::uint64_t n = 0; n < 1000; ++n) {
      end.transport.send(0, data(n, ByteView(bytes.data(), 10)));
      end.transport.flush();
      bool heard = false;
      end.until([&] { return heard; }, [&](RankId, const auto&) { heard = true; });
    }
  } else {
    sent.await();
    std::array<std::uint64_t, 3> next{};
    const auto answer = [&](RankId from, const auto& m) {
      if constexpr (std::is_same_v<std::decay_t<decltype(m)>, core::Data>) {
        require(m.id.span.value == next.at(from)++, "in order");
        require(std::all_of(m.value.begin(), m.value.end(), [](std::byte b) { return b == std::byte{7}; }), "whole");
        if (from == 2) end.transport.send(2, core::Stop{});
      }
    };
    end.until([&] { return next[2] == 1000; }, answer);
    require(next[1] < kLarge, "the rank stood still");
    over.raise();
    end.until([&] { return next[1] == kLarge; }, answer);
  }
  end.drain();
}

// More blocks than there are tags for, received in another order than sent in: each has its own bytes.
void many_blocks(MpiWire& wire) {
  constexpr std::uint64_t kBlocks = 20'000;
  const auto nothing = [](RankId, ByteView) {};
  std::vector<std::uint64_t> values(kBlocks);
  if (wire.rank() == 0) {
    std::iota(values.begin(), values.end(), 1);
    for (std::uint64_t key = 1; key <= kBlocks; ++key) {
      wire.send_block(1, key, std::as_bytes(std::span(&values[key - 1], 1)), nullptr);
    }
    while (wire.busy()) wire.poll(nothing);
  } else {
    std::uint64_t came = 0;
    const auto ask = [&](std::uint64_t key) {
      wire.receive_block(0, key, std::as_writable_bytes(std::span(&values[key - 1], 1)), [&came] { ++came; });
    };
    for (std::uint64_t key = kBlocks; key != 0; --key) ask(key);
    while (came != kBlocks) wire.poll(nothing);
    for (std::uint64_t key = 1; key <= kBlocks; ++key) {
      require(values[key - 1] == key,
              "block " + std::to_string(key) + " has the bytes of " + std::to_string(values[key - 1]));
    }
  }
}

}  // namespace
}  // namespace mobula::transport

int main(int argc, char** argv) {
  using namespace mobula::transport;
  const std::string which = argc > 1 ? argv[1] : "";
  const auto wire = MpiWire::start();
  try {
    if (which == "order") {
      contract::order_and_sizes(*wire);
    } else if (which == "both_ways") {
      contract::both_ways(*wire);
    } else if (which == "many") {
      contract::many_to_one(*wire);
    } else if (which == "slow") {
      contract::slow_receiver(*wire);
    } else if (which == "stopped_receiver") {
      stopped_receiver(*wire);
    } else if (which == "stopped_sender") {
      stopped_sender(*wire);
    } else if (which == "lost") {
      lost_ranks(*wire);
    } else if (which == "many_blocks") {
      many_blocks(*wire);
    } else if (which == "own") {
      contract::own_messages(*wire);
    } else if (which == "block") {
      contract::block(*wire, std::strtoull(argv[2], nullptr, 10));
    } else {
      throw std::runtime_error("no such case");
    }
  } catch (const std::exception& e) {
    std::fprintf(stderr, "rank %u: %s\n", wire->rank(), e.what());
    std::_Exit(1);
  }
  wire->finalize();
  return 0;
}
