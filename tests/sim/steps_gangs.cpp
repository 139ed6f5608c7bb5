// Steps about gangs and placement groups.
#include <algorithm>
#include <chrono>

#include "sim/functions.hpp"
#include "sim/steps.hpp"

namespace mobula::sim {

namespace {

// How the gang ends, if it is not cancelled. Members wait for each other: if they have a timeout, that may always pass.
Expected end_of_gang(std::uint64_t seed, const TaskOptions& options) {
  using core::ErrorKind;
  const bool is_timed = !options.timeout.is_none();
  const Fails how = gang_fails(seed);
  const bool is_late = how == Fails::late && is_timed;
  const bool is_good = how == Fails::none || (how == Fails::at_first && options.retry_exceptions);
  Expected end = gives(0);
  if (is_late) {
    end = fails({ErrorKind::timed_out});
  } else if (!is_good && how != Fails::late) {
    end = fails({ErrorKind::standard});
    end->may_end_well = how == Fails::at_first;
  }
  if (is_timed) end->errors |= {ErrorKind::timed_out};
  return end;
}

core::WireOptions some_bundles(Program& program) {
  core::WireOptions bundles;
  const std::uint64_t n = 1 + program.random(3);
  for (std::uint64_t i = 0; i < n; ++i) {
    bundles.demands.push_back({program.one_in(2) ? 0.5 : 1.0, 0, 0, {}});
    if (program.one_in(8)) bundles.demands.back().resources["y"] = 1;
  }
  const bool is_strict = program.one_in(3);
  bundles.place_index = static_cast<std::uint32_t>(program.random(2)) + (is_strict ? 2 : 0);
  return bundles;
}

}  // namespace

// Tasks in bundles. The group is dropped while they are queued and run.
Body group(Program& program, Draw draw) {
  Cluster& cluster = program.cluster;
  const core::WireOptions bundles = some_bundles(program);
  const Handle group = program.worker().mint_actor();
  core::Answer answer;
  cluster.awaits("a placement group");
  const Body ask = cluster.ask(0, core::Question::bundles, group.id(), bundles, &answer);
  co_await ask;
  if (!answer.yes) co_return;  // more than the cluster has
  constexpr std::uint64_t kChildren = 3;
  const std::uint64_t tasks = program.random(8);
  for (std::uint64_t i = 0; i < tasks; ++i) {
    TaskOptions wish;
    wish.retries = 1000;
    wish.placement = {Placement::Kind::bundle, static_cast<std::uint32_t>(program.random(bundles.demands.size())),
                      group};
    wish.cpus = bundles.demands[wish.placement.index].cpus;
    if (program.one_in(3)) wish.cpus /= 2;
    // While it waits it lends what a child needs, unless its rank takes nothing any more.
    const bool nests = wish.cpus >= 1 && program.cluster.options().leaves == 0 && program.one_in(4);
    const auto arguments = [&](Encoder& out) {
      out.put(draw.seed + i);
      if (nests) out.put(kChildren);
    };
    const Handle handle = program.submit(nests ? kFan : kLeaf, arguments, {}, &wish);
    const std::uint64_t value = nests ? fan(draw.seed + i, kChildren) : leaf(draw.seed + i);
    if (program.one_in(2)) program.expect(handle, gives(value));
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
  if (program.one_in(2)) wish.timeout = std::chrono::milliseconds(5);
  wish.retry_exceptions = program.one_in(2);
  Deps deps;
  if (program.one_in(4)) deps.emplace_back(0, program.submit_leaf(draw.seed));
  const auto arguments = [&](Encoder& out) {
    if (deps.empty()) out.put(draw.seed);
  };
  const std::uint64_t given = deps.empty() ? draw.seed : leaf(draw.seed);
  const bool is_large = draw.seed % 3 == 0;
  // On a rank that leaves nothing begins any more, and the others' cpus may be those of members that wait for a child
  // of its member.
  const bool nests = cluster.options().leaves == 0 && program.one_in(2);
  const FunctionInfo& function = is_large ? kLargeMember : nests ? kNestingMember : kMember;
  const detail::BatchHandle batch = cluster.submit_gang(0, false, k, function, arguments, deps, wish);
  const Expected whole = end_of_gang(given, wish);
  for (std::uint32_t place = 0; place < k; ++place) {
    if (!program.one_in(3)) continue;
    const std::uint64_t value = member_gives(given, place);
    const Expected expected = gives(value, {whole});
    if (is_large) {
      program.expect(program.submit(kFirst, [](Encoder&) {}, {{0, batch.element(place)}}), gives(value, {expected}));
      continue;
    }
    expected->whole = whole;
    program.expect(batch.element(place), expected);
  }
  co_return;
}

}  // namespace mobula::sim
