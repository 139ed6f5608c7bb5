// Steps that submit many tasks at once.
#include "sim/functions.hpp"
#include "sim/steps.hpp"

namespace mobula::sim {
namespace {

// What the items of a batch have, and what each must become.
struct Plan {
  Cluster::Items items;
  std::vector<Expected> expected;
};

// Joins of something that all share, which may be late or fail, with a number, or with something of the item's own.
Plan plan_joins(Program& program, const Draw& draw, std::uint32_t n) {
  const Known shared = program.some_number(draw.seed);
  const std::uint64_t has_own = 2 + program.random(20);  // one in so many
  std::vector<Known> own(n);
  Plan plan{{kJoin, n, {{0, shared.handle}}}, {}};
  const auto combine = [](auto values) { return join(values[0], values[1]); };
  for (std::uint32_t i = 0; i < n; ++i) {
    own[i].expected = gives(draw.seed + i);
    if (program.one_in(has_own)) own[i] = program.some_number(draw.seed + i);
    plan.expected.push_back(combines({shared.expected, own[i].expected}, combine));
  }
  plan.items.item = [own, seed = draw.seed](std::uint32_t i, Encoder& out) {
    if (own[i].handle) return Deps{{1, own[i].handle}};
    out.put(seed + i);
    return Deps{};
  };
  return plan;
}

Plan plan_leaves(Program& program, const Draw& draw, std::uint32_t n) {
  Plan plan{{program.one_in(2) ? kLeaf : kMoody, n}, {}};
  for (std::uint32_t i = 0; i < n; ++i) plan.expected.push_back(gives(leaf(draw.seed + i)));
  plan.items.item = [seed = draw.seed](std::uint32_t i, Encoder& out) {
    out.put(seed + i);
    return Deps{};
  };
  return plan;
}

}  // namespace

Body batch(Program& program, Draw draw) {
  Cluster& cluster = program.cluster;
  const auto n = static_cast<std::uint32_t>(1 + program.random(program.one_in(16) ? 1000 : 60));
  Plan plan = program.one_in(3) ? plan_leaves(program, draw, n) : plan_joins(program, draw, n);
  if (program.one_in(2)) plan.items.options = &draw.options;
  if (program.one_in(2)) plan.items.most = static_cast<std::uint32_t>(1 + program.random(20));
  const detail::BatchHandle batch = cluster.submit_batch(0, false, plan.items);
  plan.items.item = nullptr;  // it holds inputs
  plan.items.shared.clear();
  for (int kept = 0; kept < 12; ++kept) {
    const auto i = static_cast<std::uint32_t>(program.random(n));
    program.expect(batch.element(i), plan.expected[i]);
  }
  while (program.one_in(2)) {
    if (program.one_in(2)) co_await cluster.delay(0, static_cast<Time>(program.random(100'000)));
    const auto i = static_cast<std::uint32_t>(program.random(n));
    const Known element{batch.element(i), plan.expected[i]};
    const Body cancel = program.cancel(element);
    co_await cancel;
  }
  if (!program.one_in(4)) co_return;
  cluster.awaits("all of a batch");
  co_await cluster.until(0, [&batch, n] { return batch.record()->ready_count.load() == n; });
  for (std::uint32_t i = 0; i < n; ++i) {
    const Known element{batch.element(i), plan.expected[i]};
    const Body check = program.check(element);
    co_await check;
  }
}

Body task_with_batch(Program& program, Draw draw) {
  const std::uint64_t n = program.random(program.one_in(16) ? 300 : 30);
  struct Kind {
    const FunctionInfo& function;
    std::uint64_t (*gives)(std::uint64_t, std::uint64_t);
  };
  const Kind kinds[] = {{kFan, fan}, {kSpray, spray}, {kLadder, ladder}};
  const Kind& kind = kinds[program.random(3)];
  const auto arguments = [&](Encoder& out) {
    out.put(draw.seed);
    out.put(n);
  };
  program.expect(program.submit(kind.function, arguments, {}, &draw.options), gives(kind.gives(draw.seed, n)));
  co_return;
}

}  // namespace mobula::sim
