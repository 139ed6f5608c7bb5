// Reductions by themselves: the tasks that they submit are run here, when a test says so.
#include "worker/folds.hpp"

#include <gtest/gtest.h>

#include <bit>
#include <numeric>

#include "core/functions.hpp"

namespace mobula::worker {
namespace {

using detail::BatchHandle;
using detail::ByteView;
using detail::Handle;
using detail::ObjectId;
using detail::Record;

double lopsided(double a, double b) { return 0.75 * a - b; }
std::string bracket(const std::string& a, const std::string& b) { return "(" + a + b + ")"; }
double picky(double a, double b) {
  if (b == 5) throw std::domain_error("not five");
  return a + b;
}

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

core::ErrorPtr failure() { return core::make_error(core::ErrorKind::object_lost, "it is gone", "", {}, 0, 1); }
double number(std::uint32_t i) { return 1.0 / (i % 1000 + 3); }
std::string letter(std::uint32_t i) { return {static_cast<char>('a' + i % 26)}; }

struct Counts {
  std::size_t submissions = 0;
  std::size_t n = 0;  // tasks
  std::size_t dependencies = 0;
  std::size_t bytes = 0;
  std::size_t most_bytes = 0;     // at once
  std::size_t waiting_bytes = 0;  // submitted, and not run
  std::size_t most_waiting = 0;
};

// Runs tasks and keeps their results, as a cluster would.
class Runner final : public Folds::Submitter, public Counts {
 public:
  explicit Runner(store::ObjectTable& objects) : objects_(objects) {}

  void submit(const FoldKind& kind, FoldTasks tasks) override {
    ++submissions;
    n += tasks.results.end - tasks.results.begin;
    dependencies += tasks.deps.size();
    bytes += tasks.args.size();
    most_bytes = std::max(most_bytes, tasks.args.size());
    waiting_bytes += tasks.args.size();
    most_waiting = std::max(most_waiting, waiting_bytes);
    function_ = kind.function;
    for (const Handle& dep : tasks.deps) objects_.track(*dep.record(), dep.index());
    waiting.push_back(std::move(tasks));
  }
  void fail(ObjectId id, bool promised, const core::ErrorPtr& error) override {
    promised_failed = promised_failed || promised;
    if (Record* record = objects_.find(id)) objects_.set_error(*record, id.index, error);
  }
  // Those that were submitted first, or last.
  void run_one(bool last = false) {
    FoldTasks tasks = std::move(last ? waiting.back() : waiting.front());
    last ? waiting.pop_back() : waiting.pop_front();
    waiting_bytes -= tasks.args.size();
    detail::TaskRun run;
    run.next = tasks.results.begin;
    run.end = tasks.results.end;
    run.fixed_result = function_->fixed_result;
    run.inline_limit = 1 << 30;
    run.args = detail::Decoder(tasks.args.view());
    run.dep_mask = tasks.dep_mask;
    std::vector<ByteView> views;
    std::vector<store::ValuePtr> keep;
    for (const Handle& dep : tasks.deps) {
      keep.push_back(objects_.value_of(*dep.record(), dep.index()));
      ASSERT_NE(keep.back(), nullptr) << "tests run tasks when their inputs are there";
      views.push_back(keep.back()->view());
    }
    run.deps = views;
    function_->invoke(run);
    Record* record = objects_.find({tasks.results.span, tasks.results.begin});
    if (record == nullptr) return;
    const std::uint32_t count = tasks.results.end - tasks.results.begin;
    if (run.oddities.empty() && record->packed != detail::kVariable) {
      objects_.set_packed(*record, tasks.results.begin, count, run.out.buffer.data());
      return;
    }
    std::size_t from = 0;
    auto odd = run.oddities.begin();
    for (std::uint32_t i = 0; i != count; ++i) {
      const std::uint32_t index = tasks.results.begin + i;
      const std::size_t to = run.ends.empty() ? from + function_->fixed_result : run.ends[i];
      if (odd != run.oddities.end() && odd->index == index) {
        objects_.set_error(*record, index, std::make_shared<core::ErrorRecord>(core::capture(odd++->error, {})));
      } else {
        objects_.set_value(*record, index, run.out.buffer.view().subspan(from, to - from));
      }
      from = to;
    }
  }

  std::deque<FoldTasks> waiting;
  bool promised_failed = false;

 private:
  store::ObjectTable& objects_;
  const detail::FunctionInfo* function_ = nullptr;
};

class FoldsTest : public testing::Test {
 protected:
  ~FoldsTest() override {
    settle();
    EXPECT_EQ(folds_.size(), 0U);
    EXPECT_LE(objects_.records(), 1U) << "but for the one for single objects: " << objects_.describe();
  }

  BatchHandle new_batch(std::uint32_t n, std::uint32_t packed) {
    Record* record = objects_.new_batch(packed);
    objects_.append(*record, n);
    objects_.close(*record);
    return {record, n};
  }
  void set_numbers(const BatchHandle& batch, std::uint32_t begin, std::uint32_t end) {
    std::vector<double> values;
    for (std::uint32_t i = begin; i < end; ++i) values.push_back(number(i));
    objects_.set_packed(*batch.record(), begin, end - begin, reinterpret_cast<const std::byte*>(values.data()));
  }
  void set_text(const Handle& handle, const std::string& text) {
    detail::Encoder out;
    detail::encode(out, text);
    objects_.set_value(*handle.record(), handle.index(), out.buffer.view());
  }
  template <auto F>
  Handle start(FoldValues values) {
    using T = std::decay_t<decltype(F({}, {}))>;
    return folds_.start({&detail::Fold<T, F>::info, nullptr, {}, false}, std::move(values));
  }
  // All elements of a batch one by one, as for values of any size.
  static FoldValues each(const BatchHandle& batch) {
    FoldValues values{batch, {}};
    for (std::uint32_t i = 0; i != batch.count(); ++i) values.elements.push_back(batch.element(i));
    return values;
  }
  void settle(bool last = false) {
    core::Holds holds;
    do {
      objects_.drain(holds);
      folds_.step();
      if (!runner_.waiting.empty()) runner_.run_one(last);
      for (const ObjectId& id : std::exchange(holds.drops, {})) {  // the head frees no object before it is made
        Record* record = objects_.find(id);
        if (record != nullptr && record->ready(id.index)) objects_.free(id);
      }
    } while (!runner_.waiting.empty() || folds_.has_work() || objects_.has_drops());
  }
  template <class T>
  static T value(const Handle& handle) {
    detail::Decoder in(handle.record()->value(handle.index()).value());
    return detail::decode<T>(in);
  }
  static std::vector<double> all_numbers(std::uint32_t n) {
    std::vector<double> values;
    for (std::uint32_t i = 0; i < n; ++i) values.push_back(number(i));
    return values;
  }

  store::Store store_{{}};
  store::ObjectTable objects_{0, store_};
  Runner runner_{objects_};
  Folds folds_{objects_, runner_};
};

TEST_F(FoldsTest, APlanTakesAllBitsOff) {
  for (std::uint32_t n = 2; n < 5'000; ++n) {
    for (const std::uint32_t size : {1U, 8U, 600U, 4096U, 1'000'000U, detail::kVariable}) {
      const auto levels = Folds::plan(n, size);
      EXPECT_EQ(std::accumulate(levels.begin(), levels.end(), 0U), static_cast<std::uint32_t>(std::bit_width(n - 1)));
      for (const std::uint32_t bits : levels) {
        EXPECT_GE(bits, 1U);
        EXPECT_LE(1U << bits, Folds::kMostInputs);
      }
    }
  }
  EXPECT_EQ(Folds::plan(10'000'000, 8), (std::vector<std::uint32_t>{6, 6, 6, 6}));
  EXPECT_EQ(Folds::plan(300'000, 8), (std::vector<std::uint32_t>{6, 6, 4, 3}));
  EXPECT_EQ(Folds::plan(5, 8), (std::vector<std::uint32_t>{3}));
  EXPECT_EQ(Folds::plan(100, 4096), (std::vector<std::uint32_t>{3, 2, 2}));
  EXPECT_EQ(Folds::plan(0xffff'ffff, detail::kVariable).size(), 6U);
}

// The bits are those of the documented tree, whatever comes when, and whichever task ends first.
TEST_F(FoldsTest, NumbersInAnyOrderOfTime) {
  for (const std::uint32_t n : {2U, 3U, 63U, 64U, 65U, 1'000U, 5'000U, 70'001U}) {
    const BatchHandle batch = new_batch(n, sizeof(double));
    const std::uint32_t begun = n / 3;
    set_numbers(batch, 0, begun);
    const Handle before = start<lopsided>({batch, {}});
    // The rest comes in stretches from the end on.
    std::uint32_t end = n;
    for (std::uint32_t size = 1; end > begun; size = size * 7 % 611) {
      const std::uint32_t from = std::max(begun, end - std::min(size, end));
      set_numbers(batch, from, end);
      end = from;
      if (size % 3 == 0) settle(true);
    }
    const Handle after = start<lopsided>({batch, {}});
    settle();
    const double expected = by_neighbours(all_numbers(n), lopsided);
    EXPECT_EQ(std::bit_cast<std::uint64_t>(value<double>(before)), std::bit_cast<std::uint64_t>(expected)) << n;
    EXPECT_EQ(std::bit_cast<std::uint64_t>(value<double>(after)), std::bit_cast<std::uint64_t>(expected)) << n;
  }
  EXPECT_EQ(runner_.dependencies, 0U);
}

TEST_F(FoldsTest, ValuesOfAnySize) {
  for (const std::uint32_t n : {2U, 3U, 64U, 65U, 129U, 4'097U}) {
    const BatchHandle batch = new_batch(n, detail::kVariable);
    std::vector<std::string> expected;
    const Handle result = start<bracket>(each(batch));
    for (std::uint32_t i = 0; i != n; ++i) {
      expected.push_back(letter(i));
      set_text(batch.element(i), letter(i));
    }
    settle();
    EXPECT_EQ(value<std::string>(result), by_neighbours(expected, bracket)) << n;
  }
}

// Values that the head counts may hold objects, and are dependencies.
TEST_F(FoldsTest, DependenciesBesideBytes) {
  for (const std::uint32_t n : {2U, 3U, 5U, 64U, 65U, 200U}) {
    std::vector<Handle> handles;
    std::vector<std::string> expected;
    for (std::uint32_t i = 0; i != n; ++i) {
      handles.push_back(objects_.mint());
      expected.push_back(letter(i));
      if (i % 5 == 2) objects_.track(*handles.back().record(), handles.back().index());
      if (i % 2 == 0) set_text(handles.back(), letter(i));
    }
    const Handle result = start<bracket>({{}, handles});
    for (std::uint32_t i = 1; i < n; i += 2) set_text(handles[i], letter(i));
    handles.clear();
    settle();
    EXPECT_EQ(value<std::string>(result), by_neighbours(expected, bracket)) << n;
  }
  EXPECT_NE(runner_.dependencies, 0U);
}

// Of other ranks nothing is known here: they are dependencies at once. Where all are of one size, many of one task.
TEST_F(FoldsTest, ValuesOfOtherRanks) {
  std::vector<Handle> handles;
  for (std::uint32_t i = 0; i != 128; ++i) handles.push_back(objects_.handle_of({detail::SpanId::make(1, 1), i}));
  const Handle numbers = start<lopsided>({{}, handles});
  folds_.step();
  EXPECT_EQ(runner_.dependencies, 128U);
  EXPECT_EQ(runner_.n, 8U);
  runner_.waiting.clear();
  const Handle texts = start<bracket>({{}, handles});
  folds_.step();
  EXPECT_EQ(runner_.n, 8U + 120U) << "each has two inputs";
  runner_.waiting.clear();
  core::Holds holds;
  folds_.cancel(numbers.id());
  folds_.cancel(texts.id());
  handles.clear();
  objects_.drain(holds);
}

TEST_F(FoldsTest, TheWindowBoundsWhatIsUnderWay) {
  const std::uint32_t n = 4'000'000;
  const BatchHandle batch = new_batch(n, sizeof(double));
  set_numbers(batch, 0, n);
  const Handle result = start<lopsided>({batch, {}});
  settle();
  EXPECT_EQ(value<double>(result), by_neighbours(all_numbers(n), lopsided));
  EXPECT_GT(runner_.bytes, 8 * std::size_t{n});
  EXPECT_LE(runner_.most_waiting, Folds::kWindow + Folds::kStretchBytes);
  EXPECT_LE(runner_.most_bytes, Folds::kStretchBytes + Folds::kMostInputs * sizeof(double) + 8);
}

// Twice as many values are twice the tasks and bytes, and few messages.
TEST_F(FoldsTest, CostGrowsWithTheNumberOfValues) {
  struct Cost {
    std::size_t submissions;
    std::size_t tasks;
    std::size_t bytes;
  };
  const auto cost_of = [this](std::uint32_t n) {
    const Counts before = runner_;
    const BatchHandle batch = new_batch(n, sizeof(double));
    set_numbers(batch, 0, n);
    const Handle result = start<lopsided>({batch, {}});
    settle();
    return Cost{runner_.submissions - before.submissions, runner_.n - before.n, runner_.bytes - before.bytes};
  };
  for (const std::uint32_t n : {10'000U, 200'000U, 1'000'000U}) {
    const Cost one = cost_of(n);
    const Cost two = cost_of(2 * n);
    EXPECT_LT(static_cast<double>(two.submissions), 2.5 * static_cast<double>(one.submissions)) << n;
    EXPECT_LT(static_cast<double>(two.tasks), 2.5 * static_cast<double>(one.tasks)) << n;
    EXPECT_LT(static_cast<double>(two.bytes), 2.5 * static_cast<double>(one.bytes)) << n;
    EXPECT_LT(two.bytes, 2 * n * (sizeof(double) + 1)) << "the values, and little else";
    EXPECT_LT(two.submissions, n / 500);
  }
}

TEST_F(FoldsTest, AnErrorEndsItAtOnce) {
  const BatchHandle batch = new_batch(1'000, sizeof(double));
  set_numbers(batch, 0, 500);
  const Handle result = start<lopsided>({batch, {}});
  settle();
  objects_.set_error(*batch.record(), 777, failure());
  folds_.step();
  EXPECT_TRUE(result.record()->ready(result.index())) << "half of the values have not come";
  EXPECT_THROW(value<double>(result), ObjectLost);
  EXPECT_EQ(folds_.size(), 0U);
  const std::size_t submitted = runner_.n;
  set_numbers(batch, 501, 777);
  settle();
  EXPECT_EQ(runner_.n, submitted);
  const Handle late = start<lopsided>({batch, {}});
  settle();
  EXPECT_THROW(value<double>(late), ObjectLost);
}

TEST_F(FoldsTest, AnErrorOfTheFunction) {
  const BatchHandle batch = new_batch(1'000, sizeof(double));
  std::vector<double> values(1'000, 0.0);
  values[501] = 5;
  objects_.set_packed(*batch.record(), 0, 1'000, reinterpret_cast<const std::byte*>(values.data()));
  const Handle result = start<picky>({batch, {}});
  settle();
  EXPECT_THROW(value<double>(result), std::domain_error);
}

TEST_F(FoldsTest, WhatNobodyWantsIsNotGoneOnWith) {
  const BatchHandle batch = new_batch(100'000, sizeof(double));
  set_numbers(batch, 0, 50'000);
  {
    const Handle result = start<lopsided>({batch, {}});
    folds_.step();
  }
  const std::size_t submitted = runner_.n;
  EXPECT_NE(submitted, 0U);
  core::Holds holds;
  objects_.drain(holds);
  EXPECT_TRUE(folds_.has_work());
  folds_.step();
  EXPECT_EQ(folds_.size(), 0U);
  set_numbers(batch, 50'000, 100'000);
  settle();
  EXPECT_EQ(runner_.n, submitted);
}

TEST_F(FoldsTest, WhatTheHeadCountsIsGoneOnWith) {
  const BatchHandle batch = new_batch(100, sizeof(double));
  ObjectId id;
  {
    const Handle result = start<lopsided>({batch, {}});
    id = result.id();
    EXPECT_NE(folds_.promise(id), nullptr);
    objects_.track(*result.record(), result.index());
  }
  set_numbers(batch, 0, 100);
  settle();
  EXPECT_EQ(folds_.size(), 0U);
  EXPECT_TRUE(objects_.find(id)->ready(id.index));
  objects_.free(id);
}

TEST_F(FoldsTest, APromiseThatFailsIsToldToTheHead) {
  const BatchHandle batch = new_batch(100, sizeof(double));
  const Handle result = start<lopsided>({batch, {}});
  EXPECT_NE(folds_.promise(result.id()), nullptr);
  objects_.set_error(*batch.record(), 3, failure());
  settle();
  EXPECT_TRUE(runner_.promised_failed);
  EXPECT_EQ(folds_.promise(result.id()), nullptr);
}

TEST_F(FoldsTest, ACancelledOneSubmitsNothingMore) {
  const BatchHandle batch = new_batch(1'000, sizeof(double));
  set_numbers(batch, 0, 900);
  const Handle result = start<lopsided>({batch, {}});
  const std::string text = folds_.explain(result.id()).value();
  EXPECT_NE(text.find("lopsided: 100 of them are not there yet"), std::string::npos) << text;
  EXPECT_TRUE(folds_.cancel(result.id()));
  EXPECT_FALSE(folds_.cancel(result.id()));
  set_numbers(batch, 900, 1'000);
  settle();
  EXPECT_EQ(runner_.n, 0U);
  EXPECT_FALSE(result.record()->ready(result.index())) << "who cancels says so";
}

// Values that are kept one by one are let go of as soon as they have been folded.
TEST_F(FoldsTest, FoldedValuesAreLetGoOf) {
  Handle result;
  std::vector<ObjectId> ids;
  std::vector<Handle> left;
  {
    std::vector<Handle> handles;
    for (std::uint32_t i = 0; i != 128; ++i) {
      handles.push_back(objects_.mint());
      ids.push_back(handles.back().id());
      if (i < 64) {
        set_text(handles.back(), letter(i));
      } else {
        left.push_back(handles.back());
      }
    }
    result = start<bracket>({{}, handles});
  }
  settle();
  EXPECT_FALSE(objects_.is_held(ids[0]));
  EXPECT_FALSE(objects_.is_held(ids[63]));
  for (std::uint32_t i = 64; i != 128; ++i) set_text(left[i - 64], letter(i));
  left.clear();
  settle();
  EXPECT_FALSE(objects_.is_held(ids[127]));
  EXPECT_EQ(value<std::string>(result).size(), 128U + 2 * 127U);
}

}  // namespace
}  // namespace mobula::worker
