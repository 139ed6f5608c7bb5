// Placement groups, as the head sees them.
#include <gtest/gtest.h>

#include "head/head.hpp"
#include "transport/local_wire.hpp"
#include "transport/transport.hpp"

namespace mobula::head {
namespace {

// A head, two nodes of two ranks with a cpu each, and the owner on a node of its own.
class Groups : public ::testing::Test {
 protected:
  static constexpr RankId kOwner = 5;

  Groups() {
    for (RankId rank = 0; rank <= kOwner; ++rank) {
      core::Join join;
      join.node = rank == 0 ? 0 : (rank + 1) / 2;
      join.slots = rank == 0 || rank == kOwner ? 0 : 1;
      join.offers.cpus = join.slots;
      head.handle(rank, join);
    }
  }
  static Settings settings() {
    Settings settings;
    settings.ranks = kOwner + 1;
    settings.lost_after = 0;
    return settings;
  }
  void step() {
    now += 1'000'000;
    head.step(now);
    head.check_invariants();
    transport.flush();
  }
  double free_cpus() { return head.scheduler().free().cpus; }

  transport::LocalHub hub{kOwner + 1};
  transport::Transport transport{hub.at(0)};
  store::Store store{store::Store::Settings{}};
  store::ObjectTable objects{0, store};
  Head head{transport, objects, settings()};
  Time now = 1;
};

// What is left of it holds half of its node, and the other half is gone for good.
TEST_F(Groups, OneThatIsToBeTogetherMovesWhenItLosesARank) {
  core::Ask ask;
  ask.question = core::Question::bundles;
  ask.id = {SpanId::make(kOwner, 1), 0};
  ask.options.demands = {{1, 0, 0, {}}, {1, 0, 0, {}}};
  ask.options.place_index = static_cast<std::uint32_t>(Strategy::strict_pack);
  head.handle(kOwner, ask);
  step();
  ASSERT_EQ(free_cpus(), 2);
  // The first node is as good as the second, so it is that one.
  head.worker_lost(1);
  for (int i = 0; i < 3; ++i) step();
  EXPECT_EQ(free_cpus(), 1) << "only the rank beside the lost one has nothing";
  head.worker_lost(2);
  step();
  EXPECT_EQ(free_cpus(), 0) << "nothing of the group was there any more";
}

}  // namespace
}  // namespace mobula::head
