// Steps about gangs and placement groups.
#include <algorithm>

#include "sim/functions.hpp"
#include "sim/steps.hpp"

namespace mobula::sim {

// Tasks in bundles.
Body group(Program& program, Draw draw) {
  Cluster& cluster = program.cluster;
  core::WireOptions bundles;
  const std::uint64_t n = 1 + program.random(3);
  for (std::uint64_t i = 0; i < n; ++i) bundles.demands.push_back({program.one_in(2) ? 0.5 : 1.0, 0, 0, {}});
  bundles.place_index = static_cast<std::uint32_t>(program.random(2));
  const Handle group = program.worker().mint_actor();
  core::Answer answer;
  cluster.awaits("a placement group");
  const Body ask = cluster.ask(0, core::Question::bundles, group.id(), bundles, &answer);
  co_await ask;
  if (!answer.yes) co_return;  // more than the cluster has
  const std::uint64_t tasks = program.random(8);
  for (std::uint64_t i = 0; i < tasks; ++i) {
    TaskOptions wish;
    wish.retries = 1000;
    wish.placement = {Placement::Kind::bundle, static_cast<std::uint32_t>(program.random(n)), group};
    wish.cpus = bundles.demands[wish.placement.index].cpus;
    const Handle handle = program.submit_leaf(draw.seed + i, &wish);
    if (program.one_in(2)) program.expect(handle, gives(leaf(draw.seed + i)));
  }
  if (program.one_in(3)) {
    const Body wait = program.wait_for(group, "a placement group to be ready");
    co_await wait;
  }
}

Body gang(Program& program, Draw draw) {
  Cluster& cluster = program.cluster;
  const auto ranks = static_cast<std::uint32_t>(cluster.ranks().size());
  const auto k = static_cast<std::uint32_t>(1 + program.random(std::min(std::max(ranks, 2U) - 1, 12U)));
  TaskOptions wish;
  wish.priority = draw.options.priority;
  if (k <= 2 && program.one_in(2)) wish.resources["y"] = 1;
  wish.placement = program.one_in(3) ? pack : program.one_in(2) ? spread : any;
  Deps deps;
  if (program.one_in(4)) deps.emplace_back(0, program.submit_leaf(draw.seed));
  const auto arguments = [&](Encoder& out) {
    if (deps.empty()) out.put(draw.seed);
  };
  const std::uint64_t given = deps.empty() ? draw.seed : leaf(draw.seed);
  const detail::BatchHandle batch = cluster.submit_gang(0, k, kMember, arguments, deps, wish);
  const bool is_broken = gang_fails(given) != Fails::none;
  const Expected whole = is_broken ? fails({core::ErrorKind::standard}) : gives(0);
  for (std::uint32_t place = 0; place < k; ++place) {
    if (!program.one_in(3)) continue;
    const Expected expected = gives(member_gives(given, place), {whole});
    expected->whole = whole;
    program.expect(batch.element(place), expected);
  }
  co_return;
}

}  // namespace mobula::sim
