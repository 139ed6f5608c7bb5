// Which of the values that are announced comes first, where there is not room for all.
#include <gtest/gtest.h>

#include "worker/worker.hpp"

namespace mobula::worker {
namespace {

// Notes which blocks are received, and completes them when told.
class Notes final : public transport::Wire {
 public:
  RankId rank() const override { return 0; }
  std::uint32_t size() const override { return 2; }
  std::uint32_t node() const override { return 0; }
  void send(RankId, Buffer) override {}
  bool poll(const OnFrame&) override { return false; }
  void send_block(RankId, std::uint64_t, ByteView, std::shared_ptr<const void>) override {}
  void receive_block(RankId, std::uint64_t key, std::span<std::byte>, OnBlock done) override {
    keys.push_back(key);
    last = std::move(done);
  }
  bool busy() const override { return false; }
  void abandon(RankId) override {}
  void arm() override {}
  void disarm() override {}
  void sleep(std::int64_t) override {}
  void interrupt() override {}
  bool hears_all() const override { return true; }

  void complete() { std::exchange(last, nullptr)(); }
  std::vector<std::uint64_t> keys;
  OnBlock last;
};

class Ignorer final : public store::Watcher {
  void ready(std::size_t) override {}
};

class BlocksTest : public testing::Test {
 protected:
  static constexpr std::size_t kSize = 40 << 10;  // of which the store has room for one

  BlocksTest()
      : memory_(std::make_unique<std::byte[]>(64 << 10)), store_(settings()), worker_(transport_, objects_, {}) {}

  Store::Settings settings() const {
    Store::Settings settings;
    settings.memory = {memory_.get(), 64 << 10};
    return settings;
  }
  static ObjectId id(std::uint64_t key) { return {SpanId::make(1, key), 0}; }
  void announce(std::uint64_t key) {
    core::Data data;
    data.id = id(key);
    data.size = kSize;
    data.block = key;
    worker_.handle(1, data);
    for (const Store::Order& order : store_.take_orders()) {
      worker_.prepared(std::get<Store::Prepare>(order).token, true);
    }
  }

  std::unique_ptr<std::byte[]> memory_;
  Notes wire_;
  transport::Transport transport_{wire_};
  Store store_;
  store::ObjectTable objects_{0, store_};
  Worker worker_;
};

TEST_F(BlocksTest, WhatAThreadWaitsForComesFirst) {
  announce(1);
  announce(2);
  announce(3);
  const Handle wanted = objects_.handle_of(id(4));
  Ignorer ignorer;
  store::Watch watch(*wanted.record(), wanted.index(), ignorer);
  watch.again();
  announce(4);
  EXPECT_EQ(wire_.keys, (std::vector<std::uint64_t>{1}));
  wire_.complete();
  wire_.complete();
  wire_.complete();
  wire_.complete();
  EXPECT_EQ(wire_.keys, (std::vector<std::uint64_t>{1, 4, 2, 3}));
}

}  // namespace
}  // namespace mobula::worker
