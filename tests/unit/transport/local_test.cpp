#include <gtest/gtest.h>

#include <mutex>
#include <thread>

#include "transport/local_wire.hpp"
#include "unit/transport/contract.hpp"

namespace mobula::transport {
namespace {

void on_ranks(std::uint32_t n, const std::function<void(Wire&)>& act) {
  LocalHub hub(n);
  std::vector<std::thread> threads;
  std::mutex mutex;
  std::string failed;
  for (RankId r = 0; r < n; ++r) {
    threads.emplace_back([&, r] {
      try {
        act(hub.at(r));
      } catch (const std::exception& e) {
        const std::lock_guard lock(mutex);
        failed += "rank " + std::to_string(r) + ": " + e.what() + "\n";
      }
    });
  }
  for (auto& t : threads) t.join();
  EXPECT_EQ(failed, "");
}

TEST(LocalTransport, OrderAndSizes) { on_ranks(2, contract::order_and_sizes); }
TEST(LocalTransport, ManyToOne) { on_ranks(16, contract::many_to_one); }
TEST(LocalTransport, SlowReceiver) { on_ranks(3, contract::slow_receiver); }
TEST(LocalTransport, OwnMessages) { on_ranks(1, contract::own_messages); }
TEST(LocalTransport, Blocks) {
  for (const std::size_t size : {std::size_t{1}, std::size_t{100'000}, std::size_t{70} << 20}) {
    on_ranks(2, [size](Wire& wire) { contract::block(wire, size); });
  }
}

}  // namespace
}  // namespace mobula::transport
