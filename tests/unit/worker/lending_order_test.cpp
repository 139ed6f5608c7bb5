// In which order the head hears what a rank lends, and what has ended there.
#include <gtest/gtest.h>

#include "core/messages.hpp"
#include "mobula/mobula.hpp"
#include "transport/local_wire.hpp"
#include "worker/worker.hpp"

namespace mobula::worker {
namespace {

int task() { return 1; }
const FunctionInfo kMember{"F = lending_order::member", &detail::Function<task>::invoke, 0, sizeof(int),
                           FunctionInfo::Kind::member};
using RunPtr = std::unique_ptr<Run>;

class LendingOrder : public testing::Test {
 protected:
  static constexpr RankId kHead = 0;

  static Settings settings() {
    Settings settings;
    settings.slots = 1;
    settings.offers.cpus = 1;
    return settings;
  }
  RunPtr start() {
    core::Assign message;
    message.range = {SpanId::make(kHead, 1), index_, index_ + 1};
    message.body.function = detail::Function<task>::info.index;
    worker_.handle(kHead, message);
    ++index_;
    return worker_.next_run(++now_);
  }
  void end(RunPtr run) {
    run->body->function->invoke(run->task);
    worker_.finish(std::move(run), ++now_);
  }
  RunPtr start_member() {
    core::Assign message;
    message.range = {SpanId::make(kHead, 1), index_, index_ + 1};
    message.body.function = kMember.index;
    message.body.has_options = true;
    message.body.options.demands.emplace_back();
    message.body.options.gang = 2;
    message.gang = {++index_, 1, 0, {}};
    worker_.handle(kHead, message);
    return worker_.next_run(++now_);
  }
  // The cpus that the head takes for lent when it hears of each end, since the last call.
  std::vector<double> lent_at_ends() {
    std::vector<double> lent;
    worker_.flush(++now_);
    transport_.flush();
    head_.poll_wire([&](RankId, ByteView frame) {
      core::read_frame(frame, [&]<class Message>(const Message& message) {
        if constexpr (std::is_same_v<Message, core::Lending>) {
          lent_ = message.cpus;
          beside_ = message.beside;
        }
        if constexpr (std::is_same_v<Message, core::Done>) lent.push_back(lent_);
      });
    });
    return lent;
  }

  transport::LocalHub hub_{2};
  transport::Transport head_{hub_.at(kHead)};
  transport::Transport transport_{hub_.at(1)};
  Store store_{Store::Settings{}};
  store::ObjectTable objects_{1, store_};
  Worker worker_{transport_, objects_, settings()};
  Time now_ = 1;
  double lent_ = 0;           // as the head has heard
  std::uint32_t beside_ = 0;  // the same

 private:
  std::uint32_t index_ = 0;
};

// A task that has waited goes on and ends, all before anything is sent.
TEST_F(LendingOrder, WhatIsNotLentAnyMoreIsToldBeforeTheEnd) {
  auto waits = start();
  worker_.lend(*waits);
  end(start());
  EXPECT_EQ(lent_at_ends(), std::vector<double>{0}) << "that the first one lends is told when all is sent";
  EXPECT_EQ(lent_, 1);
  ASSERT_TRUE(worker_.resume(*waits));
  end(std::move(waits));
  EXPECT_EQ(lent_at_ends(), std::vector<double>{0});
  EXPECT_EQ(lent_, 0);
}

TEST_F(LendingOrder, MembersWithoutCpusAreTold) {
  auto waits = start();
  worker_.lend(*waits);
  auto member = start_member();
  ASSERT_NE(member, nullptr);
  lent_at_ends();
  EXPECT_EQ(lent_, 2) << "the head takes both for tasks that have a cpu";
  EXPECT_EQ(beside_, 1U);
  worker_.lend(*member);
  lent_at_ends();
  EXPECT_EQ(lent_, 2);
  EXPECT_EQ(beside_, 0U);
  EXPECT_TRUE(worker_.resume(*member));
  end(std::move(member));
  EXPECT_TRUE(worker_.resume(*waits));
  end(std::move(waits));
  lent_at_ends();
  EXPECT_EQ(lent_, 0);
  EXPECT_EQ(beside_, 0U);
}

}  // namespace
}  // namespace mobula::worker
