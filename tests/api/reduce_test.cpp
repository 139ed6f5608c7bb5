// Reductions: what they compute, whatever the values are and wherever they lie, and how they end.
#include <cmath>

#include "support.hpp"

using namespace support;
using mobula::get;
using mobula::reduce;
using mobula::Ref;
using mobula::remote;
using mobula::TaskOptions;

namespace {

// As the documentation has it: neighbours first, what is left over goes up as it is.
template <class T, class F>
T by_neighbours(std::vector<T> values, const F& f) {
  while (values.size() > 1) {
    std::vector<T> above;
    for (std::size_t i = 0; i + 1 < values.size(); i += 2) above.push_back(f(values[i], values[i + 1]));
    if (values.size() % 2 != 0) above.push_back(values.back());
    values = std::move(above);
  }
  return values.front();
}

// Says how it was put together.
std::string bracket(const std::string& a, const std::string& b) { return "(" + a + b + ")"; }
std::string concat(const std::string& a, std::string_view b) { return a + std::string(b); }
std::string letter(int i) { return {static_cast<char>('a' + i % 26)}; }
// Small ones and large ones.
std::string word(int i) { return std::string(i % 3 == 0 ? 9'000 : 3, static_cast<char>('a' + i % 26)); }
std::string long_word(int i) { return std::string(100'000, static_cast<char>('a' + i % 26)); }

template <class T, class F>
std::vector<T> list(int n, const F& f) {
  std::vector<T> all;
  for (int i = 0; i < n; ++i) all.push_back(f(i));
  return all;
}

// Its sums depend on the order and on the brackets, in their last bits.
double rough(int i) { return std::sin(i) * std::pow(10.0, i % 17); }
double add(double a, double b) { return a + b; }
// Not associative at all, so that every other bracket would show.
double lopsided(double a, double b) { return 0.75 * a - b; }
std::uint64_t bits(double x) {
  std::uint64_t all = 0;
  std::memcpy(&all, &x, sizeof all);
  return all;
}

int fail_at_7(int x) {
  if (x == 7) throw std::out_of_range("seven");
  return x;
}
int picky(int a, int b) {
  if (b == 5) throw std::domain_error("not five");
  return a + b;
}

Ref<std::string> put_word(int i) { return mobula::put(word(i)); }
Ref<double> put_rough(int i) { return mobula::put(rough(i)); }

}  // namespace

TEST(Reduce, KeepsTheOrderAndTheBrackets) {
  for (const int n : {1, 2, 3, 5, 8, 9, 64, 65, 100, 1000, 4097}) {
    EXPECT_EQ(get(reduce<bracket>(remote<letter>.map(numbers(0, n)))),
              by_neighbours(list<std::string>(n, letter), bracket))
        << n;
  }
  std::string alphabet;
  for (int i = 0; i < 77; ++i) alphabet += letter(i);
  EXPECT_EQ(get(reduce<concat>(remote<letter>.map(numbers(0, 77)))), alphabet);
}

TEST(Reduce, OfNumbersIsTheSameToTheBit) {
  for (const int n : {2, 3, 7, 63, 64, 65, 127, 1000, 4097, 100'003}) {
    const auto values = list<double>(n, rough);
    const auto batch = remote<rough>.map(numbers(0, n));
    // Two at once, one of them before the values are there.
    const auto sum = reduce<add>(batch);
    const auto other = reduce<lopsided>(batch);
    EXPECT_EQ(bits(get(sum)), bits(by_neighbours(values, add))) << n;
    EXPECT_EQ(bits(get(other)), bits(by_neighbours(values, lopsided))) << n;
    EXPECT_EQ(bits(get(reduce<add>(batch))), bits(get(sum))) << n;
    // And of Refs one by one.
    if (n < 10'000) {
      const std::vector<Ref<double>> refs(batch.begin(), batch.end());
      EXPECT_EQ(bits(get(reduce<lopsided>(refs))), bits(get(other))) << n;
    }
  }
}

TEST(Reduce, AMillion) {
  constexpr auto wide = [](int i) { return static_cast<std::int64_t>(i); };
  constexpr auto sum = [](std::int64_t a, std::int64_t b) { return a + b; };
  EXPECT_EQ(get(reduce<sum>(remote<wide>.map(numbers(0, 1'000'000)))), 499'999'500'000);
}

TEST(Reduce, OtherTypes) {
  constexpr auto is_small = [](int i) { return i < 100; };
  constexpr auto both = [](bool a, bool b) { return a && b; };
  EXPECT_TRUE(get(reduce<both>(remote<is_small>.map(numbers(0, 100)))));
  EXPECT_FALSE(get(reduce<both>(remote<is_small>.map(numbers(0, 101)))));
  struct Square {  // of the size of an argument that is not put
    std::array<double, 500> cells;
  };
  constexpr auto square = [](int i) {
    Square s;
    s.cells.fill(i);
    return s;
  };
  constexpr auto sum = [](Square a, const Square& b) {
    for (std::size_t i = 0; i < a.cells.size(); ++i) a.cells[i] += b.cells[i];
    return a;
  };
  EXPECT_EQ(get(reduce<sum>(remote<square>.map(numbers(0, 200)))).cells[499], 19'900);
}

TEST(Reduce, LargeValues) {
  for (const int n : {2, 3, 33, 130}) {
    EXPECT_EQ(get(reduce<bracket>(remote<word>.map(numbers(0, n)))), by_neighbours(list<std::string>(n, word), bracket))
        << n;
  }
  EXPECT_EQ(get(reduce<bracket>(remote<long_word>.map(numbers(0, 9)))),
            by_neighbours(list<std::string>(9, long_word), bracket));
}

TEST(Reduce, RefsFromAllRanks) {
  const auto words = get(remote<put_word>.map(numbers(0, 70)));
  EXPECT_EQ(get(reduce<bracket>(words)), by_neighbours(list<std::string>(70, word), bracket));
  const auto numbers_there = get(remote<put_rough>.map(numbers(0, 150)));
  EXPECT_EQ(bits(get(reduce<lopsided>(numbers_there))), bits(by_neighbours(list<double>(150, rough), lopsided)));
  // Some of other ranks, some of this one that are there, some that are not; one of them twice.
  std::vector<Ref<std::string>> mixed;
  std::vector<std::string> expected;
  for (int i = 0; i < 40; ++i) {
    mixed.push_back(i % 3 == 0   ? words[static_cast<std::size_t>(i)]
                    : i % 3 == 1 ? mobula::put(word(i))
                                 : remote<word>(i));
    expected.push_back(word(i));
  }
  mixed.push_back(mixed[5]);
  expected.push_back(expected[5]);
  EXPECT_EQ(get(reduce<bracket>(mixed)), by_neighbours(expected, bracket));
}

TEST(Reduce, ValuesThatHoldRefs) {
  constexpr auto boxed = [](int i) { return std::vector<Ref<int>>{mobula::put(i)}; };
  constexpr auto joined = [](std::vector<Ref<int>> a, const std::vector<Ref<int>>& b) {
    a.insert(a.end(), b.begin(), b.end());
    return a;
  };
  const auto all = get(reduce<joined>(remote<boxed>.map(numbers(0, 100))));
  ASSERT_EQ(all.size(), 100U);
  for (int i = 0; i < 100; ++i) EXPECT_EQ(get(all[static_cast<std::size_t>(i)]), i);
}

TEST(Reduce, OfCallsOfAnActor) {
  struct Counter {
    int n = 0;
    int next() { return n++; }
  };
  const auto counter = mobula::actor<Counter>();
  std::vector<Ref<int>> calls;
  for (int i = 0; i < 200; ++i) calls.push_back(remote<&Counter::next>(counter));
  EXPECT_EQ(get(reduce<plus>(calls)), 19'900);
}

TEST(Reduce, OfOneIsThatOne) {
  const auto one = mobula::put(5);
  EXPECT_EQ(reduce<plus>(std::vector<Ref<int>>{one}), one);
}

TEST(Reduce, RefusesWhatMakesNoSense) {
  EXPECT_THROW(reduce<plus>(std::vector<Ref<int>>{}), std::invalid_argument);
  EXPECT_THROW(reduce<plus>(remote<twice>.map(numbers(0, 0))), std::invalid_argument);
  EXPECT_THROW(reduce<plus>(std::vector<Ref<int>>{mobula::put(1), {}}), std::invalid_argument);
  EXPECT_THROW(reduce<plus>(std::vector<Ref<int>>{{}}), std::invalid_argument);
  const auto batch = remote<twice>.map(numbers(0, 10));
  EXPECT_THROW(reduce<plus>(batch, TaskOptions{.retries = -1}), std::invalid_argument);
  EXPECT_THROW(reduce<plus>(batch, TaskOptions{.gpus = 1000}), mobula::Infeasible);
}

TEST(Reduce, PassesErrorsOn) {
  EXPECT_THROW(get(reduce<plus>(remote<fail_at_7>.map(numbers(7, 20)))), std::out_of_range);
  EXPECT_THROW(get(reduce<plus>(remote<fail_at_7>.map(numbers(0, 1000)))), std::out_of_range);
  try {
    get(reduce<picky>(remote<twice>.map(numbers(0, 100))));
    get(reduce<picky>(std::vector<Ref<int>>{mobula::put(1), mobula::put(5), mobula::put(2)}));
    FAIL() << "it has met a five";
  } catch (const std::domain_error& e) {
    EXPECT_STREQ(e.what(), "not five");
    EXPECT_EQ(mobula::failure_of(e)->task, "picky");
  }
  // One that throws takes no other of its stretch with it.
  constexpr auto picky_text = [](std::string a, std::string b) {
    if (a == "e") throw std::domain_error("no e");
    return a + b;
  };
  EXPECT_THROW(get(reduce<picky_text>(remote<letter>.map(numbers(0, 2000)))), std::domain_error);
  EXPECT_EQ(get(reduce<picky_text>(remote<letter>.map(numbers(0, 4)))), "abcd");
  // Of a value of another rank.
  constexpr auto give = [](int i) { return remote<fail_at_7>(i); };
  EXPECT_THROW(get(reduce<plus>(get(remote<give>.map(numbers(0, 10))))), std::out_of_range);
}

TEST(Reduce, MayBeDropped) {
  constexpr auto slow = [](int i) {
    sleep_ms(2);
    return long_word(i);
  };
  { const auto dropped = reduce<concat>(remote<slow>.map(numbers(0, 40))); }
  reduce<plus>(remote<twice>.map(numbers(0, 10'000)));
  {
    const auto batch = remote<slow>.map(numbers(0, 8));
    reduce<concat>(batch);
    EXPECT_EQ(get(batch)[7], long_word(7));
  }  // the listener in main.cpp sees whether something is left
}

TEST(Reduce, MayBeCancelled) {
  const auto batch = remote<sleep_and_return>.map(std::vector<int>{500, 1, 1, 1}, numbers(0, 4));
  const auto sum = reduce<plus>(batch);
  const auto follows = remote<twice>(sum);
  EXPECT_TRUE(mobula::cancel(sum));
  EXPECT_THROW(get(sum), mobula::Cancelled);
  EXPECT_THROW(get(follows), mobula::Cancelled);
  EXPECT_FALSE(mobula::cancel(sum));
  EXPECT_EQ(get(batch)[3], 3) << "the values are not concerned";
  // By another rank.
  constexpr auto cancels = [](const std::vector<Ref<int>>& of) { return mobula::cancel(of.front()); };
  const auto again = reduce<plus>(remote<sleep_and_return>.map(std::vector<int>{500, 1, 1, 1}, numbers(0, 4)));
  // Where there is one slot in all, it runs behind the tasks that make the values.
  if (get(remote<cancels>(std::vector{again}))) {
    EXPECT_THROW(get(again), mobula::Cancelled);
  } else {
    EXPECT_EQ(get(again), 6);
  }
}

TEST(Reduce, SaysWhatItWaitsFor) {
  const auto sum = reduce<plus>(remote<sleep_and_return>.map(std::vector<int>{300, 300, 300, 300}, numbers(0, 4)));
  const std::string text = mobula::explain(sum);
  EXPECT_EQ(text.find("reduce of 4 values by"), 0U) << text;
  EXPECT_NE(text.find("of them are not there yet"), std::string::npos) << text;
  EXPECT_EQ(get(sum), 6);
}

TEST(Reduce, ResultsGoOn) {
  // As a dependency, before and after it is there; inside a value; of a task that gives it on.
  const auto slow = reduce<plus>(remote<sleep_and_return>.map(std::vector<int>(20, 10), numbers(0, 20)));
  const auto twice_that = remote<twice>(slow);
  constexpr auto sum_of = [](const std::vector<Ref<int>>& refs) {
    int sum = 0;
    for (const auto& ref : refs) sum += get(ref);
    return sum;
  };
  const auto inside = remote<sum_of>(std::vector{slow, twice_that});
  const auto of_results = reduce<plus>(std::vector{slow, twice_that, slow});
  EXPECT_EQ(get(twice_that), 380);
  EXPECT_EQ(get(inside), 570);
  EXPECT_EQ(get(of_results), 760);
  EXPECT_EQ(get(remote<twice>(slow)), 380);
  const auto large = reduce<concat>(remote<long_word>.map(numbers(0, 5)));
  constexpr auto size = [](const std::string& text) { return text.size(); };
  EXPECT_EQ(get(remote<size>(large)), 500'000U);
  EXPECT_EQ(get(large).substr(400'000), long_word(4));
}

TEST(Reduce, InsideATask) {
  constexpr auto nested = [](int n) {
    const auto batch = remote<rough>.map(numbers(0, n));
    return get(reduce<lopsided>(batch));
  };
  constexpr auto given = [](int n) { return reduce<lopsided>(remote<rough>.map(numbers(0, n))); };
  constexpr auto dropped = [](int n) { reduce<lopsided>(remote<rough>.map(numbers(0, n))); };
  constexpr auto texts = [](int n) { return get(reduce<bracket>(remote<word>.map(numbers(0, n)))); };
  const double expected = by_neighbours(list<double>(3000, rough), lopsided);
  EXPECT_EQ(bits(get(remote<nested>(3000))), bits(expected));
  EXPECT_EQ(bits(get(get(remote<given>(3000)))), bits(expected));
  get(remote<dropped>(3000));
  EXPECT_EQ(get(remote<texts>(20)), by_neighbours(list<std::string>(20, word), bracket));
  // Each step of F starts one itself.
  constexpr auto deep = [](int a, int b) { return get(reduce<plus>(remote<twice>.map(std::vector<int>{a, b}))) / 2; };
  EXPECT_EQ(get(reduce<deep>(remote<twice>.map(numbers(0, 20)))), 380);
}

TEST(Reduce, TasksHaveTheOptions) {
  // The ranks at which F has run; what was only made elsewhere counts none.
  struct Places {
    std::uint64_t ranks = 0;
    int n = 0;
  };
  constexpr auto one = [](int) { return Places{0, 1}; };
  constexpr auto here = [](Places a, Places b) {
    return Places{a.ranks | b.ranks | std::uint64_t{1} << where() % 64, a.n + b.n};
  };
  const auto batch = remote<one>.map(numbers(0, 300));
  std::uint32_t last = 0;
  for (const auto& rank : mobula::cluster().ranks) last = rank.slots > 0 ? rank.rank : last;
  const auto there = get(reduce<here>(batch, {.placement = mobula::on_rank(last)}));
  EXPECT_EQ(there.n, 300);
  EXPECT_EQ(there.ranks, std::uint64_t{1} << last % 64);
  EXPECT_EQ(get(reduce<here>(batch, {.resources = {{"license", 1}}, .priority = 3, .name = "count"})).n, 300);
  EXPECT_EQ(get(reduce<here>(batch, {.cpus = 0, .memory = 1 << 20, .timeout = 60s})).n, 300);
  const auto near_that = reduce<here>(batch, {.placement = mobula::near(batch[7])});
  EXPECT_EQ(get(near_that).n, 300);
  constexpr auto exits = [](int a, int b) {
    if (a == 4) std::abort();
    return a + b;
  };
  EXPECT_THROW(get(reduce<exits>(remote<twice>.map(numbers(0, 8)), {.isolation = mobula::sandbox{}})),
               mobula::TaskCrashed);
  const auto group = mobula::placement_group({{.cpus = 1}});
  EXPECT_EQ(get(reduce<here>(batch, {.placement = group.bundle(0)})).n, 300);
}
