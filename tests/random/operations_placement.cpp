// Tasks that ask for more than a slot, or for a place; gangs; placement groups.
#include <boost/mpi.hpp>
#include <functional>

#include "random/interpreter.hpp"

namespace random_programs {
namespace {

using mobula::Ref;
using mobula::remote;
using mobula::TaskOptions;

// ---- options of tasks

mobula::Placement some_place(Interpreter& here, Draw& draw) {
  switch (draw.below(7)) {
    case 0: return mobula::pack;
    case 1: return mobula::spread;
    case 2: return mobula::near(here.number(draw).ref);
    case 3: return mobula::near(here.words(draw).ref);
    case 4: return mobula::near(here.tally(draw)->actor);
    case 5: return mobula::on_node(0);
    default: break;
  }
  if (!here.settings().may_choose_rank) return mobula::any;
  const auto offset = static_cast<std::uint32_t>(draw.below(here.settings().ranks));
  return mobula::on_rank(here.settings().first_rank + offset);
}

// Submits a task of one of several kinds with the options.
void submit_with(Interpreter& here, Draw& draw, const TaskOptions& options) {
  const Number seed = draw.seed();
  switch (draw.below(4)) {
    case 0: here.add(remote<leaf>.with(options)(seed), here.value(mix(seed))); break;
    case 1: {
      const auto number = here.number(draw);
      const Number expected = mix(here.digest_of(number.node) * 3 + seed);
      here.add(remote<join>.with(options)(number.ref, seed), here.value(expected, {number.node}));
      break;
    }
    case 2: {
      const Number count = draw.below(2000);
      here.add(remote<make_words>.with(options)(seed, count), here.value(digest(make_words(seed, count))));
      break;
    }
    default: {
      KnownBatch made;
      Words seeds(1 + draw.below(6));
      for (Number& item : seeds) {
        item = draw.seed();
        made.nodes.push_back(here.value(mix(item)));
      }
      made.batch = remote<leaf>.with(options).map(seeds);
      here.batches.push_back(made);
    }
  }
}

void placed(Interpreter& here, Draw& draw, const Step&) {
  submit_with(here, draw, {.placement = some_place(here, draw)});
}

void wide(Interpreter& here, Draw& draw, const Step&) {
  submit_with(here, draw, {.cpus = 1.0 + static_cast<double>(draw.below(here.settings().wide_most))});
}

void fraction(Interpreter& here, Draw& draw, const Step&) {
  constexpr std::array parts{0.0, 0.25, 0.5, 0.75};
  submit_with(here, draw, {.cpus = parts[draw.below(parts.size())]});
}

void with_resource(Interpreter& here, Draw& draw, const Step&) {
  submit_with(here, draw, {.resources = {{"license", 1.0 + static_cast<double>(draw.below(2))}}});
}

void with_memory(Interpreter& here, Draw& draw, const Step&) {
  submit_with(here, draw, {.memory = (1 + draw.below(8)) << 20});
}

void with_priority(Interpreter& here, Draw& draw, const Step&) {
  submit_with(here, draw, {.priority = static_cast<int>(draw.below(7)) - 3});
}

void with_alternatives(Interpreter& here, Draw& draw, const Step&) {
  mobula::Demand possible;
  if (draw.one_in(2)) possible.resources = {{"license", 1}};
  submit_with(here, draw, {.cpus = 1e6, .alternatives = {possible}});
}

void named_task(Interpreter& here, Draw& draw, const Step&) {
  submit_with(here, draw, {.name = "a task of " + here.path()});
}

void durable(Interpreter& here, Draw& draw, const Step&) { submit_with(here, draw, {.durable = true, .version = "1"}); }

void many_options(Interpreter& here, Draw& draw, const Step&) {
  TaskOptions options;
  if (draw.one_in(2))
    options.cpus = draw.one_in(2) ? 0.5 : static_cast<double>(1 + draw.below(here.settings().wide_most));
  if (draw.one_in(2)) options.priority = static_cast<int>(draw.below(5));
  if (draw.one_in(3)) options.placement = some_place(here, draw);
  if (draw.one_in(4)) options.resources = {{"license", 1}};
  // One rank has few cpus of its own.
  if (options.placement.kind == mobula::Placement::Kind::on_rank && options.cpus > 1) options.cpus = 1;
  submit_with(here, draw, options);
}

// Waits, with more or less than a slot.
Number waits_for(const Ref<Number>& ref) { return mobula::get(ref); }
Number waits_for_child(Number seed) { return mobula::get(remote<leaf>(seed)); }
void wide_waits(Interpreter& here, Draw& draw, const Step&) {
  TaskOptions options;
  options.cpus = draw.one_in(3) ? 0.5 : static_cast<double>(1 + draw.below(here.settings().wide_most));
  if (draw.one_in(2)) {
    const Number seed = draw.seed();
    here.add(remote<waits_for_child>.with(options)(seed), here.value(mix(seed)));
    return;
  }
  const auto number = here.number(draw);
  here.add(remote<waits_for>.with(options)(number.ref), here.value(here.digest_of(number.node), {number.node}));
}

// ---- gangs

using Ranks = boost::mpi::communicator;

Number member(const Ranks& ranks, Number seed) {
  const Number sum = boost::mpi::all_reduce(ranks, mix(seed + static_cast<Number>(ranks.rank())), std::plus<>());
  return mix(sum + static_cast<Number>(ranks.rank()));
}
// All members throw.
Number member_throws(const Ranks& ranks, Outcome failure) {
  ranks.barrier();
  throw_as(failure);
}
// One member throws, and nobody waits for it in MPI.
Number one_member_throws(const Ranks& ranks, Number chosen, Outcome failure) {
  if (static_cast<Number>(ranks.rank()) == chosen % static_cast<Number>(ranks.size())) throw_as(failure);
  return 0;
}
Words member_words(const Ranks& ranks, const Words& words) {
  const Number sum = boost::mpi::all_reduce(ranks, digest(words), std::plus<>());
  return make_words(sum + static_cast<Number>(ranks.rank()), words.size());
}
Number member_with_child(const Ranks& ranks, Number seed) {
  // The thread of a task may run children itself, but not those that ask for more than it has.
  mobula::TaskOptions options;
  options.memory = seed % 3;
  const Number child = mobula::get(remote<leaf>.with(options)(seed + static_cast<Number>(ranks.rank())));
  return mix(boost::mpi::all_reduce(ranks, child, std::plus<>()) + static_cast<Number>(ranks.rank()));
}

// One member waits for a gang that needs the ranks of all, while the others wait for it in MPI.
Number member_with_gang(const Ranks& ranks, Number seed) {
  const auto members = static_cast<Number>(ranks.size());
  Number first = 0;
  if (static_cast<Number>(ranks.rank()) == seed % members) first = mobula::get(mobula::gang<member>(members, seed)[0]);
  return mix(boost::mpi::all_reduce(ranks, first, std::plus<>()) + static_cast<Number>(ranks.rank()));
}

Number members_sum(Number seed, Number members) {
  Number sum = 0;
  for (Number i = 0; i < members; ++i) sum += mix(seed + i);
  return sum;
}

Number member_count(Interpreter& here, Draw& draw) { return 1 + draw.below(here.settings().gang_most); }

std::vector<NodePtr> members_nodes(Interpreter& here, Number seed, Number members, std::vector<NodePtr> inputs = {}) {
  std::vector<NodePtr> nodes;
  const Number sum = members_sum(seed, members);
  for (Number i = 0; i < members; ++i) nodes.push_back(here.value(mix(sum + i), inputs));
  return nodes;
}

void gang(Interpreter& here, Draw& draw, const Step&) {
  if (here.settings().gang_most == 0) return;
  const Number members = member_count(here, draw);
  const Number seed = draw.seed();
  mobula::GangOptions options;
  if (draw.one_in(3)) options.placement = draw.one_in(2) ? mobula::pack : mobula::spread;
  here.batches.push_back({mobula::gang<member>.with(options)(members, seed), members_nodes(here, seed, members)});
}

void gang_of_ref(Interpreter& here, Draw& draw, const Step&) {
  if (here.settings().gang_most == 0) return;
  const Number members = member_count(here, draw);
  if (draw.one_in(2)) {
    const auto number = here.number(draw);
    here.batches.push_back({mobula::gang<member>(members, number.ref),
                            members_nodes(here, here.digest_of(number.node), members, {number.node})});
    return;
  }
  const auto words = make_words(draw.seed(), draw.below(900));
  const auto parts = mobula::gang<member_words>(members, mobula::put(words));
  for (Number i = 0; i < members; ++i) {
    here.add(parts[i], here.value(digest(make_words(digest(words) * members + i, words.size()))));
  }
}

void gang_throws(Interpreter& here, Draw& draw, const Step&) {
  if (here.settings().gang_most == 0) return;
  const Number members = member_count(here, draw);
  const Outcome failure = some_failure(draw);
  KnownBatch made;
  made.batch = draw.one_in(2) ? mobula::gang<member_throws>(members, failure)
                              : mobula::gang<one_member_throws>(members, draw.seed(), failure);
  for (Number i = 0; i < members; ++i) made.nodes.push_back(here.node({failure}));
  here.batches.push_back(made);
}

void gang_with_children(Interpreter& here, Draw& draw, const Step&) {
  if (here.settings().gang_most == 0) return;
  const Number members = member_count(here, draw);
  const Number seed = draw.seed();
  here.batches.push_back({mobula::gang<member_with_child>(members, seed), members_nodes(here, seed, members)});
}

void gang_with_a_gang(Interpreter& here, Draw& draw, const Step&) {
  if (here.settings().gang_most == 0) return;
  const Number members = member_count(here, draw);
  const Number seed = draw.seed();
  const Number first = mix(members_sum(seed, members));
  KnownBatch made{mobula::gang<member_with_gang>(members, seed), {}};
  for (Number i = 0; i < members; ++i) made.nodes.push_back(here.value(mix(first + i)));
  here.batches.push_back(made);
}

void gang_with_dependents(Interpreter& here, Draw& draw, const Step&) {
  if (here.settings().gang_most == 0) return;
  const Number members = member_count(here, draw);
  const Number seed = draw.seed();
  KnownBatch made{mobula::gang<member>(members, seed), members_nodes(here, seed, members)};
  KnownBatch above;
  for (const NodePtr& node : made.nodes) above.nodes.push_back(here.value(mix(here.digest_of(node) * 3 + 1), {node}));
  above.batch = remote<join>.map(made.batch, mobula::same(Number{1}));
  here.batches.push_back(above);
  if (draw.one_in(2)) here.batches.push_back(made);
}

void gang_cancelled(Interpreter& here, Draw& draw, const Step&) {
  if (here.settings().gang_most == 0) return;
  const Number members = member_count(here, draw);
  const Number seed = draw.seed();
  KnownBatch made{mobula::gang<member>(members, remote<sleeper>(seed, draw.below(5))),
                  members_nodes(here, mix(seed), members)};
  if (mobula::cancel(made.batch[draw.below(members)])) {
    for (const NodePtr& node : made.nodes) node->cancelled = true;
  }
  here.batches.push_back(made);
}

void gang_infeasible(Interpreter& here, Draw& draw, const Step&) {
  const Number seed = draw.seed();
  here.expect_throw({Kind::infeasible}, "a gang of more members than ranks",
                    [&] { mobula::gang<member>(100'000, seed); });
}

// ---- placement groups

void group(Interpreter& here, Draw& draw, const Step&) {
  if (here.holders == 0) return;
  const Number bundles = 1 + draw.below(here.holders);
  here.holders -= bundles;
  const auto made = mobula::placement_group(std::vector<mobula::Demand>(bundles, {.cpus = 1}),
                                            draw.one_in(2) ? mobula::Strategy::pack : mobula::Strategy::spread);
  here.require(made.size() == bundles, "a placement group has its bundles");
  if (draw.one_in(2)) here.check(Known<void>{made.ready(), here.value(0)});
  for (Number count = 1 + draw.below(4); count > 0; --count) {
    submit_with(here, draw, {.cpus = draw.one_in(3) ? 0.5 : 1.0, .placement = made.bundle(draw.below(bundles))});
  }
}

void group_with_actor(Interpreter& here, Draw& draw, const Step&) {
  if (here.holders == 0) return;
  --here.holders;
  const auto made = mobula::placement_group({{.cpus = 1}}, mobula::Strategy::strict_pack);
  auto tally = std::make_shared<KnownTally>();
  tally->actor = mobula::actor<Tally>.with({.cpus = 1, .placement = made.bundle(0)})(
      TallyRules{here.settings().driver, !here.settings().ranks_are_lost});
  const Number value = draw.seed();
  const Number number = tally->calls++;
  here.add(remote<&Tally::call>(tally->actor, here.caller(), number, value), here.value(mix(number * 5 + value)));
  here.tallies.push_back(std::move(tally));
}

void group_dropped(Interpreter& here, Draw&, const Step&) {
  if (here.holders == 0) return;
  --here.holders;
  mobula::placement_group({{.cpus = 1}});
}

void group_infeasible(Interpreter& here, Draw&, const Step&) {
  here.expect_throw({Kind::infeasible}, "a group on more nodes than there are", [&] {
    mobula::placement_group(std::vector<mobula::Demand>(here.settings().nodes + 1, {.cpus = 1}),
                            mobula::Strategy::strict_spread);
  });
}

constexpr Operation kOperations[] = {
    {"placed", 5, kAll, placed},
    {"wide", 4, kAll, wide},
    {"fraction", 4, kAll, fraction},
    {"with_resource", 3, kAll, with_resource},
    {"with_memory", 2, kAll, with_memory},
    {"with_priority", 3, kAll, with_priority},
    {"with_alternatives", 1, kAll, with_alternatives},
    {"named_task", 1, kAll, named_task},
    {"durable", 1, kAll, durable},
    {"many_options", 3, kAll, many_options},
    {"wide_waits", 3, kAll, wide_waits},
    {"gang", 4, kAll, gang},
    {"gang_of_ref", 2, kAll, gang_of_ref},
    {"gang_throws", 2, kAll, gang_throws},
    {"gang_with_children", 2, kAll, gang_with_children},
    {"gang_with_a_gang", 1, kAll, gang_with_a_gang},
    {"gang_with_dependents", 2, kAll, gang_with_dependents},
    {"gang_cancelled", 2, kAll, gang_cancelled},
    {"gang_infeasible", 1, kAll, gang_infeasible},
    {"group", 3, kAll, group},
    {"group_with_actor", 2, kAll, group_with_actor},
    {"group_dropped", 1, kAll, group_dropped},
    {"group_infeasible", 1, kAll, group_infeasible},
};

}  // namespace

std::span<const Operation> placement_operations() { return kOperations; }

}  // namespace random_programs
