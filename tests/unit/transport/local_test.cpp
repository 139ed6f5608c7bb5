#include <gtest/gtest.h>

#include <algorithm>
#include <random>

#include "transport/local_wire.hpp"
#include "unit/transport/contract.hpp"

namespace mobula::transport {
namespace {

void on_ranks(std::uint32_t n, const std::function<void(Wire&)>& act) {
  LocalHub hub(n);
  contract::on_threads(n, [&](RankId r) { act(hub.at(r)); });
}

// Delivers what has come together in any order, and some frames long after others that were sent later, as MPI may.
class Shuffling final : public Wire {
 public:
  explicit Shuffling(Wire& wire) : wire_(wire), random_(wire.rank()) {}
  RankId rank() const override { return wire_.rank(); }
  std::uint32_t size() const override { return wire_.size(); }
  std::uint32_t node() const override { return wire_.node(); }
  void send(RankId to, Buffer frame) override { wire_.send(to, std::move(frame)); }
  bool poll(const OnFrame& on_frame) override {
    const bool happened = wire_.poll([this](RankId from, ByteView frame) { frames_.emplace_back(from, frame); });
    std::shuffle(frames_.begin(), frames_.end(), random_);
    std::vector<std::pair<RankId, Buffer>> now;
    for (Late& one : std::exchange(late_, {})) {
      if (one.polls-- == 0) {
        now.emplace_back(one.from, std::move(one.frame));
      } else {
        late_.push_back(std::move(one));
      }
    }
    for (auto& [from, frame] : std::exchange(frames_, {})) {
      if (random_() % 64 == 0) {
        late_.push_back({from, std::move(frame), static_cast<int>(random_() % 200)});
      } else {
        now.emplace_back(from, std::move(frame));
      }
    }
    for (const auto& [from, frame] : now) on_frame(from, frame.view());
    return happened || !now.empty();
  }
  void send_block(RankId to, std::uint64_t key, ByteView bytes, std::shared_ptr<const void> keep) override {
    wire_.send_block(to, key, bytes, std::move(keep));
  }
  void receive_block(RankId from, std::uint64_t key, std::span<std::byte> into, OnBlock done) override {
    wire_.receive_block(from, key, into, std::move(done));
  }
  bool busy() const override { return wire_.busy(); }
  void abandon(RankId rank) override { wire_.abandon(rank); }
  void arm() override { wire_.arm(); }
  void disarm() override { wire_.disarm(); }
  void sleep(std::int64_t max_ns) override { wire_.sleep(max_ns); }
  void interrupt() override { wire_.interrupt(); }
  bool hears_all() const override { return wire_.hears_all(); }

 private:
  Wire& wire_;
  std::mt19937_64 random_;
  std::vector<std::pair<RankId, Buffer>> frames_;
  struct Late {
    RankId from;
    Buffer frame;
    int polls;
  };
  std::vector<Late> late_;
};

void on_shuffled(std::uint32_t n, const std::function<void(Wire&)>& act) {
  on_ranks(n, [&act](Wire& wire) {
    Shuffling shuffling(wire);
    act(shuffling);
  });
}

TEST(ShuffledTransport, OrderAndSizes) { on_shuffled(2, contract::order_and_sizes); }
TEST(ShuffledTransport, BothWays) { on_shuffled(2, contract::both_ways); }
TEST(ShuffledTransport, ManyToOne) { on_shuffled(16, contract::many_to_one); }
TEST(ShuffledTransport, SlowReceiver) { on_shuffled(3, contract::slow_receiver); }

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
