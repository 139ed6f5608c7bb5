// Looks at every state of the model that can be reached, breadth first, so that the trace to what is wrong is short.
#pragma once

#include <cstdint>
#include <string>

#include "model/model.hpp"

namespace mobula::model {

// wrong: an invariant does not hold. deadlock: nothing can happen, and not all is done. leak: nothing can happen, all
// is done, and something is not free. livelock: things happen for ever, and there is no way to where all is done.
enum class Verdict : std::uint8_t { good, wrong, deadlock, leak, livelock };

struct Findings {
  Verdict verdict = Verdict::good;
  std::string text;  // of what is not good: the program, the steps to it, and where they lead
  std::size_t states = 0;
  std::size_t steps = 0;
  std::size_t starved = 0;  // states in which actors hold for ever what tasks need: the program's own deadlock
};

// `invariants`: whether they are asked of each state; otherwise a fault shows by what comes of it.
Findings explore(Model& model, const Plan& plan, bool invariants = true);

}  // namespace mobula::model
