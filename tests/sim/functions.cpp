#include "sim/functions.hpp"

#include <stdexcept>
#include <string>

namespace mobula::sim {

std::uint64_t node(std::uint64_t seed, std::uint32_t depth) {
  if (depth == 0) return leaf(seed);
  std::uint64_t sum = seed;
  for (std::uint64_t i = 0; i < children_of(seed); ++i) sum = join(sum, node(mix(seed + i), depth - 1));
  return sum;
}

std::uint64_t fan(std::uint64_t seed, std::uint64_t n) {
  std::uint64_t sum = seed;
  for (std::uint64_t i = 0; i < n; ++i) {
    sum = join(sum, join(leaf(seed), has_own_input(i) ? leaf(seed + i) : seed + i));
  }
  return sum;
}

std::uint64_t spray(std::uint64_t seed, std::uint64_t n) {
  std::uint64_t sum = seed;
  for (std::uint64_t i = 0; i < n; ++i) sum = join(sum, leaf(seed + i));
  return sum;
}

std::uint64_t Tally::call(std::uint64_t, std::uint64_t n, std::uint64_t value) { return called(n, value); }

std::uint64_t driven(std::uint64_t caller, std::uint64_t n) {
  std::uint64_t sum = caller;
  for (std::uint64_t i = 0; i < n; ++i) sum = join(sum, called(i, caller + i));
  return sum;
}

namespace {

Ref<std::uint64_t> box(std::uint64_t) { return {}; }
std::uint64_t open(Ref<std::uint64_t>) { return 0; }
std::vector<std::uint64_t> large(std::uint64_t) { return {}; }
std::uint64_t first(const std::vector<std::uint64_t>&) { return 0; }
std::uint64_t broken(std::uint64_t) { return 0; }
std::uint64_t drive(Ref<std::uint64_t>, std::uint64_t, std::uint64_t) { return 0; }
std::uint64_t member(const boost::mpi::communicator&, std::uint64_t seed) { return seed; }

}  // namespace

const FunctionInfo& kMember = detail::GangMember<member>::info;
const FunctionInfo& kMake = detail::Constructor<std::tuple<>, Tally>::info;
const FunctionInfo& kCall = detail::Method<Tally, &Tally::call>::info;
const FunctionInfo& kKeep = detail::Method<Tally, &Tally::keep>::info;
const FunctionInfo& kGive = detail::Method<Tally, &Tally::give>::info;
const FunctionInfo& kDrive = detail::Function<drive>::info;
const FunctionInfo& kLeaf = detail::Function<leaf>::info;
const FunctionInfo& kJoin = detail::Function<join>::info;
const FunctionInfo& kNode = detail::Function<node>::info;
const FunctionInfo& kFan = detail::Function<fan>::info;
const FunctionInfo& kSpray = detail::Function<spray>::info;
const FunctionInfo& kBox = detail::Function<box>::info;
const FunctionInfo& kOpen = detail::Function<open>::info;
const FunctionInfo& kLargeTask = detail::Function<large>::info;
const FunctionInfo& kFirst = detail::Function<first>::info;
const FunctionInfo& kBroken = detail::Function<broken>::info;

}  // namespace mobula::sim
