// What a cluster does for n of something takes a time that grows with n, and not with its square: twice as many may
// take 2.5 times as long. Measured by the time of the processor, of the best of several runs.
#include <gtest/gtest.h>

#include <algorithm>

#include "growth.hpp"
#include "sim/cluster.hpp"
#include "sim/functions.hpp"

namespace mobula::sim {
namespace {

using tests::seconds_of_this_thread;

struct Scenario {
  const char* name;
  std::uint32_t n;
  Body (*driver)(Cluster&, std::uint32_t n);
  std::uint32_t ranks = 3;
  bool ranks_grow = false;                             // with n: so many for each
  Body (*other)(Cluster&, std::uint32_t n) = nullptr;  // beside which it is measured
};

void PrintTo(const Scenario& scenario, std::ostream* out) { *out << scenario.name; }

double seconds_for(const Scenario& scenario, std::uint32_t n) {
  Options options;
  options.seed = 3;
  options.ranks = scenario.ranks_grow ? scenario.ranks * (n / scenario.n) : scenario.ranks;
  options.slots_most = 2;
  options.slow_part = 0;
  options.slow_pairs = 0;
  options.check_each_step = false;
  const double before = seconds_of_this_thread();
  {
    Cluster cluster(options);
    cluster.run([&] { return scenario.driver(cluster, n); });
  }
  return seconds_of_this_thread() - before;
}

// ---- what is done n times ----------------------------------------------------------------------------------------

const Cluster::Arguments kNone = [](Encoder&) {};

Body await_all(Cluster& cluster, std::vector<Handle> handles) {
  for (const Handle& handle : handles) co_await cluster.here(0, handle);
}

// A task that holds all that there is of x for a while.
Handle hold_x(Cluster& cluster, Time time) {
  TaskOptions options;
  options.resources["x"] = 1;
  const auto arguments = [time](Encoder& out) {
    out.put(std::uint64_t{0});
    out.put(static_cast<std::uint64_t>(time));
  };
  return cluster.submit(0, false, kSlow, arguments, {}, &options);
}

Body dependents_of_a_failure(Cluster& cluster, std::uint32_t n) {
  const Handle broken = cluster.submit(0, false, kBroken, [](Encoder& out) { out.put(std::uint64_t{1}); });
  std::vector<Handle> all;
  for (std::uint64_t i = 0; i < n; ++i) {
    all.push_back(cluster.submit(0, false, kJoin, [i](Encoder& out) { out.put(i); }, {{0, broken}}));
  }
  const Body wait = await_all(cluster, all);
  co_await wait;
}

// One by one, on one rank: others take them back from the far end, and the task itself takes them from there.
Body children_of_one_task(Cluster& cluster, std::uint32_t n) {
  const auto arguments = [n](Encoder& out) {
    out.put(std::uint64_t{1});
    out.put(std::uint64_t{n});
  };
  const Handle handle = cluster.submit(0, false, kSpray, arguments);
  co_await cluster.here(0, handle);
}

Body cancel_of_all(Cluster& cluster, std::uint32_t n) {
  const Handle holder = hold_x(cluster, 20'000'000);
  std::vector<Handle> all;
  for (std::uint64_t i = 0; i < n; ++i) {
    all.push_back(cluster.submit(0, false, kJoin, [i](Encoder& out) { out.put(i); }, {{0, holder}}));
  }
  for (const Handle& handle : all) {
    core::Answer answer;
    cluster.worker(0).make_known(handle);
    const Body ask = cluster.ask(0, core::Question::cancel, handle.id(), {}, &answer);
    co_await ask;
  }
  const Body wait = await_all(cluster, all);
  co_await wait;
}

// Nothing but tasks: what more ranks cost the simulator by themselves.
Body plain_tasks(Cluster& cluster, std::uint32_t n) {
  std::vector<Handle> all;
  for (std::uint64_t i = 0; i < 4 * n; ++i) {
    all.push_back(cluster.submit(0, false, kJoin, [i](Encoder& out) {
      out.put(i);
      out.put(i);
    }));
  }
  const Body wait = await_all(cluster, all);
  co_await wait;
}

// Each asks for what `ask(options, part)` says, with another part of the whole, more than 0 and at most 1.
template <class F>
std::vector<Handle> submit_differing(Cluster& cluster, std::uint32_t n, F&& ask) {
  std::vector<Handle> all;
  for (std::uint64_t i = 0; i < n; ++i) {
    TaskOptions options;
    ask(options, static_cast<double>(1 + i * 7919 % n) / n);
    all.push_back(cluster.submit(
        0, false, kLeaf, [i](Encoder& out) { out.put(i); }, {}, &options));
  }
  return all;
}

Body many_demands(Cluster& cluster, std::uint32_t n) {
  return await_all(cluster, submit_differing(cluster, n, [n](TaskOptions& options, double part) {
                     options.memory = static_cast<std::uint64_t>(part * n);
                   }));
}

Body many_resources(Cluster& cluster, std::uint32_t n) {
  return await_all(
      cluster, submit_differing(cluster, n, [](TaskOptions& options, double part) { options.resources["x"] = part; }));
}

Body many_cpus(Cluster& cluster, std::uint32_t n) {
  return await_all(cluster,
                   submit_differing(cluster, n, [](TaskOptions& options, double part) { options.cpus = part; }));
}

// What asks for much of one asks for little of the other.
Body many_of_two(Cluster& cluster, std::uint32_t n) {
  return await_all(cluster, submit_differing(cluster, n, [n](TaskOptions& options, double part) {
                     options.cpus = part;
                     options.resources["x"] = 1 + 1.0 / n - part;
                   }));
}

Body many_on_one_rank(Cluster& cluster, std::uint32_t n) {
  return await_all(cluster, submit_differing(cluster, n, [](TaskOptions& options, double part) {
                     options.resources["x"] = part;
                     options.placement = on_rank(1);
                   }));
}

// What they ask for is held by another one, while plain tasks run.
Body plain_beside_demands(Cluster& cluster, std::uint32_t n) {
  const Handle holder = hold_x(cluster, Time{20'000} * n);
  const Body demands = many_resources(cluster, n);
  const Body plain = plain_tasks(cluster, n);
  co_await plain;
  co_await demands;
}

// Each is to run on a rank of its own, and is followed by another one there.
Body many_places(Cluster& cluster, std::uint32_t n) {
  std::vector<Handle> all;
  const auto ranks = static_cast<std::uint32_t>(cluster.ranks().size());
  for (std::uint32_t i = 0; i < 4 * n; ++i) {
    TaskOptions options;
    options.cpus = 0.5;
    options.placement = on_rank(1 + i % (ranks - 1));
    all.push_back(cluster.submit(
        0, false, kLeaf, [i](Encoder& out) { out.put(std::uint64_t{i}); }, {}, &options));
  }
  const Body wait = await_all(cluster, all);
  co_await wait;
}

// Behind a resource that comes late.
Body chain(Cluster& cluster, std::uint32_t n) {
  Handle last = hold_x(cluster, 2'000'000);
  for (std::uint64_t i = 0; i < n; ++i) {
    last = cluster.submit(0, false, kJoin, [i](Encoder& out) { out.put(i); }, {{0, last}});
  }
  co_await cluster.here(0, last);
}

Body loss_of_a_rank(Cluster& cluster, std::uint32_t n) {
  const Handle child = hold_x(cluster, 30'000'000);
  const auto arguments = [n](Encoder& out) {
    out.put(std::uint64_t{1});
    out.put(std::uint64_t{n});
  };
  TaskOptions options;
  options.placement = on_rank(2);
  const Handle handle = cluster.submit(0, false, kSpray, arguments, {}, &options);
  co_await cluster.delay(0, 1'500'000);
  cluster.lose(2);
  co_await cluster.here(0, handle);
}

// Each node has a copy of one value, and then tasks take it.
Body copies_on_nodes(Cluster& cluster, std::uint32_t n) {
  const Handle large = cluster.submit(0, false, kLargeTask, [](Encoder& out) { out.put(std::uint64_t{1}); });
  for (int round = 0; round < 4; ++round) {
    std::vector<Handle> all;
    for (std::uint32_t i = 0; i < n; ++i) {
      TaskOptions options;
      options.placement = spread;
      all.push_back(cluster.submit(0, false, kFirst, kNone, {{0, large}}, round == 0 ? &options : nullptr));
    }
    const Body wait = await_all(cluster, all);
    co_await wait;
  }
}

// A placement group waits for what another one has, while n tasks run.
Body waiting_group(Cluster& cluster, std::uint32_t n) {
  core::WireOptions bundles;
  bundles.demands.assign(cluster.ranks().size() - 1, {1, 0, 0, {}});
  Handle groups[2];
  for (Handle& group : groups) {
    group = cluster.worker(0).mint_actor();
    core::Answer answer;
    const Body ask = cluster.ask(0, core::Question::bundles, group.id(), bundles, &answer);
    co_await ask;
  }
  std::vector<Handle> all;
  for (std::uint64_t i = 0; i < n; ++i) {
    TaskOptions options;
    options.cpus = 0.5;
    options.placement = {Placement::Kind::bundle, static_cast<std::uint32_t>(i % bundles.demands.size()), groups[0]};
    all.push_back(cluster.submit(
        0, false, kLeaf, [i](Encoder& out) { out.put(i); }, {}, &options));
  }
  const Body wait = await_all(cluster, all);
  co_await wait;
}

class Cost : public testing::TestWithParam<Scenario> {};

TEST_P(Cost, GrowsWithWhatIsDone) {
  const Scenario& scenario = GetParam();
  const tests::Growth cost = tests::growth(static_cast<int>(scenario.n),
                                           [&](int n) { return seconds_for(scenario, static_cast<std::uint32_t>(n)); });
  std::printf("%s: %.0f ms for %u, %.1f times that for twice as many\n", scenario.name, cost.once * 1e3, scenario.n,
              cost.times());
  EXPECT_LT(cost.times(), 2.5);
}

INSTANTIATE_TEST_SUITE_P(Clusters, Cost,
                         testing::Values(Scenario{"DependentsOfAFailure", 20'000, dependents_of_a_failure},
                                         Scenario{"ChildrenOfOneTask", 50'000, children_of_one_task},
                                         Scenario{"CancelOfAll", 8'000, cancel_of_all},
                                         Scenario{"ManyDemands", 3'000, many_demands}, Scenario{"Chain", 20'000, chain},
                                         Scenario{"LossOfARank", 30'000, loss_of_a_rank}),
                         [](const auto& test) { return std::string(test.param.name); });

// More ranks cost the simulator more by themselves, and so do more classes: what is in no cache takes longer. So these
// are measured beside what costs that as well.
class CostBesideOthers : public testing::TestWithParam<Scenario> {};

TEST_P(CostBesideOthers, GrowsAsTheirs) {
  const Scenario& scenario = GetParam();
  Scenario other = scenario;
  other.driver = scenario.other;
  constexpr double kMost = 1.4;  // twice, if it looked at all ranks, or all classes, each time
  double once = 0;
  double twice = 0;
  const auto best_of_3 = [](const Scenario& of, std::uint32_t n) {
    return std::min({seconds_for(of, n), seconds_for(of, n), seconds_for(of, n)});
  };
  for (int i = 0; i < 4; ++i) {
    once = best_of_3(scenario, scenario.n) / best_of_3(other, scenario.n);
    twice = best_of_3(scenario, 2 * scenario.n) / best_of_3(other, 2 * scenario.n);
    if (twice < kMost * once) break;
  }
  std::printf("%s: %.2f of others with %u, %.2f with twice as many\n", scenario.name, once, scenario.n, twice);
  EXPECT_LT(twice, kMost * once);
}

INSTANTIATE_TEST_SUITE_P(Ranks, CostBesideOthers,
                         testing::Values(Scenario{"CopiesOnNodes", 300, copies_on_nodes, 300, true, plain_tasks},
                                         Scenario{"ManyPlaces", 1'000, many_places, 500, true, plain_tasks},
                                         Scenario{"WaitingGroup", 4'000, waiting_group, 200, true, plain_tasks}),
                         [](const auto& test) { return std::string(test.param.name); });

INSTANTIATE_TEST_SUITE_P(Demands, CostBesideOthers,
                         testing::Values(Scenario{"ManyResources", 1'000, many_resources, 3, false, many_demands},
                                         Scenario{"ManyCpus", 1'000, many_cpus, 3, false, many_demands},
                                         Scenario{"PlainBesideDemands", 1'000, plain_beside_demands, 3, false,
                                                  plain_tasks},
                                         Scenario{"ManyOfTwo", 1'000, many_of_two, 3, false, many_demands},
                                         Scenario{"ManyOnOneRank", 1'000, many_on_one_rank, 3, false, many_demands}),
                         [](const auto& test) { return std::string(test.param.name); });

}  // namespace
}  // namespace mobula::sim
