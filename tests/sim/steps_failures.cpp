// Steps about tasks that fail at first, or take too long.
#include <chrono>

#include "sim/functions.hpp"
#include "sim/steps.hpp"

namespace mobula::sim {
namespace {

using core::ErrorKind;

// Has others depend on it, on all ranks, and inside tasks.
void add_readers(Program& program, const Draw& draw, const Known& of) {
  const std::uint64_t n = program.random(5);
  for (std::uint64_t i = 0; i < n; ++i) {
    const std::uint64_t number = draw.seed + i;
    const Handle reader = program.submit(kJoin, [&](Encoder& out) { out.put(number); }, {{0, of.handle}});
    program.expect(reader, combines({of.expected}, [number](auto values) { return join(values[0], number); }));
    if (program.one_in(2)) continue;
    program.expect(program.submit(kOpen, [&](Encoder& out) { out.ref(of.handle); }),
                   combines({of.expected}, [](auto values) { return values[0]; }));
  }
}

}  // namespace

Body task_with_timeout(Program& program, Draw draw) {
  constexpr std::uint64_t kShort = 100'000;  // ns
  constexpr std::uint64_t kLong = 7'000'000;
  const bool is_late = program.one_in(2);
  draw.options.timeout = std::chrono::milliseconds(3);
  const auto arguments = [&](Encoder& out) {
    out.put(draw.seed);
    out.put(is_late ? kLong : kShort);
  };
  const Known slow{program.submit(kSlow, arguments, {}, &draw.options),
                   is_late ? fails({ErrorKind::timed_out}) : gives(leaf(draw.seed))};
  if (program.one_in(2)) co_await program.cluster.delay(0, static_cast<Time>(program.random(5'000'000)));
  add_readers(program, draw, slow);
  program.known.push_back(slow);
}

Body task_that_is_tried_again(Program& program, Draw draw) {
  constexpr std::uint64_t kRuns[] = {1, 2, 5};  // that throw
  const std::uint64_t runs = kRuns[program.random(3)];
  draw.options.retry_exceptions = !program.one_in(4);
  if (draw.options.retry_exceptions) draw.options.retries = 3;
  const bool is_good = draw.options.retry_exceptions && runs <= 3;
  const auto arguments = [&](Encoder& out) {
    out.put(draw.seed);
    out.put(runs);
  };
  const Known flaky{program.submit(kFlaky, arguments, {}, &draw.options),
                    is_good ? gives(leaf(draw.seed)) : fails({ErrorKind::standard})};
  flaky.expected->may_end_well = true;
  add_readers(program, draw, flaky);
  program.known.push_back(flaky);
  co_return;
}

// One that may be tried again depends on one that fails: that is no error of its own.
Body retry_of_an_input(Program& program, Draw draw) {
  TaskOptions options = draw.undemanding();
  options.retry_exceptions = true;
  options.retries = 3;
  const Known input = program.some_number(draw.seed);
  const Handle handle = program.submit(
      kOpen, [&](Encoder& out) { out.ref(input.handle); }, {}, &options);
  program.expect(handle, combines({input.expected}, [](auto values) { return values[0]; }));
  co_return;
}

Body fickle_task(Program& program, Draw draw) {
  const Handle handle = program.submit(
      kFickle, [&](Encoder& out) { out.put(draw.seed); }, {}, &draw.options);
  program.expect(handle, gives(leaf(draw.seed)));
  co_return;
}

}  // namespace mobula::sim
