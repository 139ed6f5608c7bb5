#include "topology/topology.hpp"

#include <gtest/gtest.h>

namespace mobula::topology {
namespace {

const Cores kFour{{0}, {1}, {2}, {3}};

TEST(Topology, ThisMachineHasCores) {
  const Cores cores = allowed_cores();
  ASSERT_FALSE(cores.empty());
  EXPECT_EQ(decode(encode(cores)), cores);
  EXPECT_GT(usable_memory(), 0U);
}

TEST(Topology, UnboundRanksShareTheCores) {
  const std::vector<Cores> masks{kFour, kFour, kFour};
  EXPECT_EQ(divide(masks, {false, true, true}, 0), (Cores{{0}}));
  EXPECT_EQ(divide(masks, {false, true, true}, 1), (Cores{{1}}));
  EXPECT_EQ(divide(masks, {false, true, true}, 2), (Cores{{2}, {3}}));
  EXPECT_EQ(divide({kFour, kFour}, {true, true}, 1), (Cores{{2}, {3}}));
}

TEST(Topology, BoundRanksKeepTheirMask) {
  const std::vector<Cores> masks{{{0}}, {{1}, {2}}, {{3}}};
  for (std::size_t i = 0; i < 3; ++i) EXPECT_EQ(divide(masks, {true, true, true}, i), masks[i]);
}

TEST(Topology, MoreRanksThanCores) {
  const std::vector<Cores> masks(9, Cores{{0}, {1}});
  std::vector<bool> runs(9, true);
  runs[0] = false;
  for (std::size_t i = 0; i < 9; ++i) EXPECT_EQ(divide(masks, runs, i).size(), 1U);
}

TEST(Topology, BindingStaysInsideTheMask) {
  const auto before = thread_cpus();
  EXPECT_TRUE(bind_thread({before.front()}));
  EXPECT_EQ(thread_cpus(), std::vector<int>{before.front()});
  EXPECT_TRUE(bind_thread(before));
}

TEST(Topology, WidensToTheNumaNodeButNotBeyondTheRank) {
  const std::vector<std::vector<int>> nodes{{0, 1, 2, 3}, {4, 5, 6, 7}};
  const Cores cores{{0}, {1}, {4}, {5}};
  EXPECT_EQ(widen({1}, cores, nodes), (std::vector<int>{0, 1}));
  EXPECT_EQ(widen({4}, cores, nodes), (std::vector<int>{4, 5}));
  EXPECT_EQ(widen({1, 4}, cores, nodes), (std::vector<int>{0, 1, 4, 5}));
  EXPECT_EQ(widen({1}, cores, {}), (std::vector<int>{1}));
  std::vector<int> all;
  for (const auto& node : numa_nodes()) all.insert(all.end(), node.begin(), node.end());
  for (const auto& core : allowed_cores()) {
    for (const int cpu : core) EXPECT_NE(std::find(all.begin(), all.end(), cpu), all.end());
  }
}

}  // namespace
}  // namespace mobula::topology
