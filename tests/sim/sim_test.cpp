// Random programs on simulated clusters. A failure names its seed: SIM_SEED=… runs that one alone.
#include "sim/sim.hpp"

#include <gtest/gtest.h>

#include <cstdlib>

namespace mobula::sim {
namespace {

struct Case {
  std::uint32_t ranks;
  std::uint32_t losses;
  std::uint64_t seeds;
  std::uint32_t steps = 40;
  std::uint32_t leaves = 0;
  bool crowded = false;
  bool drains = false;
};

class Sim : public testing::TestWithParam<Case> {};

std::uint64_t scaled(std::uint64_t seeds) {
  const char* factor = std::getenv("SIM_FACTOR");
  return factor != nullptr ? static_cast<std::uint64_t>(static_cast<double>(seeds) * std::atof(factor)) : seeds;
}

TEST_P(Sim, RandomPrograms) {
  const Case c = GetParam();
  std::uint64_t first = 1;
  std::uint64_t last = scaled(c.seeds);
  if (const char* only = std::getenv("SIM_SEED")) first = last = std::strtoull(only, nullptr, 10);
  Outcome sum;
  for (std::uint64_t seed = first; seed <= last; ++seed) {
    Options options;
    options.seed = seed;
    options.ranks = c.ranks;
    options.losses = c.losses;
    options.leaves = c.leaves;
    options.steps = c.steps;
    options.crowded = c.crowded;
    options.drains = c.drains;
    options.check_each_step = c.ranks <= 64;  // the checks look at everything
    if (std::getenv("SIM_VERBOSE") != nullptr)
      std::fprintf(stderr, "seed %llu\n", static_cast<unsigned long long>(seed));
    try {
      const Outcome o = run(options);
      sum.tasks += o.tasks;
      sum.events += o.events;
      sum.losses += o.losses;
      sum.left += o.left;
      sum.retried += o.retried;
      sum.errors += o.errors;
    } catch (const std::exception& e) {
      ADD_FAILURE() << e.what();
      if (std::getenv("SIM_ALL") == nullptr) return;  // otherwise all seeds that fail are told
    }
  }
  std::printf(
      "%llu seeds, %llu tasks, %llu messages, %llu ranks lost, %llu left, %llu tasks run again, %llu values lost\n",
      static_cast<unsigned long long>(last - first + 1), static_cast<unsigned long long>(sum.tasks),
      static_cast<unsigned long long>(sum.events), static_cast<unsigned long long>(sum.losses),
      static_cast<unsigned long long>(sum.left), static_cast<unsigned long long>(sum.retried),
      static_cast<unsigned long long>(sum.errors));
}

INSTANTIATE_TEST_SUITE_P(Clusters, Sim,
                         testing::Values(Case{1, 0, 300}, Case{2, 0, 500}, Case{3, 0, 500}, Case{4, 0, 500},
                                         Case{8, 0, 300}, Case{16, 0, 150}, Case{64, 0, 40}, Case{4, 1, 600},
                                         Case{8, 3, 500}, Case{16, 8, 200}, Case{1000, 0, 30}, Case{1000, 20, 30},
                                         Case{10'000, 0, 10}, Case{10'000, 20, 1}, Case{4, 0, 300, 40, 2},
                                         Case{16, 0, 150, 40, 8}, Case{16, 4, 150, 40, 4}, Case{4, 1, 100, 40, 0, true},
                                         Case{8, 3, 100, 40, 0, true}, Case{1, 0, 100, 40, 0, false, true},
                                         Case{4, 0, 300, 40, 0, false, true}, Case{8, 2, 100, 40, 1, false, true}),
                         [](const auto& test) {
                           std::string name = std::to_string(test.param.ranks) + "ranks" +
                                              std::to_string(test.param.losses) + "losses";
                           if (test.param.leaves != 0) name += std::to_string(test.param.leaves) + "leaves";
                           if (test.param.crowded) name += "Crowded";
                           if (test.param.drains) name += "Drained";
                           return name;
                         });

// One worker dies after each message that it sends or handles: the first, the second, and so on to the end.
TEST(Boundaries, AreAllSurvived) {
  std::uint64_t first = 1;
  std::uint64_t last = scaled(60);
  if (const char* only = std::getenv("SIM_SEED")) first = last = std::strtoull(only, nullptr, 10);
  std::uint64_t runs = 0;
  for (std::uint64_t seed = first; seed <= last; ++seed) {
    Options options;
    options.seed = seed;
    options.ranks = 4;
    options.steps = 8;
    for (options.dies = 1; options.dies < options.ranks; ++options.dies) {
      if (const char* only = std::getenv("SIM_DIES")) options.dies = static_cast<RankId>(std::atoi(only));
      options.dies_at = 1;
      if (const char* only = std::getenv("SIM_DIES_AT")) options.dies_at = std::strtoull(only, nullptr, 10);
      for (;; ++options.dies_at, ++runs) {
        if (std::getenv("SIM_VERBOSE") != nullptr) {
          std::fprintf(stderr, "seed %llu, rank %u, boundary %llu\n", static_cast<unsigned long long>(seed),
                       options.dies, static_cast<unsigned long long>(options.dies_at));
        }
        try {
          if (run(options).boundaries < options.dies_at) break;
        } catch (const std::exception& e) {
          FAIL() << e.what() << "; rank " << options.dies << " dies at boundary " << options.dies_at;
        }
      }
    }
  }
  std::printf("%llu deaths\n", static_cast<unsigned long long>(runs));
}

TEST(Determinism, ASeedRepeatsExactly) {
  Options options;
  options.seed = 7;
  options.ranks = 8;
  options.losses = 2;
  const Outcome a = run(options);
  const Outcome b = run(options);
  EXPECT_EQ(a.digest, b.digest);
  EXPECT_EQ(a.events, b.events);
  EXPECT_EQ(a.end, b.end);
}

}  // namespace
}  // namespace mobula::sim
