// All ways to wait for values.
#include <algorithm>
#include <iterator>

#include "random/interpreter.hpp"

namespace random_programs {
namespace {

using mobula::Duration;
using mobula::Ref;
using std::chrono::microseconds;
using std::chrono::milliseconds;

void get_one(Interpreter& here, Draw& draw, const Step&) {
  switch (draw.below(8)) {
    case 0: here.check(here.words(draw)); break;
    case 1: here.check(here.text(draw)); break;
    case 2:
      if (!here.voids.empty()) here.check(here.voids[draw.below(here.voids.size())]);
      break;
    case 3:
      if (!here.boxes.empty()) here.check(here.boxes[draw.below(here.boxes.size())]);
      break;
    default: here.check(here.number(draw));
  }
}

void get_twice(Interpreter& here, Draw& draw, const Step&) {
  const auto number = here.number(draw);
  here.check(number);
  here.check(number);
}

void get_in_time(Interpreter& here, Draw& draw, const Step&) {
  here.check(here.number(draw), milliseconds(10 * here.settings().patience));
}

void get_too_soon(Interpreter& here, Draw& draw, const Step&) {
  if (draw.one_in(2)) {
    here.check(here.number(draw), microseconds(draw.below(3000)));
  } else {
    here.check(here.words(draw), microseconds(draw.below(3000)));
  }
}

void get_batch(Interpreter& here, Draw& draw, const Step&) { here.check(here.batch(draw)); }

void get_elements_backwards(Interpreter& here, Draw& draw, const Step&) {
  const KnownBatch batch = here.batch(draw);
  const std::size_t count = std::min<std::size_t>(batch.nodes.size(), 30);
  for (std::size_t i = count; i > 0; --i) here.check(Known<Number>{batch.batch[i - 1], batch.nodes[i - 1]});
}

// The error of a range is that of the first element that failed, as of a batch.
void get_range(Interpreter& here, Draw& draw, const Step&) {
  std::vector<Ref<Number>> refs;
  Outcomes errors;
  std::vector<NodePtr> nodes;
  bool may_go_on = true;
  for (Number count = draw.below(8); count > 0; --count) {
    const auto number = here.number(draw);
    refs.push_back(number.ref);
    nodes.push_back(number.node);
  }
  Number sum = 0;
  for (const NodePtr& node : nodes) {
    bool may_be_well = false;
    for (const Outcome& outcome : outcomes_of(*node)) {
      if (outcome.kind == Kind::value) {
        may_be_well = true;
        sum = sum * 3 + outcome.number;
      } else if (may_go_on) {
        add_to(errors, outcome);
      }
    }
    may_go_on = may_go_on && may_be_well;
  }
  if (may_go_on) add_to(errors, {Kind::value, mix(sum)});
  const auto act = [&] {
    Number got = 0;
    for (const Number number : mobula::get(refs)) got = got * 3 + number;
    return mix(got);
  };
  here.observe(here.node(errors), "get of a range", act, explanations(refs));
}

void get_pair(Interpreter& here, Draw& draw, const Step&) {
  const auto number = here.number(draw);
  const auto words = here.words(draw);
  const Number expected = mix(here.digest_of(number.node) * 3 + here.digest_of(words.node));
  const auto act = [&] {
    const auto [one, two] = mobula::get(number.ref, words.ref);
    return mix(one * 3 + digest(two));
  };
  here.observe(here.value(expected, {number.node, words.node}), "get of two", act,
               {explanation(number.ref), explanation(words.ref)});
}

void view_words(Interpreter& here, Draw& draw, const Step&) {
  const auto words = here.words(draw);
  const auto act = [&] { return digest(std::span<const Number>(mobula::view(words.ref))); };
  here.observe(words.node, "view", act, {explanation(words.ref)});
}

void view_number(Interpreter& here, Draw& draw, const Step&) {
  const auto number = here.number(draw);
  here.observe(number.node, "view", [&] { return *mobula::view(number.ref); }, {explanation(number.ref)});
}

// Its bytes stay as they are, also where the last Ref goes.
void view_for_long(Interpreter& here, Draw& draw, const Step&) {
  const auto words = here.words(draw);
  mobula::View<Words> view;
  const auto act = [&] {
    view = mobula::view(words.ref);
    return digest(std::span<const Number>(view));
  };
  const Outcome outcome = here.observe(words.node, "view", act, {explanation(words.ref)});
  if (outcome.kind != Kind::value) return;
  here.all_words.clear();
  here.views.push_back(view);
  if (here.views.size() > 3) here.views.erase(here.views.begin());
  here.require(digest(std::span<const Number>(view)) == outcome.number, "a view has changed");
}

void view_too_soon(Interpreter& here, Draw& draw, const Step&) {
  const auto words = here.words(draw);
  const Duration timeout = microseconds(draw.below(2000));
  const auto act = [&] { return digest(std::span<const Number>(mobula::view(words.ref, timeout))); };
  here.observe(words.node, "view", act, {explanation(words.ref)}, true);
}

struct Picked {
  std::vector<Ref<Number>> refs;
  std::vector<NodePtr> nodes;
};
Picked some_numbers(Interpreter& here, Draw& draw, Number most) {
  Picked picked;
  for (Number count = draw.below(most); count > 0; --count) {
    const auto number = here.number(draw);
    picked.refs.push_back(number.ref);
    picked.nodes.push_back(number.node);
  }
  if (draw.one_in(2)) {
    const KnownBatch batch = here.batch(draw);
    for (std::size_t i = 0; i < batch.nodes.size() && i < 20; ++i) {
      picked.refs.push_back(batch.batch[i]);
      picked.nodes.push_back(batch.nodes[i]);
    }
  }
  return picked;
}

// All positions must be there once, in both lists ascending.
void check_positions(Interpreter& here, const mobula::WaitResult<Number>& result, std::size_t count) {
  here.require(std::is_sorted(result.ready.begin(), result.ready.end()), "ready positions ascend");
  here.require(std::is_sorted(result.pending.begin(), result.pending.end()), "pending positions ascend");
  std::vector<std::size_t> all;
  std::merge(result.ready.begin(), result.ready.end(), result.pending.begin(), result.pending.end(),
             std::back_inserter(all));
  bool is_whole = all.size() == count;
  for (std::size_t i = 0; i < all.size(); ++i) is_whole = is_whole && all[i] == i;
  here.require(is_whole, "each position is ready or pending");
}

void check_ready(Interpreter& here, const Picked& picked, const std::vector<std::size_t>& ready) {
  for (const std::size_t position : ready) {
    here.check(Known<Number>{picked.refs[position], picked.nodes[position]});
  }
}

void wait_for_all(Interpreter& here, Draw& draw, const Step&) {
  const Picked picked = some_numbers(here, draw, 10);
  const Watched watch = here.watched("wait for all", explanations(picked.refs));
  const auto result = mobula::wait(picked.refs);
  check_positions(here, result, picked.refs.size());
  here.require(result.pending.empty(), "wait for all leaves none pending");
  check_ready(here, picked, result.ready);
}

void wait_for_some(Interpreter& here, Draw& draw, const Step&) {
  const Picked picked = some_numbers(here, draw, 10);
  const std::size_t count = draw.below(picked.refs.size() + 1);
  const Watched watch = here.watched("wait for " + std::to_string(count), explanations(picked.refs));
  const auto result = mobula::wait(picked.refs, {.count = count});
  check_positions(here, result, picked.refs.size());
  here.require(result.ready.size() >= count, "wait gives as many as it was asked for");
  check_ready(here, picked, result.ready);
}

void wait_a_while(Interpreter& here, Draw& draw, const Step&) {
  const Picked picked = some_numbers(here, draw, 10);
  const Watched watch = here.watched("wait for a while", explanations(picked.refs));
  const auto result = mobula::wait(picked.refs, {.timeout = microseconds(draw.below(4000))});
  check_positions(here, result, picked.refs.size());
  check_ready(here, picked, result.ready);
}

void as_completed_all(Interpreter& here, Draw& draw, const Step&) {
  const Picked picked = some_numbers(here, draw, 10);
  const Watched watch = here.watched("as_completed", explanations(picked.refs));
  std::vector<bool> is_seen(picked.refs.size());
  for (const auto& ref : mobula::as_completed(picked.refs)) {
    std::size_t position = 0;
    while (position < is_seen.size() && (is_seen[position] || !(picked.refs[position] == ref))) ++position;
    here.require(position < is_seen.size(), "as_completed gives each Ref as often as it is in the range");
    is_seen[position] = true;
    here.check(Known<Number>{ref, picked.nodes[position]});
  }
  here.require(std::find(is_seen.begin(), is_seen.end(), false) == is_seen.end(), "as_completed gives all Refs");
}

void as_completed_in_part(Interpreter& here, Draw& draw, const Step&) {
  const Picked picked = some_numbers(here, draw, 10);
  const Watched watch = here.watched("as_completed", explanations(picked.refs));
  Number left = draw.below(picked.refs.size() + 1);
  if (left == 0) return;
  for (const auto& ref : mobula::as_completed(picked.refs)) {
    here.require(static_cast<bool>(ref), "as_completed gives no empty Ref");
    if (--left == 0) break;
  }
}

void pause(Interpreter&, Draw& draw, const Step&) { std::this_thread::sleep_for(microseconds(draw.below(3000))); }

constexpr Operation kOperations[] = {
    {"get", 10, kAll, get_one},
    {"get_twice", 2, kAll, get_twice},
    {"get_in_time", 3, kAll, get_in_time},
    {"get_too_soon", 4, kAll, get_too_soon},
    {"get_batch", 5, kAll, get_batch},
    {"get_elements", 2, kAll, get_elements_backwards},
    {"get_range", 4, kAll, get_range},
    {"get_pair", 2, kAll, get_pair},
    {"view", 4, kAll, view_words},
    {"view_number", 2, kAll, view_number},
    {"view_for_long", 2, kAll, view_for_long},
    {"view_too_soon", 2, kAll, view_too_soon},
    {"wait_for_all", 3, kAll, wait_for_all},
    {"wait_for_some", 4, kAll, wait_for_some},
    {"wait_a_while", 3, kAll, wait_a_while},
    {"as_completed", 3, kAll, as_completed_all},
    {"as_completed_in_part", 2, kAll, as_completed_in_part},
    {"pause", 4, kAll, pause},
};

}  // namespace

std::span<const Operation> wait_operations() { return kOperations; }

}  // namespace random_programs
