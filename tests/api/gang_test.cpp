#include <mpi.h>

#include <boost/mpi.hpp>
#include <cstdio>
#include <filesystem>
#include <numeric>
#include <set>

#include "support.hpp"

using namespace support;
using mobula::Batch;
using mobula::gang;
using mobula::GangOptions;
using mobula::get;
using mobula::Ref;
using mobula::remote;
using Ranks = boost::mpi::communicator;

namespace {

int place(const Ranks& ranks) { return ranks.rank(); }

long sum_of(const Ranks& ranks, long mine) {
  return boost::mpi::all_reduce(ranks, mine * (ranks.rank() + 1), std::plus<>());
}

std::uint32_t world_rank(const Ranks& ranks) {
  ranks.barrier();
  return mobula::here().rank;
}

std::vector<double> large(const Ranks& ranks, std::size_t n) { return std::vector<double>(n, ranks.rank() + 0.5); }

double total(const Ranks& ranks, const std::vector<double>& values, std::string name) {
  if (name != "a name that is longer than what fits into a string itself") throw std::logic_error(name);
  return boost::mpi::all_reduce(ranks, std::accumulate(values.begin(), values.end(), 0.0), std::plus<>());
}

int fails_at(const Ranks& ranks, int at) {
  ranks.barrier();
  if (ranks.rank() == at) throw std::out_of_range("member " + std::to_string(at));
  return ranks.rank();
}

int nested(const Ranks& ranks, int x) {
  // Tasks of the job, and a collective, from within a member.
  const int mine = get(remote<twice>(x + ranks.rank()));
  return boost::mpi::all_reduce(ranks, mine, std::plus<>());
}

// The number of its leaves. Some of the tasks ask for memory, which their parents' threads can't run.
int tree(int depth) {
  if (depth == 0) return 1;
  std::vector<Ref<int>> below;
  for (std::size_t i = 0; i < 3; ++i) below.push_back(remote<tree>.with({.memory = i * 8})(depth - 1));
  int sum = 0;
  for (const Ref<int>& part : below) sum += get(part);
  return sum;
}

int tree_and_meet(const Ranks& ranks, int depth) {
  const int mine = get(remote<tree>(depth));
  return boost::mpi::all_reduce(ranks, mine, std::plus<>());
}

// A gang of its own between two meetings, which needs the ranks of this one.
int gang_and_meet(const Ranks& ranks, int depth) {
  ranks.barrier();
  std::vector<int> sums;
  if (depth != 0) sums = get(gang<gang_and_meet>(1, depth - 1));
  return boost::mpi::all_reduce(ranks, sums.empty() ? 1 : sums[0], std::plus<>());
}

struct Whole {
  int touch() { return 1; }
};

// Nested work that needs the very cpus of the members that meet already, or have ended.
enum class Needs : std::uint8_t { all_ranks, each_rank, whole_rank, bundles, actor };
int needs_others(const Ranks& ranks, Needs needs, double cpus, bool meet) {
  const auto all = static_cast<std::size_t>(ranks.size());
  if (ranks.rank() == ranks.size() - 1) {
    if (needs == Needs::all_ranks) get(gang<place>(all));
    for (const auto& rank : mobula::cluster().ranks) {
      if (needs == Needs::each_rank && rank.slots != 0) {
        get(remote<twice>.with({.placement = mobula::on_rank(rank.rank)})(1));
      } else if (needs == Needs::whole_rank && rank.slots != 0) {
        get(remote<twice>.with({.cpus = cpus, .placement = mobula::on_rank(rank.rank)})(1));
      }
    }
    if (needs == Needs::bundles) {
      const auto group = mobula::placement_group(std::vector<mobula::Demand>(all, {.cpus = cpus}));
      get(remote<twice>.with({.cpus = cpus, .placement = group.bundle(all - 1)})(1));
    }
    if (needs == Needs::actor) {
      std::vector<mobula::Actor<Whole>> actors;
      for (std::size_t i = 0; i != all; ++i) actors.push_back(mobula::actor<Whole>.with({.cpus = cpus})());
      for (const auto& actor : actors) get(remote<&Whole::touch>(actor));
    }
  }
  if (meet) ranks.barrier();
  return ranks.size();
}

Ref<int> gives_ref(const Ranks& ranks) { return remote<twice>(ranks.rank()); }

// A ring of puts, a split communicator, and a file that all write: what MPI has besides messages.
int all_of_mpi(const Ranks& ranks, const std::string& path) {
  const MPI_Comm comm = ranks;
  const int mine = ranks.rank();
  int value = -1;
  MPI_Win window = MPI_WIN_NULL;
  MPI_Comm_set_errhandler(comm, MPI_ERRORS_RETURN);
  // Open MPI 4 has no windows for one rank, nor over TCP, where several threads may call it.
  if (MPI_Win_create(&value, sizeof value, sizeof value, MPI_INFO_NULL, comm, &window) == MPI_SUCCESS) {
    MPI_Win_fence(0, window);
    MPI_Put(&mine, 1, MPI_INT, (mine + 1) % ranks.size(), 0, 1, MPI_INT, window);
    MPI_Win_fence(0, window);
    MPI_Win_free(&window);
    if (value != (mine + ranks.size() - 1) % ranks.size()) return 1;
  }

  const Ranks half = ranks.split(mine % 2);
  const int size = boost::mpi::all_reduce(half, 1, std::plus<>());
  if (size != half.size() || size != (ranks.size() + 1 - mine % 2) / 2) return 2;

  MPI_File file = MPI_FILE_NULL;
  if (MPI_File_open(comm, path.c_str(), MPI_MODE_CREATE | MPI_MODE_RDWR, MPI_INFO_NULL, &file) != MPI_SUCCESS) return 3;
  MPI_File_write_at_all(file, static_cast<MPI_Offset>(sizeof(int)) * mine, &mine, 1, MPI_INT, MPI_STATUS_IGNORE);
  MPI_File_sync(file);
  ranks.barrier();
  MPI_File_sync(file);
  int read = -1;
  MPI_File_read_at(file, static_cast<MPI_Offset>(sizeof(int)) * (ranks.size() - 1 - mine), &read, 1, MPI_INT,
                   MPI_STATUS_IGNORE);
  MPI_File_close(&file);
  return read == ranks.size() - 1 - mine ? 0 : 4;
}

int small_ring(const Ranks& ranks, int x) {
  int got = 0;
  boost::mpi::request request = ranks.irecv((ranks.rank() + ranks.size() - 1) % ranks.size(), 1, got);
  ranks.send((ranks.rank() + 1) % ranks.size(), 1, x + ranks.rank());
  request.wait();
  return got;
}

void sleeps(const Ranks&, int ms) { sleep_ms(ms); }

int broken() { throw std::runtime_error("no input"); }

long parent(std::size_t k) {
  const std::vector<long> sums = get(gang<sum_of>(k, 1));
  return std::accumulate(sums.begin(), sums.end(), 0L);
}

TEST(Gang, RunsOnAsManyRanksAsAsked) {
  for (std::size_t k = 1; k <= std::min<std::size_t>(workers(), 8); ++k) {
    const Batch<int> places = gang<place>(k);
    ASSERT_EQ(places.size(), k);
    for (std::size_t i = 0; i < k; ++i) EXPECT_EQ(get(places[i]), static_cast<int>(i));
    const std::vector<std::uint32_t> where = get(gang<world_rank>(k));
    EXPECT_EQ(std::set<std::uint32_t>(where.begin(), where.end()).size(), k);
    const auto n = static_cast<long>(k);
    EXPECT_EQ(get(gang<sum_of>(k, 3)), std::vector<long>(k, 3 * n * (n + 1) / 2));
  }
}

TEST(Gang, ArgumentsAndResultsOfAnyKind) {
  const std::size_t k = workers();
  const Batch<std::vector<double>> parts = gang<large>(k, 20'000);
  for (std::size_t i = 0; i < k; ++i)
    EXPECT_EQ(get(parts[i]), std::vector<double>(20'000, static_cast<double>(i) + 0.5));
  // A Ref among the arguments, and a large value.
  const double expected = static_cast<double>(k) * 20'000 * 0.5;
  const std::string name = "a name that is longer than what fits into a string itself";
  EXPECT_EQ(get(gang<total>(k, parts[0], name)), std::vector<double>(k, expected));
  EXPECT_EQ(get(gang<total>(k, std::vector<double>(20'000, 0.5), name)), std::vector<double>(k, expected));
  const Batch<Ref<int>> refs = gang<gives_ref>(k);
  for (std::size_t i = 0; i < k; ++i) EXPECT_EQ(get(get(refs[i])), 2 * static_cast<int>(i));
  // The result of a member is an argument like others.
  EXPECT_EQ(get(remote<twice>(gang<place>(k)[k - 1])), 2 * static_cast<int>(k - 1));
}

// Members wait for tasks, and then for each other inside MPI; what one of them has there, no task that another waits
// for may need.
TEST(Gang, SeveralOnTheSameRanksWhoseMembersWaitForTasks) {
  std::vector<std::pair<std::size_t, Batch<int>>> gangs;
  for (std::size_t i = 0; i < 6; ++i) {
    const std::size_t k = std::max<std::size_t>(1, workers() - i % 2);
    gangs.emplace_back(k, gang<tree_and_meet>(k, 2));
  }
  const Ref<int> beside = remote<tree>(4);
  for (const auto& [k, results] : gangs) EXPECT_EQ(get(results), std::vector<int>(k, 9 * static_cast<int>(k)));
  EXPECT_EQ(get(beside), 81);
}

TEST(Gang, AGangInAMember) {
  const std::size_t k = std::min<std::size_t>(workers(), 3);
  const Batch<int> first = gang<gang_and_meet>(k, 3);
  const Batch<int> second = gang<gang_and_meet>(k, 2);
  EXPECT_EQ(get(first), std::vector<int>(k, static_cast<int>(k)));
  EXPECT_EQ(get(second), std::vector<int>(k, static_cast<int>(k)));
}

TEST(Gang, NestedWorkThatNeedsTheCpusOfMembersInsideMpiOrThatHaveEnded) {
  const std::size_t k = workers();
  const auto& ranks = mobula::cluster().ranks;
  double cpus = 1000;  // of the smallest rank
  for (const auto& rank : ranks) cpus = rank.slots != 0 ? std::min(cpus, static_cast<double>(rank.slots)) : cpus;
  for (const bool meet : {true, false}) {
    for (const Needs needs : {Needs::all_ranks, Needs::each_rank, Needs::whole_rank, Needs::bundles, Needs::actor}) {
      EXPECT_EQ(get(gang<needs_others>(k, needs, cpus, meet)), std::vector<int>(k, static_cast<int>(k)));
    }
  }
  EXPECT_EQ(get(gang<place>.with({.cpus = cpus})(k)).size(), k) << "all is free again";
}

TEST(Gang, MoreMembersThanRanksIsInfeasible) {
  try {
    gang<place>(workers() + 1);
    FAIL() << "it must not start";
  } catch (const mobula::Infeasible& e) {
    EXPECT_NE(std::string(e.what()).find("mpirun -n " + std::to_string(workers() + 2)), std::string::npos) << e.what();
  }
  EXPECT_THROW(gang<place>(0), std::invalid_argument);
  EXPECT_THROW(gang<place>.with({.cpus = 1000})(1), mobula::Infeasible);
  EXPECT_THROW(gang<place>.with({.placement = mobula::one_per_node})(mobula::cluster().nodes.size() + 1),
               mobula::Infeasible);
}

TEST(Gang, OneThatThrowsFailsTheGang) {
  const std::size_t k = workers();
  for (int at = 0; at < static_cast<int>(std::min<std::size_t>(k, 3)); ++at) {
    const Batch<int> results = gang<fails_at>(k, at);
    for (std::size_t i = 0; i < k; ++i) {
      try {
        get(results[i]);
        ADD_FAILURE() << "element " << i << " must fail";
      } catch (const std::exception& e) {
        EXPECT_NE(std::string(e.what()).find("member " + std::to_string(at)), std::string::npos) << e.what();
        const mobula::Failure* failure = mobula::failure_of(e);
        ASSERT_NE(failure, nullptr);
        EXPECT_NE(failure->task.find("fails_at"), std::string::npos);
      }
    }
    EXPECT_EQ(get(gang<fails_at>(k, -1)).size(), k);  // the ranks are free
  }
}

std::atomic<int> g_runs{0};
int fails_once(const Ranks& ranks) {
  ranks.barrier();
  if (ranks.rank() == 0 && g_runs++ == 0) throw std::runtime_error("the first time");
  return ranks.size();
}
int counted_runs() { return g_runs.exchange(0); }

TEST(Gang, RetriesAsAWhole) {
  const auto k = static_cast<int>(workers());
  EXPECT_EQ(get(gang<fails_once>.with({.retries = 5, .retry_exceptions = true})(workers())),
            std::vector<int>(workers(), k));
  for (const auto& rank : mobula::cluster().ranks) {
    if (rank.slots != 0) get(remote<counted_runs>.with({.placement = mobula::on_rank(rank.rank)})());
  }
}

TEST(Gang, TimesOut) {
  const Batch<int> results = gang<small_ring>(workers(), 1);
  EXPECT_EQ(get(results).size(), workers());
  const auto late = gang<sleeps>.with({.timeout = 20ms})(workers(), 200);
  EXPECT_THROW(get(late[0]), mobula::TimedOut);
  EXPECT_EQ(get(gang<small_ring>(workers(), 1)).size(), workers());  // once they have come back
}

TEST(Gang, AllOfMpi) {
  const std::string path =
      (std::filesystem::temp_directory_path() / ("mobula_gang_" + std::to_string(getpid()))).string();
  EXPECT_EQ(get(gang<all_of_mpi>(workers(), path)), std::vector<int>(workers(), 0));
  std::filesystem::remove(path);
}

TEST(Gang, TasksFromWithin) {
  const std::size_t k = workers();
  int expected = 0;
  for (std::size_t i = 0; i < k; ++i) expected += 2 * (5 + static_cast<int>(i));
  EXPECT_EQ(get(gang<nested>(k, 5)), std::vector<int>(k, expected));
}

TEST(Gang, ManyOfAllSizesBesideTasks) {
  const std::size_t k_most = std::min<std::size_t>(workers(), 6);
  const Batch<int> tasks = remote<twice>.map(numbers(0, 3000));
  std::vector<std::pair<std::size_t, Batch<int>>> gangs;
  for (int i = 0; i < 60; ++i) {
    const std::size_t k = 1 + static_cast<std::size_t>(i * 7) % k_most;
    gangs.emplace_back(k, gang<small_ring>(k, 100 * i));
  }
  std::vector<Ref<int>> sleepers;
  for (int i = 0; i < 20; ++i) sleepers.push_back(remote<sleep_and_return>(5, i));
  for (std::size_t i = 0; i < gangs.size(); ++i) {
    const auto k = static_cast<int>(gangs[i].first);
    for (int j = 0; j < k; ++j) {
      EXPECT_EQ(get(gangs[i].second[static_cast<std::size_t>(j)]), 100 * static_cast<int>(i) + (j + k - 1) % k);
    }
  }
  EXPECT_EQ(get(tasks)[2999], 5998);
  for (int i = 0; i < 20; ++i) EXPECT_EQ(get(sleepers[static_cast<std::size_t>(i)]), i);
}

TEST(Gang, IsNotStarvedByTasks) {
  const support::Flow flow;
  const std::size_t k = std::min<std::size_t>(workers(), 6);
  EXPECT_EQ(get(gang<small_ring>(k, 0)).size(), k);
  flow.expect_goes_on();
}

// What can't start while an actor lives keeps nobody from working.
struct Holder {
  int touch() { return 1; }
};
TEST(Gang, OneThatHasNoRoomHoldsUpNobody) {
  if (mobula::cluster().slots < 2) GTEST_SKIP() << "the actor takes the only slot";
  // As many cpus of each rank as the smallest has, of which the actor has one.
  mobula::RankInfo smallest;
  for (const auto& rank : mobula::cluster().ranks) {
    if (rank.slots != 0 && (smallest.slots == 0 || rank.slots < smallest.slots)) smallest = rank;
  }
  auto holder = mobula::actor<Holder>.with({.cpus = 1, .placement = mobula::on_rank(smallest.rank)})();
  get(remote<&Holder::touch>(holder));
  const auto each = static_cast<double>(smallest.slots);
  const Batch<int> waits = gang<small_ring>.with({.cpus = each})(workers(), 0);
  EXPECT_EQ(get(remote<twice>.map(numbers(0, 200)))[199], 398);
  EXPECT_THROW(get(waits[0], 1ms), mobula::TimedOut);
  holder = {};
  EXPECT_EQ(get(waits).size(), workers());
}

TEST(Gang, WaitsForItsInputsAndIsCancelled) {
  const Ref<int> late = remote<sleep_and_return>(30, 7);
  EXPECT_EQ(get(gang<small_ring>(workers(), late)).size(), workers());
  const Ref<int> later = remote<sleep_and_return>(300, 7);
  const Batch<int> waits = gang<small_ring>(workers(), later);
  EXPECT_TRUE(mobula::cancel(waits[0]));
  for (const Ref<int>& ref : waits) EXPECT_THROW(get(ref), mobula::Cancelled);
  get(later);
  const Batch<int> fails = gang<small_ring>(workers(), remote<broken>());
  for (const Ref<int>& ref : fails) EXPECT_THROW(get(ref), std::runtime_error);
}

TEST(Gang, OfATask) {
  const auto n = static_cast<long>(workers());
  EXPECT_EQ(get(remote<parent>(workers())), n * n * (n + 1) / 2);
}

TEST(Gang, Placements) {
  const std::size_t k = workers();
  EXPECT_EQ(get(gang<place>.with({.placement = mobula::pack})(k)).size(), k);
  EXPECT_EQ(get(gang<place>.with({.placement = mobula::spread})(k)).size(), k);
  EXPECT_EQ(get(gang<place>.with({.placement = mobula::one_per_node})(1)).size(), 1u);
  for (const auto& rank : mobula::cluster().ranks) {
    if (rank.slots == 0) continue;
    EXPECT_EQ(get(gang<world_rank>.with({.placement = mobula::on_rank(rank.rank)})(1)[0]), rank.rank);
    break;
  }
}

}  // namespace
