#include "random/outcome.hpp"

#include <algorithm>
#include <array>
#include <cstdlib>
#include <new>
#include <stdexcept>

namespace random_programs {
namespace {

constexpr std::array kNames{"value",      "runtime_error", "out_of_range", "invalid_argument", "TaskError",
                            "TimedOut",   "Cancelled",     "ActorDied",    "NoSuchActor",      "Backpressure",
                            "Infeasible", "StoreFull",     "TaskCrashed",  "CommandFailed",    "WorkerLost",
                            "ObjectLost", "Error",         "another error"};

constexpr std::string_view kMark = "failure number ";

// Of the program's own exceptions: neither is one of the standard types.
struct OwnError : std::exception {
  explicit OwnError(std::string what) : text(std::move(what)) {}
  const char* what() const noexcept override { return text.c_str(); }
  std::string text;
};

// What the text of one of our own exceptions names; 0 where it names nothing.
Number named_in(std::string_view text) {
  const std::size_t position = text.find(kMark);
  if (position == std::string_view::npos) return 0;
  return std::strtoull(std::string(text.substr(position + kMark.size())).c_str(), nullptr, 10);
}

// The kinds in the order in which they are tried: derived ones before their bases.
template <class Exception>
bool is(const std::exception& e) {
  return dynamic_cast<const Exception*>(&e) != nullptr;
}
Kind kind_of(const std::exception& e) {
  if (is<mobula::TaskError>(e)) return Kind::task_error;
  if (is<mobula::TimedOut>(e)) return Kind::timed_out;
  if (is<mobula::Cancelled>(e)) return Kind::cancelled;
  if (is<mobula::ActorDied>(e)) return Kind::actor_died;
  if (is<mobula::NoSuchActor>(e)) return Kind::no_such_actor;
  if (is<mobula::Backpressure>(e)) return Kind::backpressure;
  if (is<mobula::Infeasible>(e)) return Kind::infeasible;
  if (is<mobula::StoreFull>(e)) return Kind::store_full;
  if (is<mobula::TaskCrashed>(e)) return Kind::task_crashed;
  if (is<mobula::CommandFailed>(e)) return Kind::command_failed;
  if (is<mobula::WorkerLost>(e)) return Kind::worker_lost;
  if (is<mobula::ObjectLost>(e)) return Kind::object_lost;
  if (is<mobula::ProtocolError>(e)) return Kind::other;
  if (is<mobula::Error>(e)) return Kind::error;
  if (is<std::out_of_range>(e)) return Kind::out_of_range;
  if (is<std::invalid_argument>(e)) return Kind::invalid_argument;
  if (is<std::runtime_error>(e)) return Kind::runtime_error;
  return Kind::other;
}

}  // namespace

std::string text_of(const Outcome& outcome) {
  std::string text = kNames[static_cast<std::size_t>(outcome.kind)];
  if (outcome.kind == Kind::value || outcome.number != 0) text += " " + std::to_string(outcome.number);
  return text;
}

std::string text_of(const Outcomes& outcomes) {
  std::string text;
  for (const Outcome& outcome : outcomes) text += (text.empty() ? "" : ", or ") + text_of(outcome);
  return text.empty() ? "nothing at all" : text;
}

bool contains(const Outcomes& outcomes, const Outcome& outcome) {
  return std::find(outcomes.begin(), outcomes.end(), outcome) != outcomes.end();
}

void add_to(Outcomes& outcomes, const Outcome& outcome) {
  if (!contains(outcomes, outcome)) outcomes.push_back(outcome);
}

Outcome some_failure(Draw& draw) {
  constexpr std::array kinds{Kind::runtime_error, Kind::out_of_range, Kind::invalid_argument, Kind::task_error};
  const Kind kind = kinds[draw.below(kinds.size())];
  return {kind, 1 + draw.seed()};
}

void throw_as(const Outcome& failure) {
  const std::string text = std::string(kMark) + std::to_string(failure.number);
  switch (failure.kind) {
    case Kind::out_of_range: throw std::out_of_range(text);
    case Kind::invalid_argument: throw std::invalid_argument(text);
    case Kind::task_error: throw OwnError(text);
    default: throw std::runtime_error(text);
  }
}

Outcome outcome_of(const std::exception_ptr& exception, std::string* text) {
  try {
    std::rethrow_exception(exception);
  } catch (const Wrong&) {
    throw;
  } catch (const JobEnds&) {
    throw;
  } catch (const std::exception& e) {
    const std::string_view words = e.what();
    for (const std::string_view end : {"the job ended", "the job has ended"}) {
      if (words.find(end) != std::string_view::npos) throw JobEnds();
    }
    if (text != nullptr) *text = e.what();
    const Kind kind = kind_of(e);
    const bool own = kind == Kind::task_error || (kind >= Kind::runtime_error && kind <= Kind::invalid_argument);
    return {kind, own ? named_in(e.what()) : 0};
  } catch (...) {
    if (text != nullptr) *text = "no std::exception";
    return {Kind::other, 0};
  }
}

Number thrower(Number seed, Outcome failure) {
  nap(seed, 4);
  throw_as(failure);
}

Number throws_if(Number chosen, Number seed, Outcome failure) {
  if (chosen != 0) throw_as(failure);
  return leaf(seed);
}

Number fails_at_first(Number seed, Number succeeds, Outcome failure) {
  if (static_cast<Number>(mobula::here().attempt) < succeeds) throw_as(failure);
  return mix(seed);
}

Number throws_below(Number levels, Number seed, Outcome failure) {
  if (levels == 0) return thrower(seed, failure);
  return mobula::get(mobula::remote<throws_below>(levels - 1, seed, failure));
}

}  // namespace random_programs
