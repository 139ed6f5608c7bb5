// Objects as users see them: views, large arguments and results, memory that is short.
#include <gtest/gtest.h>

#include <array>
#include <cstdint>
#include <numeric>
#include <string>
#include <vector>

#include "mobula/mobula.hpp"
#include "support.hpp"

namespace {

using Numbers = std::vector<double>;

Numbers count_up(std::size_t n) {
  Numbers numbers(n);
  std::iota(numbers.begin(), numbers.end(), 0.0);
  return numbers;
}
double sum(const Numbers& numbers) { return std::accumulate(numbers.begin(), numbers.end(), 0.0); }
double sum_of_view(mobula::Ref<Numbers> ref) {
  const auto numbers = mobula::view(ref);
  return std::accumulate(numbers.begin(), numbers.end(), 0.0);
}
double expected(std::size_t n) { return static_cast<double>(n) * static_cast<double>(n - 1) / 2; }
std::uintptr_t address_of(mobula::Ref<Numbers> ref) {
  return reinterpret_cast<std::uintptr_t>(mobula::view(ref).data());
}

TEST(View, OfALargeVectorIsInPlace) {
  const auto ref = mobula::put(count_up(100'000));
  const auto first = mobula::view(ref);
  const auto second = mobula::view(ref);
  ASSERT_EQ(first.size(), 100'000U);
  EXPECT_EQ(first.data(), second.data()) << "no copy is made";
  EXPECT_EQ(reinterpret_cast<std::uintptr_t>(first.data()) % 64, 0U);
  const std::span<const double> numbers = first;
  EXPECT_EQ(std::accumulate(numbers.begin(), numbers.end(), 0.0), expected(100'000));
}

TEST(View, OfSmallValues) {
  const auto text = mobula::put(std::string("mobula"));
  const auto view = mobula::view(text);
  EXPECT_EQ(std::string(view.begin(), view.end()), "mobula");
  EXPECT_EQ(*mobula::view(mobula::put(42)), 42);
  struct Point {
    double x, y;
  };
  const auto point = mobula::view(mobula::put(Point{1, 2}));
  EXPECT_EQ(point->x + (*point).y, 3);
  EXPECT_TRUE(mobula::view(mobula::put(Numbers())).empty());
  const auto array = mobula::view(mobula::put(std::array<int, 3>{1, 2, 3}));
  EXPECT_EQ(array.size(), 3U);
  EXPECT_EQ((*array)[2], 3);
}

TEST(View, OutlivesTheRef) {
  auto ref = mobula::remote<count_up>(50'000);
  const auto view = mobula::view(ref);
  ref = {};
  for (int i = 0; i < 20; ++i) mobula::get(mobula::remote<count_up>(50'000));
  EXPECT_EQ(std::accumulate(view.begin(), view.end(), 0.0), expected(50'000));
}

TEST(View, ThrowsWhatTheTaskThrew) {
  const auto ref = mobula::remote<[](int) -> Numbers { throw std::out_of_range("no numbers"); }>(1);
  EXPECT_THROW(mobula::view(ref), std::out_of_range);
}

TEST(Store, LargeArgumentsAndResultsAreWholeEverywhere) {
  const std::size_t n = 200'000;
  const auto ref = mobula::put(count_up(n));
  std::vector<mobula::Ref<double>> sums;
  for (int i = 0; i < 30; ++i) {
    sums.push_back(mobula::remote<sum>(ref));
    sums.push_back(mobula::remote<sum_of_view>(ref));
    sums.push_back(mobula::remote<sum>(mobula::remote<count_up>(n)));
  }
  for (const double s : mobula::get(sums)) EXPECT_EQ(s, expected(n));
}

TEST(Store, ALargeArgumentOfAMapIsPutOnce) {
  const auto numbers = count_up(10'000);
  const auto all = mobula::remote<[](int i, const Numbers& v) { return v[static_cast<std::size_t>(i)]; }>.map(
      support::numbers(0, 100), mobula::same(numbers));
  const auto values = mobula::get(all);
  for (int i = 0; i < 100; ++i) EXPECT_EQ(values[static_cast<std::size_t>(i)], i);
}

TEST(Store, ValuesOfRefsOfLargeValues) {
  const auto inner = mobula::remote<count_up>(30'000);
  const auto outer = mobula::put(std::vector<mobula::Ref<Numbers>>(3, inner));
  const auto total = mobula::remote<[](const std::vector<mobula::Ref<Numbers>>& refs) {
    double result = 0;
    for (const auto& ref : refs) result += sum_of_view(ref);
    return result;
  }>(outer);
  EXPECT_EQ(mobula::get(total), 3 * expected(30'000));
}

TEST(Store, MoreThanMemoryHolds) {
  // Where the store is small, most of these go to files and come back.
  std::vector<mobula::Ref<Numbers>> refs;
  for (std::size_t i = 0; i < 100; ++i) {
    refs.push_back(i % 2 == 0 ? mobula::put(count_up(120'000 + i)) : mobula::remote<count_up>(120'000 + i));
  }
  std::vector<mobula::Ref<double>> sums;
  for (const auto& ref : refs) sums.push_back(mobula::remote<sum>(ref));
  for (std::size_t i = 0; i < refs.size(); ++i) EXPECT_EQ(mobula::get(sums[i]), expected(120'000 + i)) << i;
  for (std::size_t i = 0; i < refs.size(); ++i) EXPECT_EQ(mobula::get(refs[i]), count_up(120'000 + i)) << i;
}

// Half of it is written when it throws.
struct Stubborn {
  std::vector<int> numbers = std::vector<int>(10'000, 1);
  template <class Archive>
  void serialize(Archive& archive, unsigned) {
    archive& numbers;
    throw std::domain_error("not today");
  }
};
Stubborn make_stubborn() { return {}; }

TEST(Store, ASerializeThatThrowsLeavesNothing) {
  EXPECT_THROW(mobula::put(Stubborn()), std::domain_error);
  EXPECT_THROW(mobula::get(mobula::remote<make_stubborn>()), std::domain_error);
}

TEST(Store, StatsTellWhoHoldsWhat) {
  const auto ref = mobula::put(count_up(50'000));
  const auto view = mobula::view(ref);
  const auto stats = mobula::store_stats(1);
  EXPECT_EQ(stats.objects(), 1U);
  ASSERT_EQ(stats.largest.size(), 1U);
  EXPECT_EQ(stats.largest[0].size, 50'000 * sizeof(double) + 8);
  EXPECT_EQ(stats.largest[0].rank, 0U);
  EXPECT_EQ(stats.largest[0].holders, std::vector<std::uint32_t>{0});
  EXPECT_TRUE(stats.largest[0].in_use);
  EXPECT_EQ(stats.ranks.size(), mobula::cluster().ranks.size());
  EXPECT_GE(stats.ranks[0].used, 400'000U);
  EXPECT_GE(stats.ranks[0].pinned, 400'000U);
  EXPECT_GT(stats.ranks[0].largest_free, 400'000U);
}

double sum_of_span(std::span<const double> numbers) { return std::accumulate(numbers.begin(), numbers.end(), 0.0); }
std::uintptr_t place(std::span<const double> numbers) { return reinterpret_cast<std::uintptr_t>(numbers.data()); }
std::size_t letters(std::string_view text) { return text.size(); }

TEST(Store, ASpanParameterLooksAtItsArgumentInPlace) {
  const auto ref = mobula::put(count_up(100'000));
  EXPECT_EQ(mobula::get(mobula::remote<sum_of_span>(ref)), expected(100'000));
  EXPECT_EQ(mobula::get(mobula::remote<sum_of_span>(count_up(100'000))), expected(100'000));
  EXPECT_EQ(mobula::get(mobula::remote<sum_of_span>(count_up(10))), expected(10));
  EXPECT_EQ(mobula::get(mobula::remote<sum_of_span>(mobula::remote<count_up>(10))), expected(10));
  EXPECT_EQ(mobula::get(mobula::remote<letters>("mobula")), 6U);
  EXPECT_EQ(mobula::get(mobula::remote<letters>(std::string(10'000, 'x'))), 10'000U);
  if (mobula::cluster().ranks.size() == 1) {
    EXPECT_EQ(mobula::get(mobula::remote<place>(ref)), address_of(ref));
  }
}

TEST(Store, AddressesAreTheSameOnceAValueIsHere) {
  const auto ref = mobula::remote<count_up>(100'000);
  const auto mine = address_of(ref);
  EXPECT_EQ(mine, address_of(ref));
}

}  // namespace
