// The functions of simulated programs. As C++ they are only declared to the runtime, but for what they give: that is
// computed beside, from the numbers in their arguments. What they do in virtual time is in bodies.hpp.
#pragma once

#include <cstdint>
#include <map>
#include <vector>

#include "mobula/mobula.hpp"
#include "sim/cluster.hpp"

namespace mobula::sim {

// Numbers in a large value: more than goes inline, and some more than goes into a message.
inline constexpr std::size_t kLarge = 900;
inline constexpr std::size_t kVeryLarge = 3'500;
inline std::size_t size_of_large(std::uint64_t seed) { return seed % 4 == 0 ? kVeryLarge : kLarge; }

inline std::uint64_t leaf(std::uint64_t seed) { return mix(seed); }
inline std::uint64_t join(std::uint64_t a, std::uint64_t b) { return mix(a * 3 + b); }
// A task with children, two to four at each level.
std::uint64_t node(std::uint64_t seed, std::uint32_t depth);
inline std::uint64_t children_of(std::uint64_t seed) { return 2 + seed % 3; }
// A task with a batch of children that share one of their inputs; some have one of their own.
std::uint64_t fan(std::uint64_t seed, std::uint64_t n);
inline bool has_own_input(std::uint64_t index) { return index % 5 == 4; }
// A task with a chain of children, each of which takes the one before it.
std::uint64_t ladder(std::uint64_t seed, std::uint64_t n);
// A task with many children, submitted one by one.
std::uint64_t spray(std::uint64_t seed, std::uint64_t n);

// What `reduce` gives, which says where its brackets are.
std::uint64_t reduced(std::vector<std::uint64_t> values);
std::vector<std::uint64_t> leaves(std::uint64_t seed, std::uint64_t n);
// The same of large values, by each number.
using Numbers = std::vector<std::uint64_t>;
Numbers join_numbers(Numbers a, const Numbers& b);
using Fold = detail::Fold<std::uint64_t, join>;
using FoldLarge = detail::Fold<Numbers, join_numbers>;

// An actor. The calls of each caller must come in order, each once; those that fail before they begin don't come.
struct Tally {
  std::map<std::uint64_t, std::uint64_t> next;
  std::vector<Handle> kept;
  std::uint64_t call(std::uint64_t caller, std::uint64_t n, std::uint64_t value);
  void keep(Ref<std::uint64_t>) {}
  Ref<std::uint64_t> give() { return {}; }
};
inline std::uint64_t called(std::uint64_t n, std::uint64_t value) { return mix(n * 5 + value); }
std::uint64_t driven(std::uint64_t caller, std::uint64_t n);   // by so many calls of one task
std::uint64_t relayed(std::uint64_t caller, std::uint64_t n);  // the same, each with the result of the one before

// Which member of a gang fails, if one does: none, one before they meet, or one after that, one in the first run only,
// or one that takes long.
enum class Fails { none, before, after, at_first, late };
inline Fails gang_fails(std::uint64_t seed) {
  constexpr Fails kinds[] = {Fails::before, Fails::after, Fails::at_first, Fails::late};
  return seed % 10 < 4 ? kinds[seed % 10] : Fails::none;
}
inline std::uint64_t member_gives(std::uint64_t seed, std::uint32_t place) { return mix(seed + place); }

extern const FunctionInfo& kLeaf;
extern const FunctionInfo& kJoin;
extern const FunctionInfo& kNode;
extern const FunctionInfo& kFan;
extern const FunctionInfo& kLadder;
extern const FunctionInfo& kSpray;
extern const FunctionInfo& kMoody;         // (seed): leaf(seed); some wait for a child meanwhile, of most batches a few
extern const FunctionInfo& kBox;           // (seed): a Ref to leaf(seed)
extern const FunctionInfo& kOpen;          // (Ref): what is behind it
extern const FunctionInfo& kLargeTask;     // (seed): mix(seed), many times
extern const FunctionInfo& kFirst;         // (numbers): the first of them
extern const FunctionInfo& kBroken;        // (seed): throws
extern const FunctionInfo& kSlow;          // (seed, ns): leaf(seed), after that time
extern const FunctionInfo& kFlaky;         // (seed, runs): leaf(seed), but throws in so many of its first runs
extern const FunctionInfo& kPack;          // (seed, n): a vector of Refs to large values, each of mix(seed + i)
extern const FunctionInfo& kReadAll;       // (Refs to large values): the first numbers of all, joined
extern const FunctionInfo& kAwaitSome;     // (count, Refs to numbers): waits for so many, and then joins all
extern const FunctionInfo& kFickle;        // (seed): leaf(seed); cancels a child of its own meanwhile
extern const FunctionInfo& kReduced;       // (seed, n): the leaves of n seeds, reduced
extern const FunctionInfo& kGivesReduced;  // (seed, n): a Ref to that
extern const FunctionInfo& kFold;
extern const FunctionInfo& kFoldLarge;
extern const FunctionInfo& kMember;         // (seed): of a gang
extern const FunctionInfo& kNestingMember;  // (seed): the same, and waits for children before it meets the others
extern const FunctionInfo& kLargeMember;    // (seed): the same number, many times
extern const FunctionInfo& kMake;           // a Tally
extern const FunctionInfo& kCall;           // (caller, n, value): its n-th call
extern const FunctionInfo& kKeep;           // (Ref)
extern const FunctionInfo& kGive;           // the Ref that was kept last, or one to leaf(0)
extern const FunctionInfo& kRelay;  // (Ref to a Tally, caller, n): the same, each call with the result of the last
extern const FunctionInfo& kDrive;  // (Ref to a Tally, caller, n): calls it n times, as a caller of its own

}  // namespace mobula::sim
