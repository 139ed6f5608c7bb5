#include "random/interpreter.hpp"

#include <algorithm>

namespace random_programs {

namespace {

using mobula::remote;

// Of a few known things, so that a program is not all in one picture.
constexpr std::size_t kPassedOn = 3;

}  // namespace

Interpreter::Interpreter(Role role, const Settings& settings, std::string path, Number seed, Number holders_given)
    : holders(holders_given),
      role_(role),
      settings_(settings),
      root_(path),
      path_(std::move(path)),
      seed_(seed),
      caller_(mix(digest(std::string_view(root_)) + static_cast<Number>(mobula::here().attempt))) {
  start_watch(settings.driver, std::chrono::milliseconds(settings.patience));
}

Interpreter::Interpreter(Role role, const Order& order)
    : Interpreter(role, order.settings, order.path, order.seed, order.holders) {
  for (const auto& carried : order.numbers) numbers.push_back(known(carried, settings_.ranks_are_lost));
  for (const auto& carried : order.words) all_words.push_back(known(carried, settings_.ranks_are_lost));
  for (const auto& carried : order.tallies) {
    // Calls are counted by what is known of an actor, so that is known once.
    const auto is_it = [&](const TallyPtr& tally) { return tally->actor == carried.actor; };
    if (std::any_of(tallies.begin(), tallies.end(), is_it)) continue;
    tallies.push_back(std::make_shared<KnownTally>(KnownTally{carried.actor, false, carried.may_die}));
  }
}

Interpreter::~Interpreter() { join_threads(); }

void Interpreter::join_threads() {
  const Watched watch = watched("threads are joined");
  for (std::thread& thread : threads) thread.join();
  threads.clear();
}

void Interpreter::run_steps(const Steps& steps) {
  Number position = 0;
  for (const Step& step : steps) {
    if (role_ == Role::driver && something_is_wrong()) throw Wrong{"another process has found something wrong"};
    path_ = root_ + "/" + std::to_string(position++) + ":" + std::string(step.operation->name) + "#" +
            std::to_string(step.seed);
    const Watched watch = watched("the step");
    Draw draw(step.seed);
    try {
      step.operation->act(*this, draw, step);
    } catch (const Wrong&) {
      throw;
    } catch (const JobEnds&) {
      throw;
    } catch (...) {
      std::string text;
      const Outcome outcome = outcome_of(std::current_exception(), &text);
      wrong("the call itself throws " + text_of(outcome) + ": " + text);
    }
  }
  path_ = root_ + "/end";
}

void Interpreter::run(const Steps& steps) {
  run_steps(steps);
  Draw draw(seed_);
  if (draw.one_in(4)) drop_all();
  join_threads();
  check_all();
  drop_all();
}

// ---- nodes ----------------------------------------------------------------------------------------------------------

NodePtr Interpreter::node(Outcomes own, std::vector<NodePtr> inputs) const {
  auto node = std::make_shared<Node>();
  node->own = std::move(own);
  node->inputs = std::move(inputs);
  node->ranks_are_lost = settings_.ranks_are_lost;
  return node;
}

Number Interpreter::digest_of(const NodePtr& node) {
  if (node->seen && node->seen->kind == Kind::value) return node->seen->number;
  for (const Outcome& outcome : node->own) {
    if (outcome.kind == Kind::value) return outcome.number;
  }
  return 0;
}

// ---- what is known ----------------------------------------------------------------------------------------------

Known<Number> Interpreter::number(Draw& draw) {
  if (numbers.empty() || draw.one_in(8)) {
    const Number seed = draw.seed();
    add(remote<leaf>(seed), value(mix(seed)));
    return numbers.back();
  }
  return numbers[draw.below(numbers.size())];
}

Known<Number> Interpreter::sure_number(Draw& draw) {
  const Known<Number> picked = number(draw);
  if (is_sure(*picked.node)) return picked;
  const Number seed = draw.seed();
  return {remote<leaf>(seed), value(mix(seed))};
}

Known<Words> Interpreter::words(Draw& draw) {
  if (all_words.empty() || draw.one_in(8)) {
    const Number seed = draw.seed();
    const Number count = draw.below(1000);
    add(remote<make_words>(seed, count), value(digest(make_words(seed, count))));
    return all_words.back();
  }
  return all_words[draw.below(all_words.size())];
}

Known<std::string> Interpreter::text(Draw& draw) {
  if (texts.empty() || draw.one_in(8)) {
    const Number seed = draw.seed();
    const Number length = draw.below(100);
    add(remote<make_text>(seed, length), value(digest(make_text(seed, length))));
    return texts.back();
  }
  return texts[draw.below(texts.size())];
}

KnownBatch Interpreter::batch(Draw& draw) {
  if (!batches.empty() && !draw.one_in(8)) return batches[draw.below(batches.size())];
  std::vector<Number> seeds(1 + draw.below(20));
  KnownBatch made;
  for (Number& seed : seeds) {
    seed = draw.seed();
    made.nodes.push_back(value(mix(seed)));
  }
  made.batch = remote<leaf>.map(seeds);
  keep(batches, KnownBatch(made));
  return made;
}

TallyPtr Interpreter::tally(Draw& draw) {
  if (tallies.empty()) {
    auto made = std::make_shared<KnownTally>();
    made->actor = mobula::actor<Tally>(TallyRules{settings_.driver, !settings_.ranks_are_lost});
    tallies.push_back(std::move(made));
  }
  return tallies[draw.below(tallies.size())];
}

void Interpreter::add(const Parcel& parcel) {
  for (const auto& carried : parcel.numbers) keep(numbers, known(carried, settings_.ranks_are_lost));
  for (const auto& carried : parcel.words) keep(all_words, known(carried, settings_.ranks_are_lost));
}

// ---- comparing ------------------------------------------------------------------------------------------------------

void Interpreter::wrong(const std::string& what) const {
  tell_wrong(path_ + ": " + what);
  throw Wrong{what};
}

void Interpreter::judge(Node& node, const Outcome& outcome, const std::string& what, const std::string& text) const {
  const Outcomes allowed = outcomes_of(node);
  if (!contains(allowed, outcome)) {
    wrong(what + " gave " + text_of(outcome) + " in place of " + text_of(allowed) +
          (text.empty() ? "" : " (" + text + ")"));
  }
  // A value may be lost with its rank later, and be made again.
  if (!settings_.ranks_are_lost) node.seen = outcome;
}

void Interpreter::check(const KnownBatch& batch) {
  const Watched watch = watched("get of a batch", explanations(batch.batch));
  std::vector<Number> values;
  std::string text;
  Outcome error;
  try {
    values = mobula::get(batch.batch);
  } catch (...) {
    error = outcome_of(std::current_exception(), &text);
  }
  if (error.kind == Kind::value) {
    require(values.size() == batch.nodes.size(), "a batch has not as many values as items");
    for (std::size_t i = 0; i < values.size(); ++i) judge(*batch.nodes[i], {Kind::value, values[i]}, "get of a batch");
    return;
  }
  // It is the error of the first element that failed.
  Outcomes allowed;
  for (const NodePtr& node : batch.nodes) {
    bool may_be_well = false;
    for (const Outcome& outcome : outcomes_of(*node)) {
      may_be_well = may_be_well || outcome.kind == Kind::value;
      if (outcome.kind != Kind::value) add_to(allowed, outcome);
    }
    if (!may_be_well) break;
  }
  require(contains(allowed, error),
          "get of a batch threw " + text_of(error) + " in place of " + text_of(allowed) + ": " + text);
}

void Interpreter::check_all() {
  // Parcels and boxes give more to check.
  for (const auto& parcel : std::exchange(parcels, {})) check(parcel);
  for (const auto& batch : batches) check(batch);
  for (const auto& known : numbers) check(known);
  for (const auto& known : all_words) check(known);
  for (const auto& known : texts) check(known);
  for (const auto& known : voids) check(known);
  for (const auto& known : boxes) check(known);
}

void Interpreter::drop_all() {
  numbers.clear();
  all_words.clear();
  texts.clear();
  voids.clear();
  parcels.clear();
  boxes.clear();
  batches.clear();
  tallies.clear();
  hosts.clear();
  views.clear();
}

// ---- programs elsewhere ---------------------------------------------------------------------------------------------

Order Interpreter::order(Draw& draw, const Step& step) {
  Order order;
  order.settings = settings_;
  order.program = text_of(step.block);
  order.path = path_;
  order.seed = draw.seed();
  if (holders > 0 && draw.one_in(2)) {
    --holders;
    order.holders = 1;
  }
  const auto some = [&](const auto& shelf, auto&& take) {
    for (std::size_t i = 0; !shelf.empty() && i < draw.below(kPassedOn + 1); ++i) {
      take(shelf[draw.below(shelf.size())]);
    }
  };
  some(numbers, [&](const Known<Number>& known) { order.numbers.push_back(carried(known)); });
  some(all_words, [&](const Known<Words>& known) { order.words.push_back(carried(known)); });
  some(tallies, [&](const TallyPtr& tally) {
    if (!tally->is_dead) order.tallies.push_back({tally->actor, tally->may_die});
  });
  return order;
}

}  // namespace random_programs
