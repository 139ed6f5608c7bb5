// Gangs, as the head sees them.
#include <gtest/gtest.h>

#include <boost/mpi/communicator.hpp>

#include "core/functions.hpp"
#include "head/head.hpp"
#include "mobula/mobula.hpp"
#include "transport/local_wire.hpp"
#include "transport/transport.hpp"

namespace mobula::head {
namespace {

int member(const boost::mpi::communicator&) { return 1; }
const detail::FunctionInfo& kMember = detail::GangMember<member>::info;

// A head, and a rank that runs gangs of one for it.
class Gangs : public ::testing::Test {
 protected:
  Gangs() {
    for (RankId rank = 0; rank < 2; ++rank) {
      core::Join join;
      join.node = rank;
      join.slots = rank;
      join.offers.cpus = join.slots;
      head.handle(rank, join);
    }
    core::Submit message;
    message.range = {kId.span, 0, 1};
    message.body.function = kMember.index;
    message.body.ends = {0};
    message.body.has_options = true;
    message.body.options.demands.emplace_back();
    message.body.options.gang = 1;
    head.handle(0, message);
    step();
  }

  static Settings settings() {
    Settings settings;
    settings.ranks = 2;
    settings.lost_after = 0;
    return settings;
  }
  void step() {
    head.step(++now);
    head.check_invariants();
    transport.flush();
  }
  // What has come to the runner since it was last asked.
  template <class M>
  std::vector<M> told() {
    std::vector<M> all;
    while (runner.poll([&all](RankId, detail::ByteView frame) {
      core::read_frame(frame, [&all](const auto& message) {
        if constexpr (std::is_same_v<std::decay_t<decltype(message)>, M>) all.push_back(message);
      });
    })) {
    }
    return all;
  }

  static constexpr RankId kRunner = 1;
  static constexpr ObjectId kId{SpanId::make(0, 1), 0};
  transport::LocalHub hub{2};
  transport::Transport transport{hub.at(0)};
  transport::Transport runner{hub.at(kRunner)};
  store::Store store{store::Store::Settings{}};
  store::ObjectTable objects{0, store};
  Head head{transport, objects, settings()};
  Time now = 1;
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

}  // namespace
}  // namespace mobula::head
