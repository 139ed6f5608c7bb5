// Identities that cross ranks. An object is an element of a span: the result of one task, or one `put` value.
#pragma once

#include <compare>
#include <cstddef>
#include <cstdint>
#include <functional>

namespace mobula::detail {

using RankId = std::uint32_t;
inline constexpr RankId kNoRank = 0xffff'ffff;
inline constexpr RankId kHeadRank = 0;

// A range of ids minted by one rank: 24 bits of rank, 40 bits of sequence. Unique for the life of the job.
struct SpanId {
  std::uint64_t value = 0;

  static constexpr SpanId make(RankId owner, std::uint64_t sequence) {
    return SpanId{(static_cast<std::uint64_t>(owner) << 40) | sequence};
  }
  // The rank that minted the id: small results are delivered to it.
  constexpr RankId owner() const { return static_cast<RankId>(value >> 40); }
  auto operator<=>(const SpanId&) const = default;
};

struct ObjectId {
  SpanId span;
  std::uint32_t index = 0;
  auto operator<=>(const ObjectId&) const = default;
};

}  // namespace mobula::detail

template <>
struct std::hash<mobula::detail::SpanId> {
  std::size_t operator()(mobula::detail::SpanId id) const noexcept {
    return static_cast<std::size_t>((id.value ^ (id.value >> 29)) * 0x9E37'79B9'7F4A'7C15ULL);
  }
};

template <>
struct std::hash<mobula::detail::ObjectId> {
  std::size_t operator()(const mobula::detail::ObjectId& id) const noexcept {
    return std::hash<mobula::detail::SpanId>{}(id.span) ^ (id.index * 0xC2B2'AE3D'27D4'EB4FULL);
  }
};
