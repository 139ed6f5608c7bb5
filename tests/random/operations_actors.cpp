// Actors, and calls on them.
#include "random/interpreter.hpp"

namespace random_programs {
namespace {

using mobula::actor;
using mobula::Actor;
using mobula::ActorOptions;
using mobula::Ref;
using mobula::remote;

TallyRules rules(const Interpreter& here, bool in_order = true) {
  return {here.settings().driver, in_order && !here.settings().ranks_are_lost};
}

void keep(Interpreter& here, Actor<Tally> made, bool may_die = false) {
  here.tallies.push_back(std::make_shared<KnownTally>(KnownTally{std::move(made), true, may_die}));
  if (here.tallies.size() > 8) here.tallies.erase(here.tallies.begin());
}

// Of a call that gives the digest: with what may become of its actor.
NodePtr result(const Interpreter& here, const KnownTally& tally, Outcome expected, std::vector<NodePtr> inputs = {}) {
  if (tally.is_dead) {
    // Which of the errors comes first is open.
    Outcomes own{{Kind::actor_died, 0}};
    for (const NodePtr& input : inputs) {
      for (const Outcome& outcome : outcomes_of(*input)) {
        if (outcome.kind != Kind::value) add_to(own, outcome);
      }
    }
    return here.node(own);
  }
  NodePtr node = here.node({expected}, std::move(inputs));
  if (!tally.may_die) return node;
  // The actor's end may come before an input, or after it.
  Outcomes own = outcomes_of(*node);
  add_to(own, {Kind::actor_died, 0});
  NodePtr either = here.node(own);
  return either;
}

// ---- actors

void make_actor(Interpreter& here, Draw& draw, const Step&) {
  ActorOptions options;
  if (draw.one_in(4)) options.placement = mobula::spread;
  if (draw.one_in(4)) {
    options.restarts = 3;
    options.call_retries = 3;
    options.checkpoint_every = 1 + static_cast<std::uint32_t>(draw.below(4));
  }
  keep(here, actor<Tally>.with(options)(rules(here)));
}

void make_plain_actor(Interpreter& here, Draw&, const Step&) { keep(here, actor<Tally>(rules(here))); }

void make_concurrent_actor(Interpreter& here, Draw& draw, const Step&) {
  const auto concurrency = 2 + static_cast<std::uint32_t>(draw.below(4));
  keep(here, actor<Tally>.with({.concurrency = concurrency})(rules(here, false)));
}

void make_mortal_actor(Interpreter& here, Draw&, const Step&) { keep(here, actor<Tally>(rules(here)), true); }

void make_actor_with_cpus(Interpreter& here, Draw& draw, const Step&) {
  if (here.holders == 0) return;
  --here.holders;
  const bool may_die = draw.one_in(3);
  keep(here, actor<Tally>.with({.cpus = draw.one_in(3) ? 0.5 : 1.0})(rules(here)), may_die);
}

void make_actor_of_ref(Interpreter& here, Draw& draw, const Step&) {
  const auto number = here.number(draw);
  const auto made = actor<Tally>(rules(here), number.ref);
  Outcomes own;
  for (const Outcome& outcome : outcomes_of(*number.node)) {
    add_to(own, outcome);
    // What is told where the constructor's input has failed is open.
    if (outcome.kind != Kind::value) add_to(own, {Kind::actor_died, 0});
  }
  here.add(remote<&Tally::first>(made, here.caller(), Number{0}), here.node(own));
}

void make_stillborn(Interpreter& here, Draw& draw, const Step&) {
  const auto made = actor<Stillborn>(some_failure(draw));
  here.add(remote<&Stillborn::call>(made, draw.seed()), here.node({{Kind::actor_died, 0}}));
}

void drop_actor(Interpreter& here, Draw& draw, const Step&) {
  if (here.tallies.empty()) return;
  here.tallies.erase(here.tallies.begin() + static_cast<std::ptrdiff_t>(draw.below(here.tallies.size())));
}

void kill_actor(Interpreter& here, Draw& draw, const Step&) {
  for (const TallyPtr& tally : here.tallies) {
    if (!tally->is_own || !tally->may_die || tally->is_dead || draw.one_in(3)) continue;
    mobula::kill(tally->actor);
    tally->is_dead = true;
    return;
  }
}

// ---- calls

void call(Interpreter& here, Draw& draw, const Step&) {
  const TallyPtr tally = here.tally(draw);
  const Number number = tally->calls++;
  const Number value = draw.seed();
  here.add(remote<&Tally::call>(tally->actor, here.caller(), number, value),
           result(here, *tally, {Kind::value, mix(number * 5 + value)}));
}

void call_on_ref(Interpreter& here, Draw& draw, const Step&) {
  const TallyPtr tally = here.tally(draw);
  const auto input = here.number(draw);
  const Number number = tally->calls++;
  here.add(remote<&Tally::call>(tally->actor, here.caller(), number, input.ref),
           result(here, *tally, {Kind::value, mix(number * 5 + here.digest_of(input.node))}, {input.node}));
}

void call_chain(Interpreter& here, Draw& draw, const Step&) {
  auto last = here.number(draw);
  for (Number length = 2 + draw.below(8); length > 0; --length) {
    const TallyPtr tally = here.tally(draw);
    const Number number = tally->calls++;
    const Outcome expected{Kind::value, mix(number * 5 + here.digest_of(last.node))};
    last = {remote<&Tally::call>(tally->actor, here.caller(), number, last.ref),
            result(here, *tally, expected, {last.node})};
  }
  here.add(last.ref, last.node);
}

void call_many(Interpreter& here, Draw& draw, const Step&) {
  const TallyPtr tally = here.tally(draw);
  for (Number count = draw.below(30); count > 0; --count) {
    const Number number = tally->calls++;
    const Number value = draw.seed();
    const auto ref = remote<&Tally::call>(tally->actor, here.caller(), number, value);
    if (draw.one_in(4)) here.add(ref, result(here, *tally, {Kind::value, mix(number * 5 + value)}));
  }
}

// The first waits for its input; those behind it must not overtake it.
void call_behind_late(Interpreter& here, Draw& draw, const Step&) {
  const TallyPtr tally = here.tally(draw);
  const Number seed = draw.seed();
  const Number first = tally->calls++;
  here.add(remote<&Tally::call>(tally->actor, here.caller(), first, remote<sleeper>(seed, draw.below(12))),
           result(here, *tally, {Kind::value, mix(first * 5 + mix(seed))}));
  for (Number count = draw.below(6); count > 0; --count) {
    const Number number = tally->calls++;
    const Number value = draw.seed();
    here.add(remote<&Tally::call>(tally->actor, here.caller(), number, value),
             result(here, *tally, {Kind::value, mix(number * 5 + value)}));
  }
}

void call_words(Interpreter& here, Draw& draw, const Step&) {
  const TallyPtr tally = here.tally(draw);
  const Number number = tally->calls++;
  const Number seed = draw.seed();
  const Number count = draw.one_in(2) ? draw.below(8) : draw.below(3000);
  here.add(remote<&Tally::make>(tally->actor, here.caller(), number, seed, count),
           result(here, *tally, {Kind::value, digest(make_words(seed, count))}));
}

void call_on_words(Interpreter& here, Draw& draw, const Step&) {
  const TallyPtr tally = here.tally(draw);
  const auto words = here.words(draw);
  const Number number = tally->calls++;
  here.add(remote<&Tally::look>(tally->actor, here.caller(), number, words.ref),
           result(here, *tally, {Kind::value, here.digest_of(words.node)}, {words.node}));
}

void call_void(Interpreter& here, Draw& draw, const Step&) {
  const TallyPtr tally = here.tally(draw);
  here.add(remote<&Tally::note>(tally->actor, here.caller(), tally->calls++), result(here, *tally, {Kind::value, 0}));
}

void call_throws(Interpreter& here, Draw& draw, const Step&) {
  const TallyPtr tally = here.tally(draw);
  const Outcome failure = some_failure(draw);
  here.add(remote<&Tally::fail>(tally->actor, here.caller(), tally->calls++, failure), result(here, *tally, failure));
}

// It waits in the method. Only for a task that depends on no call: such a call might be behind this one.
void call_waits(Interpreter& here, Draw& draw, const Step&) {
  const TallyPtr tally = here.tally(draw);
  const Number seed = draw.seed();
  const auto late = remote<sleeper>(seed, draw.below(5));
  here.add(remote<&Tally::open>(tally->actor, here.caller(), tally->calls++, late),
           result(here, *tally, {Kind::value, mix(seed)}));
}

void call_keeps_ref(Interpreter& here, Draw& draw, const Step&) {
  const auto box = actor<Tally>(rules(here));
  const auto number = here.number(draw);
  remote<&Tally::keep>(box, here.caller(), Number{0}, number.ref);
  here.add(remote<&Tally::give>(box, here.caller(), Number{1}), here.value(here.digest_of(number.node), {number.node}));
}

void call_function(Interpreter& here, Draw& draw, const Step&) {
  const TallyPtr tally = here.tally(draw);
  const Number seed = draw.seed();
  here.add(remote<peek>(tally->actor, seed), result(here, *tally, {Kind::value, mix(seed)}));
}

void cancel_call(Interpreter& here, Draw& draw, const Step&) {
  const TallyPtr tally = here.tally(draw);
  const Number number = tally->calls++;
  const Number value = draw.seed();
  const auto ref = remote<&Tally::call>(tally->actor, here.caller(), number, value);
  here.require(!mobula::cancel(ref), "cancel says that a call of an actor will not run");
  here.add(ref, result(here, *tally, {Kind::value, mix(number * 5 + value)}));
}

void kill_with_calls(Interpreter& here, Draw& draw, const Step&) {
  const auto made = actor<Tally>(rules(here));
  std::vector<Ref<Number>> refs{remote<sleeper>(draw.seed(), draw.below(5))};
  const NodePtr node = here.node({{Kind::actor_died, 0}});
  Number number = 0;
  for (Number count = 1 + draw.below(8); count > 0; --count) {
    // Some of them hang on one another, some wait for a task first.
    const auto& input = refs[draw.below(refs.size())];
    if (draw.one_in(2)) {
      refs.push_back(remote<&Tally::call>(made, here.caller(), number++, input));
    } else {
      refs.push_back(remote<&Tally::call>(made, here.caller(), number++, draw.seed()));
    }
  }
  mobula::kill(made);
  const auto late = remote<&Tally::call>(made, here.caller(), number, draw.seed());
  here.add(late, node);
  const Watched watch = here.watched("wait for calls of a killed actor", explanations(refs));
  here.require(mobula::wait(refs).pending.empty(), "all calls of a killed actor end");
  for (std::size_t i = 1; i < refs.size(); ++i) {
    try {
      mobula::get(refs[i]);
    } catch (...) {
      const Outcome outcome = outcome_of(std::current_exception());
      here.require(outcome.kind == Kind::actor_died || here.settings().ranks_are_lost,
                   "a call of a killed actor gave " + text_of(outcome));
    }
  }
}

// Calls made by a task, which is a caller of its own.
Number drive(const Actor<Tally>& tally, Number seed, Number count) {
  const Number caller = mix(seed + static_cast<Number>(mobula::here().attempt) * 0x10'0000'0000);
  std::vector<Ref<Number>> refs;
  for (Number i = 0; i < count; ++i) refs.push_back(remote<&Tally::call>(tally, caller, i, seed + i));
  Number sum = 0;
  for (const auto& ref : refs) sum = sum * 3 + mobula::get(ref);
  return mix(sum);
}
void task_calls(Interpreter& here, Draw& draw, const Step&) {
  const TallyPtr tally = here.tally(draw);
  // The same step may be done by several tasks.
  const Number seed = mix(here.caller() + draw.number());
  const Number count = draw.below(10);
  Number sum = 0;
  for (Number i = 0; i < count; ++i) sum = sum * 3 + mix(i * 5 + seed + i);
  // A task that makes no call does not notice that the actor has ended.
  if (tally->is_dead && count == 0) return;
  here.add(remote<drive>(tally->actor, seed, count), result(here, *tally, {Kind::value, mix(sum)}));
}

void relay_calls(Interpreter& here, Draw& draw, const Step&) {
  const TallyPtr tally = here.tally(draw);
  const auto relay = actor<Relay>(tally->actor);
  const Number caller = mix(here.caller() + draw.number());
  const Number value = draw.seed();
  here.add(remote<&Relay::call>(relay, caller, Number{0}, value), result(here, *tally, {Kind::value, mix(value)}));
  here.add(remote<&Relay::pass>(relay, caller, Number{1}, value), result(here, *tally, {Kind::value, mix(5 + value)}));
}

void partners(Interpreter& here, Draw& draw, const Step&) {
  const Number times = draw.below(7);
  const auto make = actor<Partner>.with({.concurrency = 4});
  const auto left = make();
  const auto right = make();
  // Calls of one actor run side by side: both have met before the first of them is to know the other.
  const Known<void> left_met{remote<&Partner::meet>(left, std::vector{right}), here.value(0)};
  const Known<void> right_met{remote<&Partner::meet>(right, std::vector{left}), here.value(0)};
  here.check(left_met);
  here.check(right_met);
  const Number value = draw.seed();
  const Known<Number> bounced{remote<&Partner::bounce>(left, value, times), here.value(mix(value + times))};
  here.check(bounced);
  if (draw.one_in(2)) {
    // They hold each other, and so only `kill` ends them, or letting go.
    mobula::kill(left);
    mobula::kill(right);
  } else {
    remote<&Partner::part>(left);
    remote<&Partner::part>(right);
  }
}

void max_pending(Interpreter& here, Draw& draw, const Step&) {
  const auto most = 1 + static_cast<std::uint32_t>(draw.below(4));
  const auto made = actor<Tally>.with({.max_pending = most})(rules(here));
  std::vector<Known<Number>> calls;
  const auto call_once = [&](bool must_pass) {
    const Number number = calls.size();
    const Number value = draw.seed();
    try {
      calls.push_back({remote<&Tally::call>(made, here.caller(), number, value), here.value(mix(number * 5 + value))});
    } catch (const mobula::Backpressure&) {
      here.require(!must_pass, "a call is refused, though fewer are pending than allowed");
    }
  };
  for (std::uint32_t i = 0; i < most + 3; ++i) call_once(i < most);
  for (const auto& known : calls) here.check(known);
  call_once(true);
  here.check(calls.back());
}

// ---- names

std::string name_of(const Interpreter& here) { return "tally " + here.path() + std::to_string(here.caller() % 1000); }

void named_actor(Interpreter& here, Draw& draw, const Step&) {
  const std::string name = name_of(here);
  const auto made = actor<Tally>.with({.name = name})(rules(here));
  const auto again = actor<Tally>.with({.name = name, .get_if_exists = true})(rules(here));
  here.require(made == again, "get_if_exists gives the actor that exists");
  const auto found = mobula::find_actor<Tally>(name);
  here.require(made == found, "find_actor finds the actor");
  if (draw.one_in(2)) {
    here.expect_throw({Kind::no_such_actor}, "the name with another class", [&] { mobula::find_actor<Partner>(name); });
  }
  if (draw.one_in(2)) {
    here.expect_throw({Kind::error}, "a name that is taken", [&] { actor<Tally>.with({.name = name})(rules(here)); });
  }
  keep(here, found);
}

void no_such_actor(Interpreter& here, Draw& draw, const Step&) {
  const std::string name = "nobody " + std::to_string(draw.seed());
  here.expect_throw({Kind::no_such_actor}, "a name that nobody has", [&] { mobula::find_actor<Tally>(name); });
}

// When its last handle has gone, the name is free.
void name_again(Interpreter& here, Draw& draw, const Step&) {
  const std::string name = name_of(here);
  for (Number times = 1 + draw.below(3); times > 0; --times) {
    const auto made = actor<Tally>.with({.name = name})(rules(here));
    const Number value = draw.seed();
    here.check(Known<Number>{remote<&Tally::call>(made, here.caller(), Number{0}, value), here.value(mix(value))});
  }
}

void detached_actor(Interpreter& here, Draw& draw, const Step&) {
  const std::string name = name_of(here);
  actor<Tally>.with({.name = name, .detached = true})(rules(here));
  const auto found = mobula::find_actor<Tally>(name);
  const Number value = draw.seed();
  here.check(Known<Number>{remote<&Tally::call>(found, here.caller(), Number{0}, value), here.value(mix(value))});
  mobula::kill(found);
  here.expect_throw({Kind::no_such_actor}, "the name of a killed actor", [&] { mobula::find_actor<Tally>(name); });
}

// ---- in a process of its own

struct Apart {
  Number sum = 0;
  Number add(Number value) { return sum += value; }
  Number crash() { std::abort(); }
};
void sandboxed_actor(Interpreter& here, Draw& draw, const Step&) {
  const auto made = actor<Apart>.with({.isolation = mobula::sandbox{}})();
  const Number value = draw.seed();
  here.add(remote<&Apart::add>(made, value), here.value(value));
  here.add(remote<&Apart::add>(made, value), here.value(2 * value));
  if (draw.one_in(2)) {
    here.add(remote<&Apart::crash>(made), here.node({{Kind::task_crashed, 0}}));
    here.add(remote<&Apart::add>(made, value), here.node({{Kind::actor_died, 0}}));
  }
}

constexpr Operation kOperations[] = {
    {"actor", 5, kAll, make_actor},
    {"actor_plain", 2, kAll, make_plain_actor},
    {"actor_concurrent", 2, kAll, make_concurrent_actor},
    {"actor_mortal", 3, kAll, make_mortal_actor},
    {"actor_with_cpus", 3, kAll, make_actor_with_cpus},
    {"actor_of_ref", 2, kAll, make_actor_of_ref},
    {"actor_stillborn", 1, kAll, make_stillborn},
    {"actor_dropped", 3, kAll, drop_actor},
    {"actor_killed", 3, kAll, kill_actor},
    {"call", 8, kAll, call},
    {"call_on_ref", 6, kAll, call_on_ref},
    {"call_chain", 3, kAll, call_chain},
    {"call_many", 3, kAll, call_many},
    {"call_behind_late", 3, kAll, call_behind_late},
    {"call_words", 3, kAll, call_words},
    {"call_on_words", 3, kAll, call_on_words},
    {"call_void", 2, kAll, call_void},
    {"call_throws", 3, kAll, call_throws},
    {"call_waits", 3, kAll, call_waits},
    {"call_keeps_ref", 2, kAll, call_keeps_ref},
    {"call_function", 2, kAll, call_function},
    {"call_cancelled", 1, kAll, cancel_call},
    {"kill_with_calls", 2, kAll, kill_with_calls},
    {"task_calls", 4, kAll, task_calls},
    {"relay", 2, kAll, relay_calls},
    {"partners", 2, kAll, partners},
    {"max_pending", 2, kAll, max_pending, nullptr, false, true},
    {"named_actor", 2, kAll, named_actor, nullptr, false, true},
    {"no_such_actor", 1, kAll, no_such_actor},
    {"name_again", 1, kAll, name_again, nullptr, false, true},
    {"detached_actor", 1, kAll, detached_actor, nullptr, false, true},
    {"sandboxed_actor", 1, kAll, sandboxed_actor, nullptr, true},
};

}  // namespace

std::span<const Operation> actor_operations() { return kOperations; }

}  // namespace random_programs
