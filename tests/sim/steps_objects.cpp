// Steps about objects that are there already.
#include "sim/steps.hpp"

namespace mobula::sim {

// Whether it was cancelled is told. What hangs on it has to follow.
Body cancel_one(Program& program, Draw) {
  if (program.known.empty()) co_return;
  const Known chosen = program.pick();
  const Body cancel = program.cancel(chosen);
  co_await cancel;
}

Body drop_some(Program& program, Draw) {
  auto& known = program.known;
  for (std::size_t i = 0; i < known.size();) {
    if (program.one_in(3)) {
      known[i] = known.back();
      known.pop_back();
    } else {
      ++i;
    }
  }
  co_return;
}

Body await_one(Program& program, Draw) {
  if (program.known.empty()) co_return;
  const Known chosen = program.pick();
  const Body check = program.check(chosen);
  co_await check;
}

}  // namespace mobula::sim
