#include "sim/functions.hpp"

#include <algorithm>
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

std::uint64_t ladder(std::uint64_t seed, std::uint64_t n) {
  std::uint64_t last = leaf(seed);
  for (std::uint64_t i = 0; i < n; ++i) last = join(last, seed + i);
  return join(seed, last);
}

std::uint64_t spray(std::uint64_t seed, std::uint64_t n) {
  std::uint64_t sum = seed;
  for (std::uint64_t i = 0; i < n; ++i) sum = join(sum, leaf(seed + i));
  return sum;
}

std::uint64_t reduced(std::vector<std::uint64_t> values) {
  while (values.size() > 1) {
    std::vector<std::uint64_t> above;
    for (std::size_t i = 0; i + 1 < values.size(); i += 2) above.push_back(join(values[i], values[i + 1]));
    if (values.size() % 2 != 0) above.push_back(values.back());
    values = std::move(above);
  }
  return values.front();
}

std::vector<std::uint64_t> leaves(std::uint64_t seed, std::uint64_t n) {
  std::vector<std::uint64_t> values;
  for (std::uint64_t i = 0; i < n; ++i) values.push_back(leaf(seed + i));
  return values;
}

Numbers join_numbers(Numbers a, const Numbers& b) {
  a.resize(std::min(a.size(), b.size()));
  for (std::size_t i = 0; i < a.size(); ++i) a[i] = join(a[i], b[i]);
  return a;
}

std::uint64_t Tally::call(std::uint64_t, std::uint64_t n, std::uint64_t value) { return called(n, value); }

std::uint64_t driven(std::uint64_t caller, std::uint64_t n) {
  std::uint64_t sum = caller;
  for (std::uint64_t i = 0; i < n; ++i) sum = join(sum, called(i, caller + i));
  return sum;
}

std::uint64_t relayed(std::uint64_t caller, std::uint64_t n) {
  std::uint64_t last = caller;
  for (std::uint64_t i = 0; i < n; ++i) last = called(i, last);
  return join(caller, last);
}

namespace {

std::uint64_t reduced_leaves(std::uint64_t, std::uint64_t) { return 0; }
Ref<std::uint64_t> reduced_ref(std::uint64_t, std::uint64_t) { return {}; }
std::uint64_t moody(std::uint64_t) { return 0; }
std::uint64_t slow(std::uint64_t, std::uint64_t) { return 0; }
std::uint64_t flaky(std::uint64_t, std::uint64_t) { return 0; }
std::vector<Ref<Numbers>> pack_refs(std::uint64_t, std::uint64_t) { return {}; }
std::uint64_t read_all(const std::vector<Ref<Numbers>>&) { return 0; }
std::uint64_t await_some(std::uint64_t, const std::vector<Ref<std::uint64_t>>&) { return 0; }
std::uint64_t fickle(std::uint64_t) { return 0; }
std::uint64_t relay(Ref<std::uint64_t>, std::uint64_t, std::uint64_t) { return 0; }
Ref<std::uint64_t> box(std::uint64_t) { return {}; }
std::uint64_t open(Ref<std::uint64_t>) { return 0; }
std::vector<std::uint64_t> large(std::uint64_t) { return {}; }
std::uint64_t first(const std::vector<std::uint64_t>&) { return 0; }
std::uint64_t broken(std::uint64_t) { return 0; }
std::uint64_t drive(Ref<std::uint64_t>, std::uint64_t, std::uint64_t) { return 0; }
std::uint64_t member(const boost::mpi::communicator&, std::uint64_t seed) { return seed; }
std::uint64_t nesting_member(const boost::mpi::communicator&, std::uint64_t seed) { return seed; }
Numbers large_member(const boost::mpi::communicator&, std::uint64_t) { return {}; }

}  // namespace

const FunctionInfo& kMember = detail::GangMember<member>::info;
const FunctionInfo& kNestingMember = detail::GangMember<nesting_member>::info;
const FunctionInfo& kLargeMember = detail::GangMember<large_member>::info;
const FunctionInfo& kMake = detail::Constructor<std::tuple<>, Tally>::info;
const FunctionInfo& kCall = detail::Method<Tally, &Tally::call>::info;
const FunctionInfo& kKeep = detail::Method<Tally, &Tally::keep>::info;
const FunctionInfo& kGive = detail::Method<Tally, &Tally::give>::info;
const FunctionInfo& kDrive = detail::Function<drive>::info;
const FunctionInfo& kLeaf = detail::Function<leaf>::info;
const FunctionInfo& kJoin = detail::Function<join>::info;
const FunctionInfo& kNode = detail::Function<node>::info;
const FunctionInfo& kFan = detail::Function<fan>::info;
const FunctionInfo& kMoody = detail::Function<moody>::info;
const FunctionInfo& kSpray = detail::Function<spray>::info;
const FunctionInfo& kReduced = detail::Function<reduced_leaves>::info;
const FunctionInfo& kGivesReduced = detail::Function<reduced_ref>::info;
const FunctionInfo& kFold = Fold::info;
const FunctionInfo& kFoldLarge = FoldLarge::info;
const FunctionInfo& kLadder = detail::Function<ladder>::info;
const FunctionInfo& kSlow = detail::Function<slow>::info;
const FunctionInfo& kFlaky = detail::Function<flaky>::info;
const FunctionInfo& kPack = detail::Function<pack_refs>::info;
const FunctionInfo& kReadAll = detail::Function<read_all>::info;
const FunctionInfo& kAwaitSome = detail::Function<await_some>::info;
const FunctionInfo& kFickle = detail::Function<fickle>::info;
const FunctionInfo& kRelay = detail::Function<relay>::info;
const FunctionInfo& kBox = detail::Function<box>::info;
const FunctionInfo& kOpen = detail::Function<open>::info;
const FunctionInfo& kLargeTask = detail::Function<large>::info;
const FunctionInfo& kFirst = detail::Function<first>::info;
const FunctionInfo& kBroken = detail::Function<broken>::info;

}  // namespace mobula::sim
