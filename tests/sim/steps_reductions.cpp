// Steps that reduce.
#include "sim/functions.hpp"
#include "sim/steps.hpp"

namespace mobula::sim {
namespace {

bool is_short(const Program& program) { return program.cluster.options().steps < 20; }

Expected reduction_of(std::vector<Expected> inputs) {
  return combines(std::move(inputs), [](auto values) { return reduced({values.begin(), values.end()}); });
}

}  // namespace

// Of the driver's, and of tasks.
Body reduce_leaves(Program& program, Draw draw) {
  const std::uint64_t n = 2 + program.random(is_short(program) ? 20 : program.one_in(16) ? 2000 : 100);
  const auto arguments = [&](Encoder& out) {
    out.put(draw.seed);
    out.put(n);
  };
  const Handle handle = program.one_in(2) ? program.cluster.reduce_leaves(0, false, draw.seed, n)
                                          : program.submit(kReduced, arguments, {}, &draw.options);
  program.expect(handle, gives(reduced(leaves(draw.seed, n))));
  if (program.one_in(3)) program.cluster.reduce_leaves(0, false, draw.seed, n);  // nobody wants it
  co_return;
}

// Of values of any kind, some of which fail.
Body reduce_any(Program& program, Draw draw) {
  if (program.known.size() < 2) co_return;
  std::vector<Handle> handles;
  std::vector<Expected> inputs;
  for (std::uint64_t n = 2 + program.random(100); n != 0; --n) {
    const Known& of = program.pick();
    if (of.expected->is_large) continue;
    handles.push_back(of.handle);
    inputs.push_back(of.expected);
  }
  if (handles.size() < 2) co_return;
  program.expect(program.worker().reduce(kFold, {{}, handles}, &draw.options, false), reduction_of(std::move(inputs)));
}

// Of large values, which stay where they are.
Body reduce_large(Program& program, Draw draw) {
  std::vector<Handle> handles;
  std::vector<std::uint64_t> values;
  for (std::uint64_t n = 2 + program.random(is_short(program) ? 4 : 12); n != 0; --n) {
    handles.push_back(program.submit(
        kLargeTask, [&](Encoder& out) { out.put(draw.seed + n); }, {}, &draw.options));
    values.push_back(mix(draw.seed + n));
  }
  const Handle sum = program.worker().reduce(kFoldLarge, {{}, std::move(handles)}, &draw.options, false);
  program.expect(program.submit(kFirst, [](Encoder&) {}, {{0, sum}}), gives(reduced(std::move(values))));
  co_return;
}

// Of a task that gives it on, and may have ended.
Body reduction_that_is_given_on(Program& program, Draw draw) {
  const std::uint64_t n = 2 + program.random(is_short(program) ? 20 : 100);
  const auto arguments = [&](Encoder& out) {
    out.put(draw.seed);
    out.put(n);
  };
  const Handle inner = program.submit(kGivesReduced, arguments, {}, &draw.options);
  program.expect(program.submit(kOpen, [](Encoder&) {}, {{0, inner}}), gives(reduced(leaves(draw.seed, n))));
  co_return;
}

}  // namespace mobula::sim
