#include <stdlib.h>

#include <filesystem>
#include <fstream>
#include <list>
#include <numeric>
#include <set>
#include <string>

#include "support.hpp"

using namespace support;
using mobula::get;
using mobula::Ref;
using mobula::remote;

namespace {

std::string join(const std::string& a, std::string b) { return a + b; }
std::vector<double> ramp(std::size_t n) {
  std::vector<double> v(n);
  std::iota(v.begin(), v.end(), 0.0);
  return v;
}
double sum(const std::vector<double>& v) { return std::accumulate(v.begin(), v.end(), 0.0); }
long sum_refs(const std::vector<Ref<int>>& refs) {
  long total = 0;
  for (const auto& ref : refs) total += get(ref);
  return total;
}
Ref<int> make_child(int x) { return remote<twice>(x); }
std::vector<Ref<int>> make_children(int n) {
  std::vector<Ref<int>> refs;
  for (int i = 0; i < n; ++i) refs.push_back(remote<twice>(i));
  return refs;
}
int take_ref(Ref<int> ref) { return get(ref) + 1; }
long fib(int n) {
  if (n < 2) return n;
  const auto a = remote<fib>(n - 1);
  const auto b = remote<fib>(n - 2);
  return get(a) + get(b);
}
struct Tally {
  int add(int x) { return x; }
};
std::tuple<int, std::string> pair_of(int x) { return {x, std::to_string(x)}; }

class Particle {
 public:
  Particle() = default;
  Particle(std::string n, std::vector<float> p) : name_(std::move(n)), position_(std::move(p)) {}
  const std::string& name() const { return name_; }
  const std::vector<float>& position() const { return position_; }

 private:
  friend class boost::serialization::access;
  template <class Archive>
  void serialize(Archive& archive, unsigned) {
    archive& name_;
    archive& position_;
  }
  std::string name_;
  std::vector<float> position_;
};

struct Free {
  int a = 0;
  std::map<std::string, std::vector<int>> m;
};
template <class Archive>
void serialize(Archive& archive, Free& f, unsigned) {
  archive& f.a& f.m;
}

Particle move_particle(Particle p, float by) {
  auto position = p.position();
  for (float& x : position) x += by;
  return Particle(p.name() + "'", position);
}
Free grow(const Free& f) {
  Free g = f;
  g.m["x"].push_back(++g.a);
  return g;
}

}  // namespace

TEST(Task, ReturnsItsResult) {
  EXPECT_EQ(get(remote<twice>(21)), 42);
  EXPECT_EQ(get(remote<plus>(1, 2)), 3);
  get(remote<nothing>());
}

TEST(Task, TakesACapturelessLambda) {
  constexpr auto cube = [](long x) { return x * x * x; };
  EXPECT_EQ(get(remote<cube>(3)), 27);
}

TEST(Task, ConvertsArguments) {
  EXPECT_EQ(get(remote<join>("ab", "cd")), "abcd");
  EXPECT_EQ(get(remote<twice>(2.9)), 4);
  const char* text = "x";
  EXPECT_EQ(get(remote<join>(text, std::string("y"))), "xy");
}

TEST(Task, RefStandsForItsValue) {
  const Ref<int> a = remote<twice>(1);
  const Ref<int> b = remote<plus>(a, 10);
  const Ref<int> c = remote<plus>(a, b);
  EXPECT_EQ(get(c), 14);
  EXPECT_EQ(get(a, b, c), (std::tuple{2, 12, 14}));
}

TEST(Task, LargeValuesTravel) {
  for (const std::size_t n : {1UL, 100UL, 511UL, 512UL, 513UL, 5'000UL, 100'000UL, 2'000'000UL}) {
    const auto v = remote<ramp>(n);
    const double expected = static_cast<double>(n) * static_cast<double>(n - 1) / 2;
    EXPECT_EQ(get(remote<sum>(v)), expected) << n;
    EXPECT_EQ(get(v).size(), n);
    EXPECT_EQ(get(remote<sum>(ramp(n))), expected) << n;
  }
}

TEST(Task, PutIsPassedToMany) {
  const auto data = mobula::put(ramp(300'000));
  std::vector<Ref<double>> sums;
  for (int i = 0; i < 20; ++i) sums.push_back(remote<sum>(data));
  for (const double s : get(sums)) EXPECT_EQ(s, 300'000.0 * 299'999.0 / 2);
  EXPECT_EQ(get(mobula::put(7)), 7);
  EXPECT_EQ(get(remote<plus>(mobula::put(7), 1)), 8);
  EXPECT_EQ(get(mobula::put(std::string("hello"))), "hello");
}

TEST(Task, UserTypesUseTheirSerialize) {
  const Particle p = get(remote<move_particle>(Particle("p", {1, 2, 3}), 0.5F));
  EXPECT_EQ(p.name(), "p'");
  EXPECT_EQ(p.position(), (std::vector<float>{1.5, 2.5, 3.5}));
  Ref<Free> f = remote<grow>(Free{});
  for (int i = 0; i < 4; ++i) f = remote<grow>(f);
  EXPECT_EQ(get(f).m.at("x"), (std::vector<int>{1, 2, 3, 4, 5}));
}

TEST(Task, RefsInContainersArePassedAsTheyAre) {
  std::vector<Ref<int>> refs;
  for (int i = 0; i < 50; ++i) refs.push_back(remote<twice>(i));
  EXPECT_EQ(get(remote<sum_refs>(refs)), 2 * 49 * 25);
  EXPECT_EQ(get(remote<take_ref>(refs[3])), 7);
  EXPECT_EQ(get(remote<take_ref>(mobula::put(5))), 6);
}

TEST(Task, RefsComeBackInResults) {
  EXPECT_EQ(get(get(remote<make_child>(5))), 10);
  std::vector<Ref<int>> children = get(remote<make_children>(100));
  long total = 0;
  for (const int v : get(children)) total += v;
  EXPECT_EQ(total, 9900);
  EXPECT_EQ(get(remote<sum_refs>(remote<make_children>(100))), 9900);
}

TEST(Task, RefsInsidePutObjects) {
  Ref<std::vector<Ref<int>>> box;
  {
    std::vector<Ref<int>> refs;
    for (int i = 0; i < 10; ++i) refs.push_back(remote<twice>(i));
    box = mobula::put(refs);
  }
  EXPECT_EQ(get(remote<sum_refs>(box)), 90);
  EXPECT_EQ(get(get(box)[9]), 18);
}

TEST(Task, UnpackSplitsATuple) {
  const auto [number, text] = mobula::unpack(remote<pair_of>(17));
  EXPECT_EQ(get(number), 17);
  EXPECT_EQ(get(text), "17");
}

TEST(Task, ManySinglesKeepTheirOrder) {
  std::vector<Ref<int>> refs;
  for (int i = 0; i < 20'000; ++i) refs.push_back(remote<twice>(i));
  const std::vector<int> values = get(refs);
  for (int i = 0; i < 20'000; ++i) ASSERT_EQ(values[static_cast<std::size_t>(i)], 2 * i);
}

TEST(Task, DroppedRefsStillRun) {
  for (int i = 0; i < 1000; ++i) remote<nothing>();
  EXPECT_EQ(get(remote<twice>(1)), 2);
}

int spread_twice(int x) { return 2 * x; }
// Tasks that stay here and ones that have to go elsewhere, turn by turn, and calls between them.
int mixed(mobula::Actor<Tally> tally, int n) {
  std::vector<Ref<int>> refs;
  for (int i = 0; i < n; ++i) {
    refs.push_back(remote<twice>(i));
    refs.push_back(remote<spread_twice>.with({.placement = mobula::spread})(i));
  }
  for (int i = 0; i < n; ++i) {
    refs.push_back(remote<twice>(i));
    refs.push_back(remote<&Tally::add>(tally, i));
    if (i % 3 == 0) refs.push_back(mobula::put(i));
  }
  int sum = 0;
  for (const auto& ref : refs) sum += get(ref);
  return sum;
}

TEST(Task, MixesTasksAndCallsOfAllKinds) {
  const auto tally = mobula::actor<Tally>();
  const int n = 50;
  int expected = 0;
  for (int i = 0; i < n; ++i) expected += 3 * 2 * i + i + (i % 3 == 0 ? i : 0);
  std::vector<Ref<int>> all;
  for (int i = 0; i < 8; ++i) all.push_back(remote<mixed>(tally, n));
  for (const auto& one : all) EXPECT_EQ(get(one), expected);
  EXPECT_EQ(mixed(tally, n), expected) << "in the driver";
}

// Tasks of one function, which the runtime gathers; one of them takes long, or waits for those before and behind it.
struct Board {
  std::map<int, Ref<int>> refs;
  void post(int i, const Ref<int>& ref) { refs[i] = ref; }
  std::vector<Ref<int>> find(const std::vector<int>& which) {
    std::vector<Ref<int>> found;
    for (const int i : which) {
      if (refs.contains(i)) found.push_back(refs.at(i));
    }
    return found;
  }
};
int among_others(int i, mobula::Actor<Board> board, int waits) {
  if (i != waits) return i;
  std::vector<Ref<int>> others;
  while (others.size() < 3) others = get(remote<&Board::find>(board, std::vector{waits - 1, waits + 1, waits + 30}));
  int sum = 0;
  for (const auto& other : others) sum += get(other);
  return sum;
}
// The one computes until the file is there, which this waits for in no way that the runtime knows of.
int sometimes_long(int i, int which, const std::string& file) {
  for (int ms = 0; i == which && !std::filesystem::exists(file) && ms < 20'000; ++ms) support::sleep_ms(1);
  return i == which && !std::filesystem::exists(file) ? -1 : i;
}

TEST(Task, MayWaitForItsNeighbours) {
  const auto board = mobula::actor<Board>();
  get(remote<among_others>.map(mobula::same(1), mobula::same(board), std::vector<int>(2000, -1)));  // known to be short
  std::vector<Ref<int>> refs;
  for (int i = 0; i < 100; ++i) refs.push_back(remote<among_others>(i, board, 20));
  for (int i = 0; i < 100; ++i) remote<&Board::post>(board, i, refs[static_cast<std::size_t>(i)]);
  EXPECT_EQ(get(refs[20]), 19 + 21 + 50);
  const auto batch = remote<among_others>.map(support::numbers(0, 100), mobula::same(board), mobula::same(20));
  for (int i = 0; i < 100; ++i) remote<&Board::post>(board, i, batch[static_cast<std::size_t>(i)]);
  EXPECT_EQ(get(batch[20]), 19 + 21 + 50);
  get(remote<&Board::find>(board, std::vector<int>{}));
}

TEST(Task, ALongOneDoesNotHoldUpThoseBehindIt) {
  if (mobula::cluster().slots < 2) GTEST_SKIP() << "SKIPPED: with one slot there is nobody who could go on";
  std::string folder = (std::filesystem::temp_directory_path() / "mobula-XXXXXX").string();
  ASSERT_NE(mkdtemp(folder.data()), nullptr);
  const std::string file = folder + "/go";
  get(remote<sometimes_long>.map(support::numbers(0, 5000), mobula::same(-1), mobula::same(file)));  // so it is short
  const auto batch = remote<sometimes_long>.map(support::numbers(0, 1000), mobula::same(5), mobula::same(file));
  for (std::size_t i = 6; i < 1000; ++i) EXPECT_EQ(get(batch[i]), static_cast<int>(i));
  std::ofstream(file) << "go";
  EXPECT_EQ(get(batch[5]), 5) << "the others waited for it";
  std::filesystem::remove_all(folder);
}

// In a bundle that is full with the one that waits.
int in_bundle(const mobula::PlacementGroup& group, int depth) {
  if (depth == 0) return 1;
  return 1 + get(remote<in_bundle>.with({.placement = group.bundle(0)})(group, depth - 1));
}

TEST(Task, WaitsInItsBundleForOthersInTheSame) {
  const auto group = mobula::placement_group({{.cpus = 1}});
  EXPECT_EQ(get(remote<in_bundle>.with({.placement = group.bundle(0)})(group, 5)), 6);
}

// Of the node that has most, more than any one rank has where it has several.
double cpus_of_a_node() {
  const mobula::ClusterInfo cluster = mobula::cluster();
  double most = 0;
  for (const auto& node : cluster.nodes) {
    double cpus = 0;
    for (const std::uint32_t rank : node.ranks) cpus += cluster.ranks[rank].slots;
    most = std::max(most, cpus);
  }
  return most;
}

struct Wide {
  int calls = 0;
  int call() { return ++calls; }
};

TEST(Task, TakesTheCpusOfAWholeNode) {
  const double all = cpus_of_a_node();
  std::vector<Ref<int>> wide;
  std::vector<Ref<int>> small;
  for (int i = 0; i < 10; ++i) {
    wide.push_back(remote<twice>.with({.cpus = all})(i));
    for (int k = 0; k < 20; ++k) small.push_back(remote<twice>(k));
  }
  for (int i = 0; i < 10; ++i) EXPECT_EQ(get(wide[static_cast<std::size_t>(i)]), 2 * i);
  for (std::size_t i = 0; i < small.size(); ++i) EXPECT_EQ(get(small[i]), static_cast<int>(2 * (i % 20)));
  {
    const auto holder = mobula::actor<Wide>.with({.cpus = all})();
    EXPECT_EQ(get(remote<&Wide::call>(holder)), 1);
    EXPECT_EQ(get(remote<&Wide::call>(holder)), 2);
  }
  EXPECT_EQ(get(remote<twice>.with({.cpus = all})(7)), 14) << "the actor has given them back";
  EXPECT_THROW(remote<twice>.with({.cpus = all + 1})(1), mobula::Infeasible);
}

TEST(Task, ChainOfDependentTasks) {
  Ref<int> last = remote<twice>(0);
  for (int i = 0; i < 3000; ++i) last = remote<plus>(last, 1);
  EXPECT_EQ(get(last), 3000);
}

TEST(Task, StencilOfDependentTasks) {
  constexpr auto step = [](long a, long b, long c) { return (a + b + c) % 1'000'003; };
  const std::size_t n = 32;
  std::vector<Ref<long>> row;
  std::vector<long> expected;
  for (std::size_t i = 0; i < n; ++i) {
    row.push_back(remote<[](long x) { return x; }>(static_cast<long>(i)));
    expected.push_back(static_cast<long>(i));
  }
  for (int t = 0; t < 50; ++t) {
    std::vector<Ref<long>> next;
    std::vector<long> next_expected;
    for (std::size_t i = 0; i < n; ++i) {
      const std::size_t l = (i + n - 1) % n;
      const std::size_t r = (i + 1) % n;
      next.push_back(remote<step>(row[l], row[i], row[r]));
      next_expected.push_back(step(expected[l], expected[i], expected[r]));
    }
    row = std::move(next);
    expected = std::move(next_expected);
  }
  EXPECT_EQ(get(row), expected);
}

TEST(Task, HandlesCompareAndHash) {
  const Ref<int> a = remote<twice>(1);
  const Ref<int> b = a;
  const Ref<int> c = remote<twice>(1);
  EXPECT_EQ(a, b);
  EXPECT_NE(a, c);
  EXPECT_EQ(std::hash<Ref<int>>{}(a), std::hash<Ref<int>>{}(b));
  EXPECT_FALSE(Ref<int>());
  EXPECT_THROW(get(Ref<int>()), std::invalid_argument);
}

TEST(Task, ArgumentsAreCopiedAtTheCall) {
  std::vector<double> v = ramp(10'000);
  const auto before = remote<sum>(v);
  v.assign(10'000, 0.0);
  EXPECT_EQ(get(before), 10'000.0 * 9'999.0 / 2);
}

TEST(Nested, RecursionDoesNotDeadlock) { EXPECT_EQ(get(remote<fib>(16)), 987); }

TEST(Nested, MapInsideATask) {
  constexpr auto total = [](int n) {
    long sum = 0;
    for (const int v : get(remote<twice>.map(numbers(0, n)))) sum += v;
    return sum;
  };
  std::vector<Ref<long>> refs;
  for (int i = 0; i < 8; ++i) refs.push_back(remote<total>(1000));
  for (const long v : get(refs)) EXPECT_EQ(v, 999'000);
}

TEST(Nested, TasksWaitForEachOtherAcrossLevels) {
  static constexpr auto leaf = [](int x) { return x + 1; };
  static constexpr auto middle = [](int x) {
    std::vector<Ref<int>> refs;
    for (int i = 0; i < 5; ++i) refs.push_back(remote<leaf>(x));
    int sum = 0;
    for (const auto& r : refs) sum += get(r);
    return sum;
  };
  constexpr auto top = [](int n) {
    std::vector<Ref<int>> refs;
    for (int i = 0; i < n; ++i) refs.push_back(remote<middle>(i));
    long sum = 0;
    for (const int v : get(refs)) sum += v;
    return sum;
  };
  EXPECT_EQ(get(remote<top>(20)), 5 * (19 * 10 + 20));
}

TEST(Nested, FireAndForgetChildrenRun) {
  constexpr auto parent = [](int n) {
    for (int i = 0; i < n; ++i) remote<nothing>();
    return n;
  };
  EXPECT_EQ(get(remote<parent>(500)), 500);
}

TEST(Context, TellsWhereATaskRuns) {
  const mobula::Context driver = mobula::here();
  EXPECT_EQ(driver.rank, 0U);
  EXPECT_EQ(driver.slot, -1);
  EXPECT_TRUE(driver.task.empty());
  constexpr auto ask = [] {
    const auto c = mobula::here();
    return std::tuple(c.rank, c.slot, c.task, c.attempt, c.cores.size());
  };
  mobula::TaskOptions options;
  options.name = "asker";
  const auto [rank, slot, task, attempt, cores] = get(remote<ask>.with(options)());
  EXPECT_LT(rank, mobula::cluster().ranks.size());
  EXPECT_GE(slot, 0);
  EXPECT_EQ(task, "asker");
  EXPECT_EQ(attempt, 1);
  EXPECT_GE(cores, 1U);
}

TEST(Cluster, ListsRanksAndResources) {
  const mobula::ClusterInfo info = mobula::cluster();
  ASSERT_FALSE(info.ranks.empty());
  EXPECT_GE(info.slots, 1);
  EXPECT_EQ(info.total.at("cpus"), info.slots);
  EXPECT_EQ(info.total.at("license"), 2.0 * static_cast<double>(workers()));
  EXPECT_FALSE(info.nodes.empty());
  EXPECT_FALSE(info.ranks[0].host.empty());
  constexpr auto ask = [] { return mobula::cluster().ranks.size(); };
  EXPECT_EQ(get(remote<ask>()), info.ranks.size());
}
