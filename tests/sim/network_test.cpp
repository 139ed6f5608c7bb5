// The transport's contract over the simulated wire. The contract's functions wait; so each rank has a thread, one of
// which runs at a time, and a rank that finds nothing lets virtual time go on.
#include "sim/network.hpp"

#include <gtest/gtest.h>

#include <mutex>
#include <random>

#include "unit/transport/contract.hpp"

namespace mobula::sim {
namespace {

class Delays final : public Network {
 public:
  explicit Delays(std::uint32_t ranks) : Network(ranks) {}
  Time latency(RankId, RankId) override { return static_cast<Time>(1'000 + random_() % 30'000); }
  bool alive(RankId) const override { return true; }
  void arrived(RankId) override {}

 private:
  std::mt19937_64 random_{1};
};

// A simulated wire for a thread of its own.
class SharedWire final : public SleeplessWire {
 public:
  SharedWire(Network& network, std::mutex& mutex, RankId rank) : network_(network), mutex_(mutex), rank_(rank) {}
  RankId rank() const override { return rank_; }
  std::uint32_t size() const override { return network_.size(); }
  std::uint32_t node() const override { return 0; }
  void send(RankId to, detail::Buffer frame) override {
    const std::lock_guard lock(mutex_);
    wire().send(to, std::move(frame));
  }
  bool poll(const OnFrame& on_frame) override {
    // Handlers send, so what has come is taken out first.
    std::vector<std::pair<RankId, detail::Buffer>> frames;
    bool happened = false;
    {
      const std::lock_guard lock(mutex_);
      happened =
          wire().poll([&](RankId from, detail::ByteView frame) { frames.emplace_back(from, detail::Buffer(frame)); });
      if (!happened) network_.next_event(network_.now() + 1'000'000);
    }
    for (const auto& [from, frame] : frames) on_frame(from, frame.view());
    return happened;
  }
  void send_block(RankId to, std::uint64_t key, detail::ByteView bytes, std::shared_ptr<const void> keep) override {
    const std::lock_guard lock(mutex_);
    wire().send_block(to, key, bytes, std::move(keep));
  }
  void receive_block(RankId from, std::uint64_t key, std::span<std::byte> into, OnBlock done) override {
    const std::lock_guard lock(mutex_);
    wire().receive_block(from, key, into, std::move(done));
  }
  bool busy() const override {
    const std::lock_guard lock(mutex_);
    return network_.wire(rank_).busy();
  }
  void abandon(RankId rank) override { wire().abandon(rank); }

 private:
  SimWire& wire() { return network_.wire(rank_); }
  Network& network_;
  std::mutex& mutex_;
  RankId rank_;
};

namespace contract = transport::contract;

void on_ranks(std::uint32_t n, const std::function<void(transport::Wire&)>& act) {
  Delays network(n);
  std::mutex mutex;
  contract::on_threads(n, [&](RankId r) {
    SharedWire wire(network, mutex, r);
    act(wire);
  });
}

TEST(SimulatedTransport, OrderAndSizes) { on_ranks(2, contract::order_and_sizes); }
TEST(SimulatedTransport, BothWays) { on_ranks(2, contract::both_ways); }
TEST(SimulatedTransport, ManyToOne) { on_ranks(64, contract::many_to_one); }
TEST(SimulatedTransport, SlowReceiver) { on_ranks(3, contract::slow_receiver); }
TEST(SimulatedTransport, OwnMessages) { on_ranks(1, contract::own_messages); }
TEST(SimulatedTransport, Blocks) {
  for (const std::size_t size : {std::size_t{1}, std::size_t{100'000}, std::size_t{70} << 20}) {
    on_ranks(2, [size](transport::Wire& wire) { contract::block(wire, size); });
  }
}

}  // namespace
}  // namespace mobula::sim
