// What a wait for a value may end in: a value, or an error of some kind.
#pragma once

#include <exception>
#include <mobula/mobula.hpp>
#include <string>
#include <vector>

#include "random/values.hpp"

namespace random_programs {

enum class Kind : std::uint8_t {
  value,
  // Thrown by the programs' own functions.
  runtime_error,
  out_of_range,
  invalid_argument,
  task_error,
  // Raised by the runtime.
  timed_out,
  cancelled,
  actor_died,
  no_such_actor,
  backpressure,
  infeasible,
  store_full,
  task_crashed,
  command_failed,
  worker_lost,
  object_lost,
  error,
  // Nothing that a program ever expects.
  other,
};

struct Outcome {
  Kind kind = Kind::value;
  Number number = 0;  // the value's digest, or what the thrown text names; 0 for what the runtime raises
  bool operator==(const Outcome&) const = default;
};
using Outcomes = std::vector<Outcome>;

std::string text_of(const Outcome& outcome);
std::string text_of(const Outcomes& outcomes);
bool contains(const Outcomes& outcomes, const Outcome& outcome);
void add_to(Outcomes& outcomes, const Outcome& outcome);

// A failure of one of the programs' own kinds, that names a number.
Outcome some_failure(Draw& draw);
[[noreturn]] void throw_as(const Outcome& failure);

// Of an exception that came out of an API call. `text`, where given, receives its words.
Outcome outcome_of(const std::exception_ptr& exception, std::string* text = nullptr);

// A value or an error that contradicts the model. Passes all catches of std::exception.
struct Wrong {
  std::string text;
};
// The job ends, and with it whatever still runs in tasks and methods.
struct JobEnds {};

// ---- bodies of tasks that fail

Number thrower(Number seed, Outcome failure);
// Fails where the first argument says so.
Number throws_if(Number chosen, Number seed, Outcome failure);
// Fails until its attempt is `succeeds`.
Number fails_at_first(Number seed, Number succeeds, Outcome failure);
// Gets the result of a task that throws at the end of `levels` tasks that wait for one another.
Number throws_below(Number levels, Number seed, Outcome failure);

}  // namespace random_programs
