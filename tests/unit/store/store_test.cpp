#include "store/store.hpp"

#include <gtest/gtest.h>

#include <algorithm>
#include <cstring>
#include <map>
#include <random>
#include <thread>

namespace mobula::store {
namespace {

using Verdict = Store::Verdict;
using Role = Store::Role;

constexpr std::size_t kMiB = 1 << 20;

ObjectId id(std::uint32_t n) { return {detail::SpanId::make(0, 1), n}; }

bool nobody(ObjectId) { return false; }

// A store on memory of its own, with scratch files that are maps.
struct Bench {
  explicit Bench(std::size_t size, bool spills = false)
      : memory(static_cast<std::byte*>(std::aligned_alloc(4096, size)), &std::free) {
    Store::Settings settings;
    settings.memory = {memory.get(), size};
    settings.spills = spills;
    settings.commit = [this](std::span<std::byte>) { return pages; };
    settings.segment_of = [this](RankId rank) { return rank == 7 ? neighbour : ByteView(); };
    store = std::make_unique<Store>(settings);
  }
  // A value of n bytes, all of them `fill`.
  ValuePtr value(std::size_t n, int fill) {
    Store::Room room;
    EXPECT_EQ(store->take(n, room), Verdict::given);
    store->committed(room.cold);
    std::memset(room.buffer.extend(n), fill, n);
    return std::make_shared<Buffer>(std::move(room.buffer));
  }
  void add(std::uint32_t n, std::size_t size, Role role = Role::own) {
    store->add(id(n), value(size, static_cast<int>(n)), role);
  }
  bool intact(std::uint32_t n, std::size_t size) {
    const ValuePtr value = store->find(id(n));
    if (value == nullptr || value->size() != size) return false;
    const ByteView bytes = value->view();
    return std::all_of(bytes.begin(), bytes.end(), [n](std::byte b) { return b == static_cast<std::byte>(n); });
  }
  Verdict try_take(std::size_t n) {
    Store::Room room;
    return store->take(n, room);
  }
  void carry_out(const std::string& error = "") { carry_out(store->take_orders(), error); }
  void carry_out(std::vector<Store::Order> orders, const std::string& error = "") {
    for (Store::Order& order : orders) {
      if (auto* write = std::get_if<Store::Write>(&order)) {
        if (error.empty()) {
          files[write->file] = {write->id,
                                std::string(reinterpret_cast<const char*>(write->value->data()), write->value->size())};
        }
        write->value.reset();
        store->written(write->id, write->file, error);
      } else if (auto* read = std::get_if<Store::Read>(&order)) {
        const std::string& bytes = files.at(read->file).bytes;
        read->into->append(bytes.data(), bytes.size());
        store->committed(read->cold);
        store->was_read(read->id, read->file, std::move(read->into), error);
      } else {
        EXPECT_EQ(files.erase(std::get<Store::Remove>(order).file), 1);
      }
    }
  }
  bool has_file(std::uint32_t n) const {
    return std::any_of(files.begin(), files.end(), [n](const auto& file) { return file.second.of == id(n); });
  }
  // A store that is full of small values, all of them lent.
  std::vector<ValuePtr> fill_with_lent(std::size_t n) {
    std::vector<ValuePtr> lent;
    for (std::uint32_t i = 0; i < n; ++i) lent.push_back(store->add(id(i), value(900, 1), Role::own));
    return lent;
  }

  std::unique_ptr<std::byte, decltype(&std::free)> memory;
  bool pages = true;
  ByteView neighbour;
  struct File {
    ObjectId of;
    std::string bytes;
  };
  std::map<Store::FileNumber, File> files;
  std::unique_ptr<Store> store;
};

TEST(Store, ElementsBehindALengthAreAligned) {
  Bench bench(kMiB);
  const ValuePtr value = bench.value(1000, 1);
  EXPECT_EQ(reinterpret_cast<std::uintptr_t>(value->data() + sizeof(std::uint64_t)) % Allocator::kAlign, 0);
}

TEST(Store, BytesStayWhileSomeoneHasTheValue) {
  Bench bench(kMiB);
  bench.add(1, 600'000);
  ValuePtr held = bench.store->find(id(1));
  bench.store->erase(id(1));
  EXPECT_EQ(bench.store->size(), 0);
  EXPECT_EQ(bench.try_take(600'000), Verdict::never);
  EXPECT_EQ(held->data()[599'999], std::byte{1});
  held.reset();
  EXPECT_EQ(bench.try_take(600'000), Verdict::given);
}

TEST(Store, AFullStoreSaysWhoHoldsTheSpace) {
  Bench bench(kMiB);
  bench.add(1, 700'000);
  const ValuePtr held = bench.store->find(id(1));
  EXPECT_EQ(bench.try_take(600'000), Verdict::never);
  const std::string why = bench.store->why_full(600'000, nobody);
  EXPECT_NE(why.find(core::to_string(id(1))), std::string::npos) << why;
  EXPECT_NE(why.find("in use on this rank"), std::string::npos) << why;
  EXPECT_EQ(bench.try_take(2 * kMiB), Verdict::never);
  EXPECT_NE(bench.store->why_full(2 * kMiB, nobody).find("larger than the whole segment"), std::string::npos);
}

TEST(Store, SpillsWhatWasNotUsedForLongest) {
  Bench bench(kMiB, true);
  for (std::uint32_t n = 1; n <= 3; ++n) bench.add(n, 300'000);
  EXPECT_TRUE(bench.intact(1, 300'000));  // used now: 2 is the oldest
  EXPECT_EQ(bench.try_take(300'000), Verdict::later);
  bench.carry_out();
  EXPECT_TRUE(bench.has_file(2));
  EXPECT_EQ(bench.files.size(), 1);
  EXPECT_EQ(bench.try_take(300'000), Verdict::given);
  EXPECT_EQ(bench.store->find(id(2)), nullptr);
  EXPECT_TRUE(bench.store->has(id(2)));
  bench.store->want(id(2));
  bench.carry_out();
  EXPECT_EQ(bench.store->take_news().restored, std::vector{id(2)});
  EXPECT_TRUE(bench.intact(2, 300'000));
  bench.store->erase(id(2));
  bench.carry_out();
  EXPECT_TRUE(bench.files.empty());
}

TEST(Store, AValueWithAFileIsNotWrittenTwice) {
  Bench bench(kMiB, true);
  bench.add(1, 600'000);
  EXPECT_EQ(bench.try_take(600'000), Verdict::later);
  bench.carry_out();
  bench.store->want(id(1));
  bench.carry_out();
  EXPECT_EQ(bench.try_take(600'000), Verdict::given) << "it is dropped at once";
  EXPECT_EQ(bench.store->use().spills, 1);
}

TEST(Store, ScratchThatFailsLosesNothing) {
  Bench bench(kMiB, true);
  bench.add(1, 600'000);
  EXPECT_EQ(bench.try_take(600'000), Verdict::later);
  bench.carry_out("No space left on device");
  EXPECT_EQ(bench.try_take(600'000), Verdict::never);
  EXPECT_NE(bench.store->why_full(600'000, nobody).find("No space left on device"), std::string::npos);
  EXPECT_TRUE(bench.intact(1, 600'000));
}

TEST(Store, AFileThatCannotBeReadIsTold) {
  Bench bench(kMiB, true);
  bench.add(1, 600'000);
  EXPECT_EQ(bench.try_take(600'000), Verdict::later);
  bench.carry_out();
  bench.store->want(id(1));
  bench.carry_out("Input/output error");
  const Store::News news = bench.store->take_news();
  ASSERT_EQ(news.broken.size(), 1);
  EXPECT_EQ(news.broken[0].first, id(1));
}

TEST(Store, CopiesAreDropped) {
  Bench bench(kMiB);
  bench.add(1, 600'000, Role::copy);
  EXPECT_EQ(bench.try_take(600'000), Verdict::given);
  EXPECT_FALSE(bench.store->has(id(1)));
  EXPECT_EQ(bench.store->take_news().dropped_copies, std::vector{id(1)});
}

// Its rank was lost, and this one made it again.
TEST(Store, ACopyThatIsMadeAgainIsKept) {
  Bench bench(4 * kMiB);
  bench.add(1, kMiB, Role::copy);
  bench.add(1, kMiB, Role::own);
  bench.add(2, kMiB);
  EXPECT_NE(bench.try_take(3 * kMiB), Verdict::given);
  EXPECT_TRUE(bench.intact(1, kMiB));
}

TEST(Store, PinnedBytesOutliveTheValue) {
  Bench bench(kMiB);
  bench.add(1, 600'000);
  bench.store->pin(id(1), 7);
  bench.store->erase(id(1));
  EXPECT_EQ(bench.store->take_news().recalls, (std::vector{std::pair{RankId{7}, id(1)}}));
  EXPECT_EQ(bench.try_take(600'000), Verdict::never);
  bench.store->unpin(id(1), 7);
  EXPECT_EQ(bench.store->size(), 0);
  EXPECT_EQ(bench.try_take(600'000), Verdict::given);
}

TEST(Store, PinsAreRecalledBeforeAValueIsSpilled) {
  Bench bench(kMiB, true);
  bench.add(1, 600'000);
  bench.store->pin(id(1), 7);
  EXPECT_EQ(bench.try_take(600'000), Verdict::later);
  EXPECT_EQ(bench.store->take_news().recalls.size(), 1);
  EXPECT_EQ(bench.try_take(600'000), Verdict::never) << "the reader has it still";
  bench.store->unpin(id(1), 7);
  EXPECT_EQ(bench.try_take(600'000), Verdict::later);
  bench.carry_out();
  EXPECT_EQ(bench.try_take(600'000), Verdict::given);
}

TEST(Store, PinsOfALostRankGo) {
  Bench bench(kMiB);
  bench.add(1, 1000);
  bench.add(2, 1000);
  bench.store->pin(id(1), 7);
  bench.store->pin(id(2), 7);
  bench.store->erase(id(1));
  bench.store->rank_lost(7);
  EXPECT_EQ(bench.store->size(), 1);
  EXPECT_TRUE(bench.store->largest(1)[0].pins.empty());
}

TEST(Store, AMappedValueIsReadInPlaceAndGivenUpWhenUnused) {
  Bench owner(kMiB);
  owner.add(1, 5000);
  Bench reader(kMiB);
  reader.neighbour = {owner.memory.get(), kMiB};
  reader.store->add_mapped(id(1), 7, owner.store->offset_of(*owner.store->find(id(1))), 5000);
  ValuePtr held = reader.store->find(id(1));
  EXPECT_EQ(held->data(), owner.store->find(id(1))->data());
  EXPECT_EQ(reader.store->used(), 0);
  reader.store->let_go(id(1));
  EXPECT_FALSE(reader.store->has_news());
  held.reset();
  reader.store->step();
  EXPECT_EQ(reader.store->take_news().unpins, (std::vector{std::pair{RankId{7}, id(1)}}));
  EXPECT_EQ(reader.store->size(), 0);
}

TEST(Store, MissingMemoryIsAFullSegmentAndNoCrash) {
  Bench bench(4 * kMiB);
  bench.pages = false;
  Store::Room room;
  ASSERT_EQ(bench.store->take(3 * kMiB, room), Verdict::given);
  EXPECT_FALSE(bench.store->commit()(room.cold));
  bench.store->refused(std::move(room));
  EXPECT_EQ(bench.try_take(3 * kMiB), Verdict::never);
  EXPECT_NE(bench.store->why_full(3 * kMiB, nobody).find("no memory left"), std::string::npos);
  bench.pages = true;
  EXPECT_EQ(bench.try_take(3 * kMiB), Verdict::given);
}

// It was moved out, and another rank sends it meanwhile.
TEST(Store, AValueThatComesWhileItIsInAFileIsHere) {
  for (const bool is_wanted : {false, true}) {
    Bench bench(kMiB, true);
    bench.add(1, 600'000);
    EXPECT_EQ(bench.try_take(600'000), Verdict::later);
    bench.carry_out();
    ASSERT_FALSE(bench.store->is_in_memory(id(1)));
    if (is_wanted) bench.store->want(id(1));
    auto orders = bench.store->take_orders();
    EXPECT_EQ(orders.size(), is_wanted ? 1 : 0);
    auto again = std::make_shared<Buffer>();
    std::memset(again->extend(600'000), 1, 600'000);
    EXPECT_NE(bench.store->add(id(1), again, Role::copy), nullptr);
    EXPECT_TRUE(bench.intact(1, 600'000));
    EXPECT_EQ(bench.store->take_news().restored.size(), is_wanted ? 1 : 0);
    bench.carry_out(std::move(orders));
    EXPECT_TRUE(bench.intact(1, 600'000));
    EXPECT_TRUE(bench.store->take_news().restored.empty());
    bench.store->erase(id(1));
    bench.carry_out();
    EXPECT_TRUE(bench.files.empty());
    bench.store->step();
    bench.store->check_invariants();
    EXPECT_EQ(bench.store->used(), 0);
  }
}

TEST(Store, AValueThatIsMadeAgainWhileItIsWrittenHasItsOwnFile) {
  Bench bench(kMiB, true);
  bench.add(1, 600'000);
  EXPECT_EQ(bench.try_take(600'000), Verdict::later);
  auto orders = bench.store->take_orders();
  bench.store->erase(id(1));
  std::get<Store::Write>(orders.at(0)).value.reset();  // its bytes are in the file, and that is not known yet
  bench.store->step();
  bench.store->add(id(1), bench.value(500'000, 1), Role::own);
  EXPECT_EQ(bench.try_take(600'000), Verdict::later);
  const auto first = std::get<Store::Write>(orders.at(0)).file;
  bench.files[first] = {id(1), std::string(600'000, '\1')};
  bench.store->written(id(1), first, "");
  bench.carry_out();
  bench.carry_out();
  EXPECT_EQ(bench.files.size(), 1);
  EXPECT_FALSE(bench.store->is_in_memory(id(1)));
  bench.store->want(id(1));
  bench.carry_out();
  EXPECT_TRUE(bench.intact(1, 500'000));
  bench.store->check_invariants();
}

TEST(Store, WhatIsReadForAValueThatIsGoneIsNotTakenForItsSuccessor) {
  Bench bench(kMiB, true);
  bench.add(1, 600'000);
  EXPECT_EQ(bench.try_take(600'000), Verdict::later);
  bench.carry_out();
  bench.store->want(id(1));
  auto read = bench.store->take_orders();
  bench.store->erase(id(1));
  bench.store->add(id(1), bench.value(300'000, 1), Role::own);
  bench.carry_out(std::move(read));
  EXPECT_TRUE(bench.intact(1, 300'000));
  bench.carry_out();
  bench.store->check_invariants();
}

// Each time with a reader of another rank, which has the old bytes until it gives them up.
TEST(Store, AValueThatIsErasedTwiceWhilePinnedKeepsBoth) {
  Bench bench(kMiB);
  for (int i = 0; i < 2; ++i) {
    bench.add(1, 300'000);
    bench.store->pin(id(1), 7);
    bench.store->erase(id(1));
  }
  EXPECT_EQ(bench.try_take(600'000), Verdict::never);
  bench.store->unpin(id(1), 7);
  EXPECT_EQ(bench.try_take(600'000), Verdict::never) << "which of them is not known";
  bench.store->unpin(id(1), 7);
  EXPECT_EQ(bench.try_take(600'000), Verdict::given);
}

TEST(Store, MakingRoomDoesNotLookAtWhatIsInUse) {
  constexpr std::size_t kValues = 5'000;
  constexpr std::uint32_t kIdle = 12;
  Bench bench((kValues + kIdle) << 10, true);
  for (std::uint32_t n = 0; n < kIdle; ++n) bench.add(kValues + n, 900);
  const auto lent = bench.fill_with_lent(kValues);
  for (int i = 0; i < 100; ++i) {
    static_cast<void>(bench.try_take(kMiB));
    bench.carry_out();
  }
  EXPECT_EQ(bench.try_take(kMiB), Verdict::never);
  EXPECT_EQ(bench.store->looks(), kIdle) << "each of those that are not in use goes once, and no other is looked at";
}

TEST(Store, AValueMayGoWhenItsLastReaderIsDoneOnAnyThread) {
  Bench bench(kMiB, true);
  bench.add(1, 600'000);
  ValuePtr lent = bench.store->find(id(1));
  ValuePtr copy = lent;
  EXPECT_EQ(bench.try_take(600'000), Verdict::never);
  lent.reset();
  EXPECT_EQ(bench.try_take(600'000), Verdict::never);
  const std::uint64_t changes = bench.store->changes();
  std::thread([&copy] { copy.reset(); }).join();
  EXPECT_NE(bench.store->changes(), changes) << "those who wait for room try again";
  EXPECT_EQ(bench.try_take(600'000), Verdict::later);
}

TEST(Store, APeersPlaceOfAValueIsChecked) {
  Bench owner(kMiB);
  Bench reader(kMiB);
  reader.neighbour = {owner.memory.get(), kMiB};
  const std::uint64_t most = ~std::uint64_t{0};
  for (const auto& [offset, size] :
       {std::pair<std::uint64_t, std::uint64_t>{kMiB - 100, 101}, {kMiB + 1, 0}, {most, 2}, {100, most - 50}}) {
    EXPECT_THROW(reader.store->add_mapped(id(1), 7, offset, size), ProtocolError) << offset << " " << size;
  }
  EXPECT_FALSE(reader.store->has(id(1)));
  reader.store->add_mapped(id(1), 7, kMiB - 100, 100);
  EXPECT_TRUE(reader.store->has(id(1)));
}

TEST(Store, NoSizeIsTooLargeToBeRefused) {
  Bench bench(kMiB);
  for (std::size_t below = 0; below < 100; ++below) EXPECT_EQ(bench.try_take(~std::size_t{0} - below), Verdict::never);
}

// Values come, are used, pinned and go, at random; whatever is there is whole, and in the end nothing is left.
TEST(Store, RandomUse) {
  for (std::uint64_t seed = 1; seed <= 30; ++seed) {
    SCOPED_TRACE("seed " + std::to_string(seed));
    std::mt19937_64 random(seed);
    Bench bench(2 * kMiB, seed % 3 != 0);
    std::map<std::uint32_t, std::size_t> sizes;
    std::multimap<std::uint32_t, RankId> pins;
    std::vector<std::pair<ValuePtr, std::uint32_t>> held;
    std::uint32_t next = 1;
    for (int step = 0; step < 3000; ++step) {
      const auto any = [&] { return std::next(sizes.begin(), static_cast<std::ptrdiff_t>(random() % sizes.size())); };
      switch (random() % 8) {
        case 0:
        case 1: {
          const std::size_t size = 1 + random() % 300'000;
          Store::Room room;
          if (bench.store->take(size, room) != Verdict::given) break;
          bench.store->committed(room.cold);
          std::memset(room.buffer.extend(size), static_cast<int>(next), size);
          bench.store->add(id(next), std::make_shared<Buffer>(std::move(room.buffer)), Role::own);
          sizes[next++] = size;
          break;
        }
        case 2:
          if (!sizes.empty() && sizes.size() > 3) {
            const auto victim = any();
            bench.store->erase(id(victim->first));
            sizes.erase(victim);
          }
          break;
        case 3:
          if (!sizes.empty()) {
            const auto used = any();
            if (ValuePtr value = bench.store->find(id(used->first))) {
              held.emplace_back(std::move(value), used->first);
            } else {
              bench.store->want(id(used->first));
            }
          }
          break;
        case 4:
          if (!held.empty()) {
            const auto at = held.begin() + static_cast<std::ptrdiff_t>(random() % held.size());
            const ByteView bytes = at->first->view();
            ASSERT_TRUE(std::all_of(bytes.begin(), bytes.end(),
                                    [n = at->second](std::byte b) { return b == static_cast<std::byte>(n); }));
            held.erase(at);
          }
          break;
        case 5:
          if (!sizes.empty()) {
            const auto of = any();
            if (bench.store->find(id(of->first)) != nullptr) {
              bench.store->pin(id(of->first), 7);
              pins.emplace(of->first, 7);
            }
          }
          break;
        case 6:
          if (!pins.empty()) {
            bench.store->unpin(id(pins.begin()->first), 7);
            pins.erase(pins.begin());
          }
          break;
        default: bench.carry_out(); bench.store->step();
      }
      if (step % 50 == 0) bench.store->check_invariants();
    }
    held.clear();
    for (const auto& [n, rank] : pins) bench.store->unpin(id(n), rank);
    for (int i = 0; i < 3; ++i) {
      bench.carry_out();
      bench.store->step();
    }
    for (const auto& [n, size] : sizes) {
      if (bench.store->find(id(n)) != nullptr) {
        EXPECT_TRUE(bench.intact(n, size));
      } else {
        ASSERT_TRUE(bench.store->has(id(n)));
        const auto file = std::find_if(bench.files.begin(), bench.files.end(),
                                       [n = n](const auto& each) { return each.second.of == id(n); });
        ASSERT_NE(file, bench.files.end());
        EXPECT_EQ(file->second.bytes, std::string(size, static_cast<char>(n)));
      }
    }
    for (const auto& [n, size] : sizes) bench.store->erase(id(n));
    bench.carry_out();
    Store::Room all;
    static_cast<void>(bench.store->take(1, all));  // takes note of what was given back
    all = {};
    EXPECT_EQ(bench.store->size(), 0);
    EXPECT_TRUE(bench.files.empty());
    EXPECT_LE(bench.store->used(), Allocator::kAlign * 2);
  }
}

}  // namespace
}  // namespace mobula::store
