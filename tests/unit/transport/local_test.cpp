#include <gtest/gtest.h>

#include "transport/local_wire.hpp"
#include "unit/transport/contract.hpp"

namespace mobula::transport {
namespace {

void on_ranks(std::uint32_t n, const std::function<void(Wire&)>& act) {
  LocalHub hub(n);
  contract::on_threads(n, [&](RankId r) { act(hub.at(r)); });
}

TEST(LocalTransport, OrderAndSizes) { on_ranks(2, contract::order_and_sizes); }
TEST(LocalTransport, BothWays) { on_ranks(2, contract::both_ways); }
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
