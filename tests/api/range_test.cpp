#include <forward_list>
#include <list>
#include <numeric>
#include <ranges>
#include <sstream>

#include "support.hpp"

using namespace support;
using mobula::get;
using mobula::Ref;
using mobula::remote;
using mobula::same;

namespace {

std::string repeat(const std::string& s, int n) {
  std::string r;
  for (int i = 0; i < n; ++i) r += s;
  return r;
}
double scale(const std::vector<double>& v, std::size_t i, double by) { return v[i] * by; }
int fail_odd(int x) {
  if (x % 2 != 0) throw std::out_of_range("odd " + std::to_string(x));
  return x;
}
std::vector<int> many(int n) { return std::vector<int>(static_cast<std::size_t>(n), n); }

}  // namespace

TEST(Map, OneTaskPerItem) {
  const auto batch = remote<twice>.map(numbers(0, 10'000));
  ASSERT_EQ(batch.size(), 10'000U);
  const std::vector<int> values = get(batch);
  for (int i = 0; i < 10'000; ++i) ASSERT_EQ(values[static_cast<std::size_t>(i)], 2 * i);
  EXPECT_EQ(get(batch[77]), 154);
}

TEST(Map, EmptyRange) {
  const auto batch = remote<twice>.map(std::vector<int>{});
  EXPECT_TRUE(batch.empty());
  EXPECT_TRUE(get(batch).empty());
}

TEST(Map, ZipsRangesToTheShortest) {
  const std::vector<int> a{1, 2, 3, 4};
  const std::list<int> b{10, 20, 30};
  EXPECT_EQ(get(remote<plus>.map(a, b)), (std::vector<int>{11, 22, 33}));
}

TEST(Map, SameIsPassedToAll) {
  std::vector<double> v(50'000);
  std::iota(v.begin(), v.end(), 0.0);
  const auto batch = remote<scale>.map(same(v), numbers(std::size_t{0}, std::size_t{500}), same(2.0));
  const auto values = get(batch);
  for (std::size_t i = 0; i < 500; ++i) ASSERT_EQ(values[i], 2.0 * static_cast<double>(i));
  const auto ref = mobula::put(v);
  EXPECT_EQ(get(remote<scale>.map(same(ref), std::vector<std::size_t>{5}, same(1.0))), std::vector<double>{5.0});
}

TEST(Map, StringsAndVariableSizes) {
  const std::vector<std::string> words{"a", "bb", "", std::string(10'000, 'x')};
  EXPECT_EQ(get(remote<repeat>.map(words, std::vector<int>{3, 2, 9, 1})),
            (std::vector<std::string>{"aaa", "bbbb", "", std::string(10'000, 'x')}));
}

TEST(Map, LargeItemsBecomeObjects) {
  std::vector<std::vector<double>> items;
  for (int i = 0; i < 12; ++i) items.emplace_back(i % 3 == 0 ? 10 : 20'000, 1.0);
  constexpr auto size = [](const std::vector<double>& v) { return v.size(); };
  const auto sizes = get(remote<size>.map(items));
  for (std::size_t i = 0; i < items.size(); ++i) EXPECT_EQ(sizes[i], items[i].size());
}

TEST(Map, SinglePassAndLazyRanges) {
  std::istringstream in("1 2 3 4 5");
#ifdef HAS_VIEWS
  EXPECT_EQ(get(remote<twice>.map(std::views::istream<int>(in))), (std::vector<int>{2, 4, 6, 8, 10}));
  EXPECT_EQ(get(remote<twice>.map(std::views::iota(0, 3))), (std::vector<int>{0, 2, 4}));
  auto lazy = std::views::iota(0) | std::views::transform([](int i) { return i * i; }) | std::views::take(100);
  EXPECT_EQ(get(remote<twice>.map(lazy))[99], 2 * 99 * 99);
#endif
  std::forward_list<int> list{3, 1};
  EXPECT_EQ(get(remote<twice>.map(list)), (std::vector<int>{6, 2}));
}

TEST(Map, RefsAsItems) {
  const auto first = remote<twice>.map(numbers(0, 200));
  const auto second = remote<plus>.map(first, numbers(0, 200));
  const auto values = get(second);
  for (int i = 0; i < 200; ++i) ASSERT_EQ(values[static_cast<std::size_t>(i)], 3 * i);
}

TEST(Map, ManyItems) {
  const auto values = get(remote<twice>.map(numbers(0, 500'000)));
  for (int i = 0; i < 500'000; ++i) ASSERT_EQ(values[static_cast<std::size_t>(i)], 2 * i);
}

TEST(Map, VoidResults) {
  constexpr auto ignore = [](int) {};
  const auto done = remote<ignore>.map(numbers(0, 10'000));
  get(done);
  EXPECT_EQ(done.size(), 10'000U);
}

TEST(Map, VoidTasksThrowToo) {
  constexpr auto picky = [](int x) {
    if (x == 4321) throw std::domain_error("not this one");
  };
  EXPECT_THROW(get(remote<picky>.map(numbers(0, 10'000))), std::domain_error);
}

TEST(Map, ErrorsStayWithTheirElement) {
  const auto batch = remote<fail_odd>.map(numbers(0, 100));
  for (int i = 0; i < 100; ++i) {
    if (i % 2 == 0) {
      EXPECT_EQ(get(batch[static_cast<std::size_t>(i)]), i);
    } else {
      EXPECT_THROW(get(batch[static_cast<std::size_t>(i)]), std::out_of_range);
    }
  }
  EXPECT_THROW(get(batch), std::out_of_range);
}

TEST(Map, LargeResultsStayWhereTheyWereMade) {
  const auto batch = remote<many>.map(std::vector<int>{10, 100'000, 20, 200'000});
  const auto values = get(batch);
  EXPECT_EQ(values[1].size(), 100'000U);
  EXPECT_EQ(values[3].back(), 200'000);
  EXPECT_EQ(values[2].front(), 20);
}

#ifdef HAS_VIEWS
TEST(Map, ARangeThatThrowsLeavesTheRuntimeUsable) {
  auto bad = std::views::iota(0, 1000) | std::views::transform([](int i) {
               if (i == 500) throw std::runtime_error("source");
               return i;
             });
  EXPECT_THROW(remote<twice>.map(bad), std::runtime_error);
  EXPECT_EQ(get(remote<twice>(4)), 8);
}
#endif

TEST(Batch, IsARandomAccessRange) {
  static_assert(std::ranges::random_access_range<mobula::Batch<int>>);
  static_assert(std::ranges::sized_range<mobula::Batch<int>>);
  const auto batch = remote<twice>.map(numbers(0, 10));
#ifdef HAS_VIEWS
  const auto tail = batch | std::views::drop(7);
  EXPECT_EQ(get(tail), (std::vector<int>{14, 16, 18}));
#endif
  EXPECT_EQ(batch.end() - batch.begin(), 10);
  EXPECT_THROW(batch[10], std::out_of_range);
}

TEST(Batch, ElementsOutliveTheBatch) {
  Ref<int> kept;
  {
    const auto batch = remote<twice>.map(numbers(0, 5000));
    kept = batch[4321];
  }
  EXPECT_EQ(get(kept), 8642);
}

TEST(Wait, ReturnsWhenEnoughAreReady) {
  std::vector<Ref<int>> refs;
  refs.push_back(remote<sleep_and_return>(400, 1));
  refs.push_back(mobula::put(2));
  const auto some = mobula::wait(refs, {.count = 1});
  EXPECT_EQ(some.ready, std::vector<std::size_t>{1});
  EXPECT_EQ(some.pending, std::vector<std::size_t>{0});
  const auto late = mobula::wait(refs, {.count = 2, .timeout = 20ms});
  EXPECT_EQ(late.pending.size(), 1U);
  EXPECT_EQ(mobula::wait(refs).ready.size(), 2U);
  EXPECT_EQ(mobula::wait(refs, {.timeout = 0ms}).ready.size(), 2U);
}

TEST(Wait, CountsFailedOnesAsReady) {
  const auto batch = remote<fail_odd>.map(numbers(0, 10));
  EXPECT_EQ(mobula::wait(batch).ready.size(), 10U);
}

TEST(Wait, TenThousand) {
  std::vector<Ref<int>> refs;
  for (int i = 0; i < 10'000; ++i) refs.push_back(remote<twice>(i));
  EXPECT_EQ(mobula::wait(refs).ready.size(), 10'000U);
}

TEST(Wait, InsideATask) {
  constexpr auto waits = [](int n) {
    std::vector<Ref<int>> refs;
    for (int i = 0; i < n; ++i) refs.push_back(remote<twice>(i));
    return mobula::wait(refs).ready.size();
  };
  EXPECT_EQ(get(remote<waits>(20)), 20U);
}

TEST(AsCompleted, YieldsEachOnce) {
  const auto batch = remote<twice>.map(numbers(0, 1000));
  std::vector<bool> seen(1000);
  for (const auto& ref : mobula::as_completed(batch)) {
    const auto i = static_cast<std::size_t>(get(ref) / 2);
    EXPECT_FALSE(seen[i]);
    seen[i] = true;
  }
  EXPECT_EQ(std::count(seen.begin(), seen.end(), true), 1000);
}

TEST(AsCompleted, QuickOnesComeFirst) {
  if (mobula::cluster().slots < 2) GTEST_SKIP() << "needs two slots, to run a quick task beside a slow one";
  std::vector<Ref<int>> refs;
  refs.push_back(remote<sleep_and_return>(500, 500));
  refs.push_back(remote<sleep_and_return>(1, 1));
  std::vector<int> order;
  for (const auto& ref : mobula::as_completed(refs)) order.push_back(get(ref));
  EXPECT_EQ(order, (std::vector<int>{1, 500}));
}

TEST(AsCompleted, CanBeLeftEarly) {
  std::vector<Ref<int>> refs;
  for (int i = 0; i < 50; ++i) refs.push_back(remote<sleep_and_return>(5, i));
  int n = 0;
  for (const auto& ref : mobula::as_completed(refs)) {
    get(ref);
    if (++n == 3) break;
  }
  EXPECT_EQ(n, 3);
  EXPECT_EQ(get(refs).size(), 50U);
}
