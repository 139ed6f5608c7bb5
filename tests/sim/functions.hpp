// The functions of simulated programs. As C++ they are only declared to the runtime, but for what they give: that is
// computed beside, from the numbers in their arguments. What they do in virtual time is in bodies.hpp.
#pragma once

#include <cstdint>
#include <map>
#include <vector>

#include "mobula/mobula.hpp"
#include "sim/cluster.hpp"

namespace mobula::sim {

inline constexpr std::size_t kLarge = 900;  // numbers in a large value: more than goes inline

inline std::uint64_t leaf(std::uint64_t seed) { return mix(seed); }
inline std::uint64_t join(std::uint64_t a, std::uint64_t b) { return mix(a * 3 + b); }
// A task with children, two to four at each level.
std::uint64_t node(std::uint64_t seed, std::uint32_t depth);
inline std::uint64_t children_of(std::uint64_t seed) { return 2 + seed % 3; }
// A task with a batch of children that share one of their inputs; some have one of their own.
std::uint64_t fan(std::uint64_t seed, std::uint64_t n);
inline bool has_own_input(std::uint64_t index) { return index % 5 == 4; }
// A task with many children, submitted one by one.
std::uint64_t spray(std::uint64_t seed, std::uint64_t n);

// An actor. The calls of each caller must come in order, each once; those that fail before they begin don't come.
struct Tally {
  std::map<std::uint64_t, std::uint64_t> next;
  std::vector<Handle> kept;
  std::uint64_t call(std::uint64_t caller, std::uint64_t n, std::uint64_t value);
  void keep(Ref<std::uint64_t>) {}
  Ref<std::uint64_t> give() { return {}; }
};
inline std::uint64_t called(std::uint64_t n, std::uint64_t value) { return mix(n * 5 + value); }
std::uint64_t driven(std::uint64_t caller, std::uint64_t n);  // by so many calls of one task

// Which member of a gang fails, if one does: none, one before they meet, or one after that.
enum class Fails { none, before, after };
inline Fails gang_fails(std::uint64_t seed) {
  return seed % 8 == 0 ? Fails::before : seed % 8 == 1 ? Fails::after : Fails::none;
}
inline std::uint64_t member_gives(std::uint64_t seed, std::uint32_t place) { return mix(seed + place); }

extern const FunctionInfo& kLeaf;
extern const FunctionInfo& kJoin;
extern const FunctionInfo& kNode;
extern const FunctionInfo& kFan;
extern const FunctionInfo& kSpray;
extern const FunctionInfo& kBox;        // (seed): a Ref to leaf(seed)
extern const FunctionInfo& kOpen;       // (Ref): what is behind it
extern const FunctionInfo& kLargeTask;  // (seed): kLarge times mix(seed)
extern const FunctionInfo& kFirst;      // (numbers): the first of them
extern const FunctionInfo& kBroken;     // (seed): throws
extern const FunctionInfo& kMember;     // (seed): of a gang
extern const FunctionInfo& kMake;       // a Tally
extern const FunctionInfo& kCall;       // (caller, n, value): its n-th call
extern const FunctionInfo& kKeep;       // (Ref)
extern const FunctionInfo& kGive;       // the Ref that was kept last, or one to leaf(0)
extern const FunctionInfo& kDrive;      // (Ref to a Tally, caller, n): calls it n times, as a caller of its own

}  // namespace mobula::sim
