// Gangs, as the head sees them.
#include <array>
#include <boost/mpi/communicator.hpp>
#include <set>

#include "core/functions.hpp"
#include "mobula/mobula.hpp"
#include "unit/head/with_ranks.hpp"

namespace mobula::head {
namespace {

int member(const boost::mpi::communicator&) { return 1; }
const detail::FunctionInfo& kMember = detail::GangMember<member>::info;

// A head, ranks with a slot each, and a gang.
class Gangs : public WithRanks {
 protected:
  explicit Gangs(std::uint32_t members = 1, RankId ranks = 2) : WithRanks(with_slots(ranks)) {
    for (RankId rank = 1; rank < ranks; ++rank) runners.push_back(std::make_unique<transport::Transport>(hub.at(rank)));
    core::Submit message;
    message.range = {kId.span, 0, members};
    message.body.function = kMember.index;
    message.body.ends = {0};
    message.body.has_options = true;
    message.body.options.demands.emplace_back();
    message.body.options.gang = members;
    message.body.options.retries = 3;
    head.handle(0, message);
    step();
  }

  static std::vector<Place> with_slots(RankId ranks) {
    std::vector<std::uint32_t> slots(ranks, 1);
    slots[0] = 0;
    return one_a_node(slots);
  }
  // What has come to the rank since it was last asked.
  template <class M>
  std::vector<M> told(RankId rank = kRunner) {
    std::vector<M> all;
    while (runners[rank - 1]->poll([&all](RankId, detail::ByteView frame) {
      core::read_frame(frame, [&all](const auto& message) {
        if constexpr (std::is_same_v<std::decay_t<decltype(message)>, M>) all.push_back(message);
      });
    })) {
    }
    return all;
  }

  static constexpr RankId kRunner = 1;
  static constexpr ObjectId kId{SpanId::make(0, 1), 0};
  std::vector<std::unique_ptr<transport::Transport>> runners;
};

// Its rank would ask again at once, and so for as long as the member takes to come back.
TEST_F(Gangs, NobodyIsSentToAMemberWhoseGangIsBroken) {
  core::Holds holds;  // what the runner has of it
  holds.holds.push_back(kId);
  head.handle(kRunner, holds);
  const auto assigned = told<core::Assign>();
  ASSERT_EQ(assigned.size(), 1U);
  const std::uint64_t gang = assigned.front().gang.gang;
  head.handle(kRunner, core::Locate{kId});
  step();
  EXPECT_EQ(told<core::Located>().size(), 1U) << "it is being made there";
  core::ErrorRecord error;
  error.kind = core::ErrorKind::timed_out;
  head.handle(kRunner, core::Member{gang, 0, core::MemberState::timed_out, error});
  head.handle(kRunner, core::Locate{kId});
  step();
  EXPECT_EQ(told<core::Located>().size(), 0U);
  head.handle(kRunner, core::Member{gang, 0, core::MemberState::dropped, {}});
  step();
  EXPECT_EQ(told<core::Located>().size(), 1U) << "it has failed";
}

class GangsOfTwo : public Gangs {
 protected:
  GangsOfTwo() : Gangs(2, 4) {}

  // The ranks of the members that have just been given out, which end well, with large results.
  std::array<RankId, 2> run() {
    std::array<RankId, 2> ranks{};
    std::uint64_t gang = 0;
    for (RankId rank = 1; rank <= 3; ++rank) {
      for (const auto& assign : told<core::Assign>(rank)) {
        ranks.at(assign.gang.place) = rank;
        gang = assign.gang.gang;
      }
    }
    for (std::uint32_t place = 0; place < 2; ++place)
      head.handle(ranks.at(place), core::Member{gang, place, core::MemberState::ended, {}});
    for (std::uint32_t place = 0; place < 2; ++place) {
      core::Done done;
      done.range = {kId.span, place, place + 1};
      done.stored.push_back({place, 10'000});
      head.handle(ranks.at(place), done);
    }
    step();
    return ranks;
  }
  std::set<ObjectId> freed(RankId rank) {
    std::set<ObjectId> ids;
    for (const auto& free : told<core::Free>(rank)) ids.insert(free.ids.begin(), free.ids.end());
    return ids;
  }
};

// A gang is made again whole, also where some of its values are there.
TEST_F(GangsOfTwo, WhatIsMadeASecondTimeIsFreed) {
  const ObjectId other{kId.span, 1};
  const auto first = run();
  head.worker_lost(first[0]);
  head.handle(0, core::Locate{kId});
  step();
  const auto second = run();
  ASSERT_NE(first[1], second[1]) << "otherwise the test says nothing";
  EXPECT_EQ(freed(second[1]), (std::set<ObjectId>{other}));
  EXPECT_EQ(freed(first[1]), (std::set<ObjectId>{})) << "readers may look at it";
  core::Holds drop;
  drop.spans.push_back(kId.span);
  head.handle(0, drop);
  step();
  EXPECT_TRUE(freed(first[1]).contains(other));
  EXPECT_EQ(head.what_is_left(), "") << head.describe_entries();
}

}  // namespace
}  // namespace mobula::head
