#include "store/allocator.hpp"

#include <algorithm>
#include <bit>

#include "core/error.hpp"

namespace mobula::store {

// Sizes in units of kAlign: level 0 holds those below kSteps one by one, each further level a power of two in kSteps
// equal parts.
unsigned Allocator::class_of(std::size_t size) {
  const std::size_t units = size / kAlign;
  if (units < kSteps) return static_cast<unsigned>(units);
  const unsigned log = static_cast<unsigned>(std::bit_width(units)) - 1;
  const unsigned step = static_cast<unsigned>(units >> (log - 4)) - kSteps;
  return (log - 3) * kSteps + step;
}

unsigned Allocator::class_for(std::size_t size) {
  const std::size_t units = size / kAlign;
  if (units < kSteps) return static_cast<unsigned>(units);
  const unsigned log = static_cast<unsigned>(std::bit_width(units)) - 1;
  const std::size_t part = std::size_t{1} << (log - 4);
  return class_of((units + part - 1) / part * part * kAlign);
}

std::optional<unsigned> Allocator::find_class(unsigned from) const {
  unsigned level = from / kSteps;
  if (level >= kLevels) return std::nullopt;
  const unsigned here = static_cast<unsigned>(steps_[level]) & (~0U << (from % kSteps));
  if (here != 0) return level * kSteps + static_cast<unsigned>(std::countr_zero(here));
  if (level + 1 >= kLevels) return std::nullopt;
  const std::uint64_t above = levels_ & (~std::uint64_t{0} << (level + 1));
  if (above == 0) return std::nullopt;
  level = static_cast<unsigned>(std::countr_zero(above));
  return level * kSteps + static_cast<unsigned>(std::countr_zero(static_cast<unsigned>(steps_[level])));
}

void Allocator::list(std::size_t offset, Block& block) {
  const unsigned at = class_of(block.size);
  block.free = true;
  block.previous = kNone;
  block.next = heads_[at];
  if (block.next != kNone) blocks_.at(block.next).previous = offset;
  heads_[at] = offset;
  steps_[at / kSteps] = static_cast<std::uint16_t>(steps_[at / kSteps] | (1U << (at % kSteps)));
  levels_ |= std::uint64_t{1} << (at / kSteps);
}

void Allocator::unlist(Block& block) {
  const unsigned at = class_of(block.size);
  block.free = false;
  if (block.next != kNone) blocks_.at(block.next).previous = block.previous;
  if (block.previous != kNone) {
    blocks_.at(block.previous).next = block.next;
    return;
  }
  heads_[at] = block.next;
  if (block.next != kNone) return;
  steps_[at / kSteps] = static_cast<std::uint16_t>(steps_[at / kSteps] & ~(1U << (at % kSteps)));
  if (steps_[at / kSteps] == 0) levels_ &= ~(std::uint64_t{1} << (at / kSteps));
}

std::optional<std::size_t> Allocator::allocate(std::size_t n) {
  if (n > capacity_) return std::nullopt;
  const std::size_t size = round_up(n);
  std::size_t offset = kNone;
  if (const auto found = find_class(class_for(size))) {
    offset = heads_[*found];
  } else {
    // The class that the size itself falls into may hold a block that is large enough; a few are looked at.
    offset = heads_[class_of(size)];
    for (int looked = 0; offset != kNone && blocks_.at(offset).size < size; ++looked) {
      offset = looked < 16 ? blocks_.at(offset).next : kNone;
    }
    if (offset == kNone) return std::nullopt;
  }
  Block& block = blocks_.at(offset);
  unlist(block);
  if (block.size > size) {
    const std::size_t rest = offset + size;
    const std::size_t rest_size = block.size - size;
    const std::size_t after = offset + block.size;
    block.size = size;
    Block& free_block = blocks_.emplace(rest, Block{rest_size, offset, true}).first->second;
    if (const auto next = blocks_.find(after); next != blocks_.end()) next->second.before = rest;
    if (last_ == offset) last_ = rest;
    list(rest, free_block);
  }
  used_ += size;
  return offset;
}

void Allocator::free(std::size_t offset) {
  auto found = blocks_.find(offset);
  MOBULA_CHECK(found != blocks_.end() && !found->second.free, "a block is freed once");
  used_ -= found->second.size;
  if (const auto after = blocks_.find(offset + found->second.size); after != blocks_.end() && after->second.free) {
    unlist(after->second);
    if (last_ == after->first) last_ = offset;
    found->second.size += after->second.size;
    blocks_.erase(after);
  }
  if (const std::size_t before = found->second.before; before != kNone) {
    Block& front = blocks_.at(before);
    if (front.free) {
      unlist(front);
      front.size += found->second.size;
      if (last_ == offset) last_ = before;
      blocks_.erase(found);
      found = blocks_.find(before);
      offset = before;
    }
  }
  if (const auto next = blocks_.find(offset + found->second.size); next != blocks_.end()) next->second.before = offset;
  list(offset, found->second);
}

std::size_t Allocator::grow(std::size_t n) {
  n = std::min(round_up(n), capacity_ - grown_);
  if (n == 0) return 0;
  const std::size_t offset = grown_;
  grown_ += n;
  blocks_.emplace(offset, Block{n, last_, false});
  last_ = offset;
  used_ += n;
  free(offset);  // merges with what is free before it
  return n;
}

std::size_t Allocator::shortfall(std::size_t n) const {
  const std::size_t size = round_up(n);
  std::size_t tail = 0;
  if (last_ != kNone && blocks_.at(last_).free) tail = blocks_.at(last_).size;
  return size > tail ? size - tail : 0;
}

std::size_t Allocator::largest_free() const {
  std::size_t most = capacity_ - grown_;
  if (last_ != kNone && blocks_.at(last_).free) most += blocks_.at(last_).size;
  if (levels_ != 0) {
    const auto level = static_cast<unsigned>(std::bit_width(levels_)) - 1;
    const unsigned at =
        level * kSteps + static_cast<unsigned>(std::bit_width(static_cast<unsigned>(steps_[level]))) - 1;
    for (std::size_t offset = heads_[at]; offset != kNone; offset = blocks_.at(offset).next) {
      most = std::max(most, blocks_.at(offset).size);
    }
  }
  return most;
}

void Allocator::check_invariants() const {
  std::size_t at = 0;
  std::size_t used = 0;
  std::size_t before = kNone;
  while (at < grown_) {
    const auto found = blocks_.find(at);
    MOBULA_CHECK(found != blocks_.end(), "blocks cover the range");
    const Block& block = found->second;
    MOBULA_CHECK(block.before == before, "a block knows the one before it");
    MOBULA_CHECK(before == kNone || !block.free || !blocks_.at(before).free, "free neighbours are merged");
    if (!block.free) used += block.size;
    before = at;
    at += block.size;
  }
  MOBULA_CHECK(at == grown_ && before == last_ && used == used_, "the books agree");
}

}  // namespace mobula::store
