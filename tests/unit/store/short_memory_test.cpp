// Letting go needs no memory: destructors do it, and those may run because memory is short.
#include <gtest/gtest.h>

#include <cstdlib>
#include <new>

#include "store/objects.hpp"

namespace {
thread_local bool t_no_memory = false;
}

void* operator new(std::size_t n) {
  void* const memory = t_no_memory ? nullptr : std::malloc(n);
  if (memory == nullptr) throw std::bad_alloc();
  return memory;
}
void operator delete(void* memory) noexcept { std::free(memory); }
void operator delete(void* memory, std::size_t) noexcept { std::free(memory); }

namespace mobula::store {
namespace {

constexpr std::uint32_t kMany = 5000;
constexpr std::size_t kSize = 1000;

// Runs `act` where nothing can be allocated.
template <class Act>
void without_memory(Act act) {
  t_no_memory = true;
  act();
  t_no_memory = false;
}

class ShortMemory : public testing::Test {
 protected:
  static constexpr std::size_t kSegment = std::size_t{kMany} << 11;
  ShortMemory()
      : segment_(static_cast<std::byte*>(std::aligned_alloc(4096, kSegment)), &std::free), store_(settings()) {}
  Store::Settings settings() const {
    Store::Settings settings;
    settings.memory = {segment_.get(), kSegment};
    return settings;
  }
  ValuePtr value() {
    Store::Room room;
    EXPECT_EQ(store_.take(kSize, room), Store::Verdict::given);
    store_.committed(room.cold);
    return std::make_shared<Buffer>(std::move(room.buffer));
  }

  std::unique_ptr<std::byte, decltype(&std::free)> segment_;
  Store store_;
  ObjectTable table_{0, store_};
};

TEST_F(ShortMemory, RoomIsGivenBack) {
  std::vector<ValuePtr> values;
  for (std::uint32_t i = 0; i < kMany; ++i) values.push_back(value());
  EXPECT_GE(store_.used(), kMany * kSize);
  without_memory([&values] { values.clear(); });
  store_.step();
  EXPECT_EQ(store_.used(), 0);
}

TEST_F(ShortMemory, LoansEnd) {
  std::vector<ValuePtr> lent;
  for (std::uint32_t i = 0; i < kMany; ++i) {
    lent.push_back(store_.add({detail::SpanId::make(0, 1), i}, value(), Store::Role::copy));
  }
  without_memory([&lent] { lent.clear(); });
  Store::Room room;
  EXPECT_EQ(store_.take(kSegment - Allocator::kAlign, room), Store::Verdict::later) << "all of them go for it";
  EXPECT_EQ(store_.take(kSegment - Allocator::kAlign, room), Store::Verdict::given);
}

TEST_F(ShortMemory, HandlesAreDropped) {
  std::vector<Handle> handles;
  for (std::uint32_t i = 0; i < kMany; ++i) handles.push_back(table_.mint());
  const std::size_t records = table_.records();
  EXPECT_GE(records, kMany / ObjectTable::kSingles);
  without_memory([&handles] { handles.clear(); });
  core::Holds holds;
  table_.drain(holds);
  EXPECT_EQ(table_.records(), 1) << "the one that is not full";
}

}  // namespace
}  // namespace mobula::store
