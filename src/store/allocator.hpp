// Room within a range of memory: offsets only, the books are in private memory, nothing here touches the range.
//
// Two-level segregated fit (M. Masmano, I. Ripoll, A. Crespo, J. Real, "TLSF: a new dynamic memory allocator for
// real-time systems", ECRTS 2004): free blocks in lists by size class, found by two bitmaps; good fit, constant time,
// neighbours are merged at once. The range grows from its start as it is needed, so freed memory, which is warm, is
// used before fresh pages are.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <optional>
#include <unordered_map>

namespace mobula::store {

class Allocator {
 public:
  static constexpr std::size_t kAlign = 64;

  explicit Allocator(std::size_t capacity) : capacity_(capacity / kAlign * kAlign) { heads_.fill(kNone); }

  // The offset of n bytes, a multiple of kAlign; none if no free stretch is large enough within what has been grown.
  std::optional<std::size_t> allocate(std::size_t n);
  void free(std::size_t offset);
  // Adds n bytes at the end of the range, or what is left of it; returns how many.
  std::size_t grow(std::size_t n);
  // Bytes by which the range would have to grow for n more, given what is free at its end.
  std::size_t shortfall(std::size_t n) const;

  std::size_t capacity() const { return capacity_; }
  std::size_t grown() const { return grown_; }  // bytes that have been in use at some time
  std::size_t used() const { return used_; }
  std::size_t largest_free() const;  // the most that one allocation could get, with growing
  std::size_t blocks() const { return blocks_.size(); }
  void check_invariants() const;

 private:
  static constexpr std::size_t kNone = ~std::size_t{0};
  static constexpr unsigned kSteps = 16;   // classes for each power of two
  static constexpr unsigned kLevels = 48;  // powers of two, from kAlign
  // A stretch of the range, in use or free; keyed by offset.
  struct Block {
    std::size_t size;
    std::size_t before;  // offset of the block that ends where this starts, or kNone
    bool free;
    std::size_t next = kNone;  // in the list of its class
    std::size_t previous = kNone;
  };
  static std::size_t round_up(std::size_t n) { return n == 0 ? kAlign : (n + kAlign - 1) / kAlign * kAlign; }
  static unsigned class_of(std::size_t size);
  static unsigned class_for(std::size_t size);  // the first whose blocks all have at least `size`
  std::optional<unsigned> find_class(unsigned from) const;
  void list(std::size_t offset, Block& block);
  void unlist(Block& block);

  std::size_t capacity_;
  std::size_t grown_ = 0;
  std::size_t used_ = 0;
  std::size_t last_ = kNone;  // the block at the end of what has been grown
  std::unordered_map<std::size_t, Block> blocks_;
  std::array<std::size_t, std::size_t{kLevels} * kSteps> heads_{};
  std::array<std::uint16_t, kLevels> steps_{};  // bit i: class i of the level has blocks
  std::uint64_t levels_ = 0;                    // bit i: level i has any
};

}  // namespace mobula::store
