// How errors travel: an exception becomes an ErrorRecord where it was thrown, and an exception again where the value is
// asked for.
#pragma once

#include <exception>
#include <memory>
#include <optional>
#include <string>

#include "mobula/detail/ids.hpp"
#include "mobula/error.hpp"

namespace mobula::core {

enum class ErrorKind : std::uint8_t {
  standard,  // a standard exception type, named by ErrorRecord::type
  task,      // any other exception
  worker_lost,
  object_lost,
  infeasible,
  store_full,
  timed_out,
  cancelled,
  protocol,
  actor_died,
  no_such_actor,
  backpressure,
  deadlock,  // Error itself
  task_crashed,
  command_failed,
  last = command_failed,
};

struct ErrorRecord {
  ErrorKind kind = ErrorKind::task;
  std::string type;     // the exception's type
  std::string message;  // what() as it was thrown
  int code = 0;         // std::system_error: the value in the generic or system category
  bool system_category = false;
  Failure failure;

  template <class V>
  void fields(V&& visit) {
    visit(kind, type, message, code, system_category, failure.task, failure.id, failure.rank, failure.host,
          failure.attempt);
  }
};
using ErrorPtr = std::shared_ptr<const ErrorRecord>;

// The record of a caught exception. One that came out of a Ref keeps the failure it carries: the first task's.
// May call what() of a user's exception: without the rank's lock, or for one that `detached` gave.
ErrorRecord capture(const std::exception_ptr& error, const Failure& where);
// The exception that is being handled, as one that `capture` makes the same of, and with which no code of the user's
// runs any more: neither what() nor a destructor. To be called where such code may run.
std::exception_ptr detached();

// Throws what the record stands for, carrying the failure.
[[noreturn]] void raise(const ErrorRecord& record);

std::string to_string(detail::ObjectId id);
// An error that the runtime found about an object or the task that makes it. `rank` kNoRank: none.
ErrorPtr make_error(ErrorKind kind, std::string message, std::string task, detail::ObjectId id, detail::RankId rank,
                    int attempt, std::string host = "");
std::optional<detail::ObjectId> parse_id(const std::string& text);  // of what to_string gave
std::string demangle(const char* name);
std::string type_name(
    const std::exception& error);  // as users know it: one that came out of a Ref is of a type of ours

[[noreturn]] void check_failed(const char* condition, const char* file, int line, const std::string& message);

// Invariants that stay on in release builds.
#define MOBULA_CHECK(condition, message) \
  (static_cast<bool>(condition) ? void() : ::mobula::core::check_failed(#condition, __FILE__, __LINE__, (message)))

}  // namespace mobula::core
