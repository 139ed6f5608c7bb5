#include "worker/sent.hpp"

#include <algorithm>
#include <iterator>
#include <utility>

namespace mobula::worker {

using core::Range;
using detail::ObjectId;

void Sent::add(const Range& range, std::size_t bytes) {
  constexpr std::size_t kBooks = 1024;  // bytes that a stretch takes at the head beside its arguments
  const std::uint32_t n = range.end - range.begin;
  const std::size_t weight = (bytes + kBooks + n - 1) / n;
  stretches_[{range.span, range.begin}] = {range.end, weight};
  tasks_ += n;
  bytes_ += n * weight;
}

void Sent::ended(const Range& range) {
  if (stretches_.empty()) return;
  auto next = stretches_.upper_bound({range.span, range.begin});
  if (next != stretches_.begin()) --next;
  while (next != stretches_.end() && next->first < ObjectId{range.span, range.end}) {
    const auto [first, stretch] = *next;
    const std::uint32_t from = std::max(first.index, range.begin);
    const std::uint32_t to = std::min(stretch.end, range.end);
    if (first.span != range.span || from >= to) {
      ++next;
      continue;
    }
    const std::uint32_t n = to - from;
    tasks_ -= n;
    bytes_ -= n * stretch.weight;
    ends_ += n;
    if (to != stretch.end) stretches_[{range.span, to}] = stretch;
    if (from != first.index) {
      next->second.end = from;
      ++next;
    } else {
      next = stretches_.erase(next);
    }
  }
}

}  // namespace mobula::worker
