#include <numeric>
#include <set>

#include "support.hpp"

using namespace support;
using mobula::actor;
using mobula::Demand;
using mobula::get;
using mobula::placement_group;
using mobula::PlacementGroup;
using mobula::Ref;
using mobula::remote;
using mobula::Strategy;

namespace {

struct Cell {
  int value = 0;
  int add(int n) { return value += n; }
  std::uint32_t rank() const { return mobula::here().rank; }
};

std::atomic<int> g_at_once{0};
int at_most(int limit) {
  const int now = ++g_at_once;
  sleep_ms(2);
  --g_at_once;
  return now <= limit ? 0 : now;
}

int in_group(const PlacementGroup& group, int x) {
  return get(remote<twice>.with({.cpus = 0.5, .placement = group.bundle(0)})(x));
}

// The cpus that the head counts as free are all there again.
bool all_free() {
  for (int i = 0; i < 400; ++i) {
    const auto info = mobula::cluster();
    if (info.free.at("cpus") == info.total.at("cpus")) return true;
    sleep_ms(5);
  }
  return false;
}

double cpus_of_a_rank() {
  double least = 1e9;
  for (const auto& rank : mobula::cluster().ranks) {
    if (rank.slots > 0) least = std::min(least, static_cast<double>(rank.slots));
  }
  return least;
}

// How often something of a group that nobody holds any more was set aside still. Each takes all cpus.
int groups_left(std::size_t ranks, double cpus, int rounds) {
  int left = 0;
  for (int i = 0; i < rounds; ++i) {
    get(placement_group(std::vector<Demand>(ranks, Demand{.cpus = cpus}), Strategy::spread).ready());
    const auto info = mobula::cluster();
    left += info.free.at("cpus") != info.total.at("cpus") ? 1 : 0;
  }
  return left;
}

TEST(PlacementGroup, TasksAndActorsRunInTheirBundles) {
  const std::vector<Demand> bundles(workers(), Demand{.cpus = 1});
  {
    const PlacementGroup group = placement_group(bundles);
    ASSERT_EQ(group.size(), workers());
    get(group.ready());
    EXPECT_THROW(group.bundle(workers()), std::out_of_range);
    std::vector<std::uint32_t> ranks;
    for (std::size_t i = 0; i < group.size(); ++i) {
      const auto place = group.bundle(i);
      const std::uint32_t rank = get(remote<where>.with({.placement = place})());
      for (int j = 0; j < 5; ++j) EXPECT_EQ(get(remote<where>.with({.placement = place})()), rank);
      ranks.push_back(rank);
      const auto cell = actor<Cell>.with({.cpus = 1, .placement = place})();
      EXPECT_EQ(get(remote<&Cell::rank>(cell)), rank);
      EXPECT_EQ(get(remote<&Cell::add>(cell, 3)), 3);
    }
  }
  EXPECT_TRUE(all_free());
}

TEST(PlacementGroup, HoldsNoMoreThanTheBundle) {
  const PlacementGroup group = placement_group({{.cpus = 1}});
  std::vector<Ref<int>> results;
  for (int i = 0; i < 20; ++i) results.push_back(remote<at_most>.with({.placement = group.bundle(0)})(1));
  for (const auto& result : results) EXPECT_EQ(get(result), 0);
  EXPECT_THROW(remote<nothing>.with({.cpus = 1.5, .placement = group.bundle(0)})(), mobula::Infeasible);
  if (mobula::cluster().slots > 1) {
    EXPECT_EQ(get(remote<twice>.map(numbers(0, 50)))[49], 98);  // others go on
  }
  const auto batch = remote<twice>.with({.placement = group.bundle(0)}).map(numbers(0, 30));
  EXPECT_EQ(get(batch)[29], 58);
}

TEST(PlacementGroup, WhatCanNeverBeIsInfeasible) {
  EXPECT_THROW(placement_group({}), std::invalid_argument);
  EXPECT_THROW(placement_group({{.cpus = -1}}), std::invalid_argument);
  EXPECT_THROW(placement_group({{.cpus = cpus_of_a_rank() + 1000}}), mobula::Infeasible);
  const std::vector<Demand> too_many(mobula::cluster().nodes.size() + 1);
  EXPECT_THROW(placement_group(too_many, Strategy::strict_spread), mobula::Infeasible);
  EXPECT_TRUE(all_free());
}

TEST(PlacementGroup, WaitsUntilThereIsRoom) {
  const std::vector<Demand> all(workers(), Demand{.cpus = cpus_of_a_rank()});
  PlacementGroup first = placement_group(all, Strategy::spread);
  get(first.ready());
  const PlacementGroup second = placement_group(all);
  const Ref<int> waits = remote<twice>.with({.placement = second.bundle(0)})(21);
  sleep_ms(20);
  EXPECT_THROW(get(second.ready(), 1ms), mobula::TimedOut);
  EXPECT_NE(mobula::explain(waits).find("bundle is not set aside"), std::string::npos) << mobula::explain(waits);
  first = PlacementGroup();
  EXPECT_EQ(get(waits), 42);
}

TEST(PlacementGroup, IsNotStarvedByTasks) {
  const support::Flow flow;
  const std::vector<Demand> bundles(std::min<std::size_t>(workers(), 6), Demand{.cpus = 1});
  get(placement_group(bundles).ready());  // and gone again: it may hold all that there is
  flow.expect_goes_on();
}

TEST(PlacementGroup, LivesAsLongAsItsTasksAndActors) {
  mobula::Actor<Cell> cell;
  Ref<int> late;
  {
    const PlacementGroup group = placement_group({{.cpus = 1}});
    cell = actor<Cell>.with({.cpus = 1, .placement = group.bundle(0)})();
  }
  EXPECT_EQ(get(remote<&Cell::add>(cell, 1)), 1);
  cell = {};
  EXPECT_TRUE(all_free());
  {
    const PlacementGroup group = placement_group({{.cpus = 1}});
    late = remote<sleep_and_return>.with({.placement = group.bundle(0)})(30, 9);
  }
  EXPECT_EQ(get(late), 9);
  EXPECT_TRUE(all_free());
}

TEST(PlacementGroup, IsPassedOn) {
  const PlacementGroup group = placement_group({{.cpus = 0.5}});
  EXPECT_EQ(get(remote<in_group>.with({.cpus = 0})(group, 4)), 8);
}

TEST(PlacementGroup, ManyComeAndGo) {
  for (int i = 0; i < 2000; ++i) placement_group({{.cpus = 0.25}, {.cpus = 0.25}}, Strategy::spread);
  EXPECT_TRUE(all_free());
}

// Whoever let go of it finds it so in whatever he asks next.
TEST(PlacementGroup, IsGoneOnceItsLastHandleHasGone) {
  ASSERT_TRUE(all_free());  // what other tests have left
  const double cpus = cpus_of_a_rank();
  EXPECT_EQ(groups_left(workers(), cpus, 20), 0);
  EXPECT_EQ(get(remote<groups_left>.with({.cpus = 0})(workers(), cpus, 20)), 0);
  get(placement_group(std::vector<Demand>(workers(), Demand{.cpus = cpus}), Strategy::spread).ready());
  EXPECT_EQ(get(remote<twice>.with({.cpus = cpus})(21)), 42);
}

}  // namespace
