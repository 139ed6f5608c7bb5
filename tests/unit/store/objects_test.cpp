#include "store/objects.hpp"

#include <gtest/gtest.h>

#include <thread>

namespace mobula::store {
namespace {

core::Holds drained(ObjectTable& table) {
  core::Holds holds;
  table.drain(holds);
  return holds;
}

ByteView view(const std::string& s) { return std::as_bytes(std::span(s)); }
std::string text(const Handle& h) {
  const ByteView bytes = h.record()->value(h.index()).value();
  return std::string(reinterpret_cast<const char*>(bytes.data()), bytes.size());
}

TEST(Objects, ValuesLiveWithTheirHandles) {
  Store store({});
  ObjectTable table(0, store);
  {
    const Handle small = table.mint();
    const Handle large = table.mint();
    table.set_value(*small.record(), small.index(), view("abc"));
    table.set_value(*large.record(), large.index(), view(std::string(100, 'x')));
    const Handle copy = small;
    EXPECT_EQ(text(copy), "abc");
    EXPECT_EQ(text(large), std::string(100, 'x'));
  }
  EXPECT_TRUE(drained(table).drops.empty()) << "the head never heard of them";
}

TEST(Objects, AFullRecordGoesWithItsLastHandle) {
  Store store({});
  ObjectTable table(0, store);
  std::vector<Handle> handles;
  for (std::uint32_t i = 0; i < ObjectTable::kSingles + 1; ++i) {
    handles.push_back(table.mint());
    table.know(*handles.back().record());
  }
  EXPECT_EQ(table.records(), 2U);
  const Handle last = handles.back();
  handles.clear();
  const core::Holds holds = drained(table);
  EXPECT_EQ(holds.spans.size(), 1U);
  EXPECT_EQ(table.records(), 1U);
}

TEST(Objects, TrackedOnesStayUntilFreed) {
  Store store({});
  ObjectTable table(0, store);
  Handle h = table.mint();
  const detail::ObjectId id = h.id();
  table.set_value(*h.record(), h.index(), view("abc"));
  table.track(*h.record(), h.index());
  h = {};
  EXPECT_EQ(drained(table).drops.size(), 1U);
  ASSERT_NE(table.find(id), nullptr);
  EXPECT_NE(table.value_of(*table.find(id), id.index), nullptr) << "others may still ask for it";
  const Handle again = table.handle_of(id);
  EXPECT_EQ(drained(table).holds.size(), 1U);
}

TEST(Objects, ForeignOnesAreHeldOnce) {
  Store store({});
  ObjectTable table(1, store);
  const detail::ObjectId id{detail::SpanId::make(0, 5), 7};
  {
    const Handle a = table.handle_of(id);
    const Handle b = table.handle_of(id);
    EXPECT_EQ(a, b);
    const core::Holds holds = drained(table);
    EXPECT_EQ(holds.holds.size(), 1U);
  }
  EXPECT_EQ(drained(table).drops.size(), 1U);
  EXPECT_EQ(table.records(), 0U);
}

TEST(Objects, TheFirstResultStays) {
  Store store({});
  ObjectTable table(0, store);
  const Handle h = table.mint();
  table.set_value(*h.record(), h.index(), view("first"));
  table.set_value(*h.record(), h.index(), view("second"));
  EXPECT_EQ(text(h), "first");
}

TEST(Objects, PackedBatches) {
  Store store({});
  ObjectTable table(0, store);
  detail::Record* record = table.new_batch(sizeof(int));
  detail::BatchHandle batch(record, 3000);
  table.append(*record, 3000);
  table.close(*record);
  std::vector<int> values(3000);
  for (int i = 0; i < 3000; ++i) values[static_cast<std::size_t>(i)] = i;
  table.set_packed(*record, 100, 2900, reinterpret_cast<const std::byte*>(values.data() + 100));
  EXPECT_EQ(record->ready_count.load(), 2900U);
  EXPECT_FALSE(record->ready(99));
  table.set_packed(*record, 0, 200, reinterpret_cast<const std::byte*>(values.data()));
  EXPECT_EQ(record->ready_count.load(), 3000U);
  std::vector<int> out(3000);
  record->copy_packed(3000, reinterpret_cast<std::byte*>(out.data()));
  EXPECT_EQ(out, values);
  const Handle kept = batch.element(1234);
  batch = {};
  drained(table);
  EXPECT_EQ(table.records(), 1U);
}

// While its last drop still waits to be handled, twice.
TEST(Objects, OneThatIsTakenAgainIsDroppedOnce) {
  Store store({});
  ObjectTable table(1, store);
  const detail::ObjectId id{detail::SpanId::make(0, 5), 7};
  const Handle other = table.handle_of({id.span, 8});
  for (int i = 0; i < 3; ++i) static_cast<void>(table.handle_of(id));
  const Handle last = table.handle_of(id);
  core::Holds holds = drained(table);
  EXPECT_EQ(holds.holds.size(), 2U);
  EXPECT_TRUE(holds.drops.empty()) << "it is held";
  static_cast<void>(Handle(last));
  EXPECT_TRUE(drained(table).drops.empty());
}

TEST(Objects, HandlesFromManyThreads) {
  Store store({});
  ObjectTable table(0, store);
  std::vector<std::thread> threads;
  std::vector<Handle> shared;
  for (int i = 0; i < 200; ++i) shared.push_back(table.mint());
  std::atomic<bool> stop{false};
  for (int t = 0; t < 4; ++t) {
    threads.emplace_back([&] {
      for (int round = 0; round < 2000; ++round) {
        std::vector<Handle> mine(shared.begin() + round % 100, shared.begin() + round % 100 + 50);
      }
    });
  }
  std::thread drainer([&] {
    while (!stop.load()) drained(table);
  });
  for (auto& t : threads) t.join();
  stop.store(true);
  drainer.join();
  shared.clear();
  drained(table);
  EXPECT_EQ(table.records(), 1U);
}

}  // namespace
}  // namespace mobula::store
