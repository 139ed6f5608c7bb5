// Steps about actors.
#include "sim/functions.hpp"
#include "sim/steps.hpp"

namespace mobula::sim {

Body make_actor(Program& program, Draw) {
  Cluster& cluster = program.cluster;
  ActorOptions wish;
  const bool is_pinned = program.one_in(6);
  wish.cpus = is_pinned ? 1 : 0;
  wish.restarts = static_cast<int>(program.random(3));
  wish.call_retries = wish.restarts > 0 ? static_cast<int>(program.random(3)) : 0;
  const detail::ActorBase actor = cluster.make_actor(0, kMake, wish);
  if (!is_pinned) {
    program.actors.push_back({actor, 0, {}, {}});
    co_return;
  }
  // One with a cpu of its own is used and dropped, so that the rest of the program has its cpus.
  const auto arguments = [](Encoder& out) {
    for (int i = 0; i < 3; ++i) out.put(std::uint64_t{0});
  };
  const Known call{program.call(actor, kCall, arguments), gives(called(0, 0))};
  const Body check = program.check(call);
  co_await check;
}

Body call_actor(Program& program, Draw draw) {
  if (program.actors.empty()) co_return;
  Called& actor = program.actors[program.random(program.actors.size())];
  const std::uint64_t n = 1 + program.random(20);
  for (std::uint64_t i = 0; i < n; ++i) {
    const std::uint64_t number = actor.calls++;
    Deps deps;
    if (program.one_in(6)) deps.emplace_back(2, program.submit_leaf(draw.seed + i));
    const std::uint64_t value = deps.empty() ? draw.seed + i : leaf(draw.seed + i);
    const auto arguments = [&](Encoder& out) {
      out.put(std::uint64_t{0});
      out.put(number);
      if (deps.empty()) out.put(value);
    };
    const Handle handle = program.call(actor.actor, kCall, arguments, deps);
    const Expected expected = gives(called(number, value));
    actor.pending.push_back(expected);
    if (program.one_in(3)) program.expect(handle, expected);
  }
}

Body drive_actor(Program& program, Draw draw) {
  if (program.actors.empty()) co_return;
  Called& actor = program.actors[program.random(program.actors.size())];
  const std::uint64_t n = program.random(12);
  const auto arguments = [&](Encoder& out) {
    out.ref(actor.actor.handle());
    out.put(draw.seed);
    out.put(n);
  };
  const Expected expected = gives(driven(draw.seed, n));
  actor.pending.push_back(expected);
  program.expect(program.submit(kDrive, arguments, {}, &draw.options), expected);
}

Body keep_refs(Program& program, Draw draw) {
  Cluster& cluster = program.cluster;
  if (program.actors.empty()) co_return;
  Called& actor = program.actors[program.random(program.actors.size())];
  if (program.one_in(2)) {
    const Handle handle = program.submit_leaf(draw.seed);
    program.call(actor.actor, kKeep, [&](Encoder& out) { out.ref(handle); });
    actor.kept.push_back(gives(leaf(draw.seed)));
    co_return;
  }
  Known given{program.call(actor.actor, kGive, [](Encoder&) {}), gives_refs()};
  const Expected expected = actor.kept.empty() ? gives(leaf(0)) : actor.kept.back();
  if (!actor.kept.empty()) actor.kept.pop_back();
  Handle boxed;
  const Body open = program.open_ref(given, &boxed);
  co_await open;
  given = {};
  // An actor that was made again has forgotten what it kept.
  if (boxed && cluster.outcome().losses == 0) program.expect(boxed, expected);
}

Body end_actor(Program& program, Draw) {
  if (program.actors.empty()) co_return;
  const auto chosen = program.actors.begin() + static_cast<std::ptrdiff_t>(program.random(program.actors.size()));
  if (program.one_in(2)) {
    program.actors.erase(chosen);
    co_return;
  }
  const detail::ActorBase actor = chosen->actor;
  // They may have ended before.
  for (const Expected& call : chosen->pending) may_fail(*call, {core::ErrorKind::actor_died});
  program.actors.erase(chosen);
  core::Answer answer;
  program.cluster.awaits("an actor to be killed");
  const Body ask = program.cluster.ask(0, core::Question::kill, actor.handle().id(), {}, &answer);
  co_await ask;
  const Known late{program.call(actor, kGive, [](Encoder&) {}), fails({core::ErrorKind::actor_died})};
  const Body check = program.check(late);
  co_await check;
}

}  // namespace mobula::sim
