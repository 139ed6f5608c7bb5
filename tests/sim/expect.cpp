#include "sim/expect.hpp"

#include <utility>

namespace mobula::sim {
namespace {

// What is expected changes with each cancel and each end that is seen.
std::uint64_t g_now = 1;

bool is_settled(const Expectation& of) { return of.as_of == g_now; }

void settle(Expectation& of) {
  of.as_of = g_now;
  if (of.known) {
    of.possible = *of.known;
    return;
  }
  of.possible = {std::nullopt, of.errors};
  std::vector<std::uint64_t> values;
  std::size_t unsure = 0;
  for (const Expected& input : of.inputs) {
    of.possible.errors |= input->possible.errors;
    if (input->possible.may_end_well)
      ++unsure;
    else if (input->possible.value)
      values.push_back(*input->possible.value);
  }
  of.possible.may_end_well = values.size() + unsure == of.inputs.size() && (of.fails ? of.may_end_well : unsure != 0);
  if (of.fails || values.size() != of.inputs.size()) return;
  of.possible.value = of.combine ? of.combine(values) : of.value;
}

}  // namespace

Expected gives(std::uint64_t value) {
  auto made = std::make_shared<Expectation>();
  made->value = value;
  return made;
}

Expected gives(std::uint64_t value, std::vector<Expected> inputs) {
  Expected made = gives(value);
  made->inputs = std::move(inputs);
  return made;
}

Expected combines(std::vector<Expected> inputs, Expectation::Combine combine) {
  auto made = std::make_shared<Expectation>();
  made->inputs = std::move(inputs);
  made->combine = std::move(combine);
  return made;
}

Expected fails(Kinds errors) {
  auto made = std::make_shared<Expectation>();
  made->fails = true;
  made->errors = errors;
  return made;
}

Expected gives_refs() {
  Expected made = gives(0);
  made->is_opaque = true;
  made->is_large = true;
  return made;
}

void set_cancelled(Expectation& expectation) {
  Expectation& of = expectation.whole != nullptr ? *expectation.whole : expectation;
  of.known = Possible{std::nullopt, {core::ErrorKind::cancelled}};
  ++g_now;
}

void may_fail(Expectation& expectation, Kinds errors) {
  expectation.errors |= errors;
  ++g_now;
}

void set_known(Expectation& expectation, const Seen& seen) {
  expectation.known = seen.value ? Possible{seen.value, {}} : Possible{std::nullopt, {seen.kind}};
  ++g_now;
}

// From the inputs up, without recursion: chains are long.
Possible possible(const Expected& expectation) {
  std::vector<Expectation*> todo{expectation.get()};
  while (!todo.empty()) {
    Expectation& next = *todo.back();
    const std::size_t before = todo.size();
    for (const Expected& input : next.inputs) {
      if (!is_settled(*input)) todo.push_back(input.get());
    }
    if (todo.size() != before && !next.known) continue;
    todo.resize(before);
    settle(next);
    todo.pop_back();
  }
  return expectation->possible;
}

std::string judge(const Expected& expectation, const Seen& seen, bool lossy, Kinds excused) {
  using core::ErrorKind;
  const Possible may = possible(expectation);
  if (lossy) {
    for (const auto kind :
         {ErrorKind::object_lost, ErrorKind::worker_lost, ErrorKind::infeasible, ErrorKind::actor_died})
      excused |= {kind};
  }
  if (seen.value && (may.value == seen.value || expectation->is_opaque)) return "";
  if (!seen.value && (may.errors.has(seen.kind) || excused.has(seen.kind))) return "";
  if (seen.value && lossy && may.may_end_well) return "";
  return "it " +
         (seen.value ? "gave " + std::to_string(*seen.value)
                     : "failed with an error of " + seen.error->failure.task + " " + seen.error->failure.id + ": " +
                           seen.error->message) +
         " in place of " + (may.value ? std::to_string(*may.value) : "an error");
}

}  // namespace mobula::sim
