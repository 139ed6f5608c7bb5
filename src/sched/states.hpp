// The states of a task, as the head sees it, and which may follow which. Every count of the ledger is a sum over these
// states, and what holds capacity follows from the state alone:
//
//   state     where    inputs      holds
//   waiting   head     missing     nothing
//   queued    head     all there   nothing
//   ahead     a rank   missing     nothing: only its number is counted, so that not too many are sent
//   assigned  a rank   all there   what it asks for: it runs there, or could as soon as it has a slot
//   (ended)   nowhere              what it made, if that is an actor
//
// A task that runs and waits for others stays assigned; its rank tells what it lends meanwhile. So what can't run yet
// keeps nothing out that can, wherever it lies.
#pragma once

#include <array>
#include <cstdint>

namespace mobula::sched {

enum class State : std::uint8_t { waiting, queued, ahead, assigned };
inline constexpr std::size_t kStates = 4;

// A task that leaves a rank or a queue is waiting, until it is looked at anew. It ends in any state.
constexpr bool may_follow(State from, State to) {
  constexpr std::array<std::array<bool, kStates>, kStates> kMay{{
      // to: waiting, queued, ahead, assigned
      {true, true, true, true},     // waiting: it is set up anew; its inputs came; a rank has it
      {true, false, false, false},  // queued: it is taken out, to be given to a rank or to wait
      {true, false, false, true},   // ahead: it was given back or lost; its inputs came
      {true, false, false, false},  // assigned: it was given back or lost, or is to run again
  }};
  return kMay[static_cast<std::size_t>(from)][static_cast<std::size_t>(to)];
}

}  // namespace mobula::sched
