// A set of small integers that finds its next member in constant time, for any size that a job has.
#pragma once

#include <bit>
#include <cstdint>
#include <optional>
#include <vector>

namespace mobula::sched {

class BitSet {
 public:
  void resize(std::uint32_t n) {
    size_ = n;
    levels_.clear();
    do {
      n = (n + 63) / 64;
      levels_.emplace_back(n, 0);
    } while (n > 1);
  }
  std::uint32_t size() const { return size_; }
  bool empty() const { return levels_.empty() || levels_.back()[0] == 0; }
  bool test(std::uint32_t i) const { return i < size_ && (levels_[0][i / 64] >> (i % 64) & 1) != 0; }

  void set(std::uint32_t i, bool on = true) {
    if (on == test(i)) return;
    count_ += on ? 1 : -1;
    for (auto& level : levels_) {
      std::uint64_t& word = level[i / 64];
      const bool was_empty = word == 0;
      word ^= std::uint64_t{1} << (i % 64);
      if (on ? !was_empty : word != 0) return;
      i /= 64;
    }
  }
  void reset(std::uint32_t i) { set(i, false); }
  std::uint32_t count() const { return static_cast<std::uint32_t>(count_); }

  // The first member at or after i, else the first of all.
  std::optional<std::uint32_t> next(std::uint32_t i) const {
    if (empty()) return std::nullopt;
    if (const auto found = at_or_after(0, i < size_ ? i : 0)) return found;
    return at_or_after(0, 0);
  }

 private:
  std::optional<std::uint32_t> at_or_after(std::size_t level, std::uint32_t i) const {
    if (level == levels_.size() || i / 64 >= levels_[level].size()) return std::nullopt;
    const std::uint64_t word = levels_[level][i / 64] & (~std::uint64_t{0} << (i % 64));
    if (word != 0) return i / 64 * 64 + static_cast<std::uint32_t>(std::countr_zero(word));
    const auto above = at_or_after(level + 1, i / 64 + 1);
    if (!above) return std::nullopt;
    return *above * 64 + static_cast<std::uint32_t>(std::countr_zero(levels_[level][*above]));
  }

  std::uint32_t size_ = 0;
  std::int64_t count_ = 0;
  std::vector<std::vector<std::uint64_t>> levels_;
};

}  // namespace mobula::sched
