// Steps about objects that are there already.
#include "sim/steps.hpp"

namespace mobula::sim {

// Whether it was cancelled is told.
Body cancel_one(Program& program, Draw) {
  if (program.known.empty()) co_return;
  const Known& chosen = program.pick();
  program.worker().make_known(chosen.handle);
  core::Answer answer;
  program.cluster.awaits("an answer");
  const Body ask = program.cluster.ask(0, core::Question::cancel, chosen.handle.id(), {}, &answer);
  co_await ask;
  if (!answer.yes) co_return;
  const Body wait = program.wait_for(chosen.handle);
  co_await wait;
  program.cluster.require(!program.cluster.seen(chosen.handle, 0).value, "a cancelled task has no value");
  program.known.clear();
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
