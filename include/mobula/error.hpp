// Every error that Mobula raises. `what()` says what happened, to what, and what to do about it.
#pragma once

#include <cstdint>
#include <exception>
#include <memory>
#include <stdexcept>
#include <string>

namespace mobula {

// Where a failed task ran. For a failure that spread through dependents, this is the first task that failed.
struct Failure {
  std::string task;        // the task's name
  std::string id;          // "rank.sequence.index"
  std::uint32_t rank = 0;  // where it ran last
  std::string host;
  int attempt = 0;  // 1 for the first run
};

// What each error ends is said beside it; the job goes on after all of them but ConfigError and VersionMismatch.
class Error : public std::runtime_error {
 public:
  using std::runtime_error::runtime_error;
};

class TaskError : public Error {  // a task threw something that is not a standard exception type
 public:
  using Error::Error;
};
class WorkerLost : public Error {  // the task's rank died, and its retries are used up
 public:
  using Error::Error;
};
class ObjectLost : public Error {  // no copy of the value is left, and it can't be made again
 public:
  using Error::Error;
};
class Infeasible : public Error {  // no rank can ever meet the demand; thrown at the submission
 public:
  using Error::Error;
};
class StoreFull : public Error {  // the value does not fit into memory
 public:
  using Error::Error;
};
class TimedOut : public Error {  // a time limit passed: of a task (TaskOptions::timeout) or of a get or wait
 public:
  using Error::Error;
};
class Cancelled : public Error {  // the task was cancelled before it could finish
 public:
  using Error::Error;
};
class ActorDied : public Error {  // the actor was killed, was lost with its rank, or its constructor failed
 public:
  using Error::Error;
};
class NoSuchActor : public Error {  // no actor of that name and class is there
 public:
  using Error::Error;
};
class Backpressure : public Error {  // too many calls of this rank are pending at the actor (ActorOptions::max_pending)
 public:
  using Error::Error;
};
class TaskCrashed : public Error {  // a sandboxed task was ended by a signal, `exit`, or a limit; with its last output
 public:
  using Error::Error;
};
class CommandFailed : public Error {  // a program could not be started, or ended with another code than 0 (`check`)
 public:
  using Error::Error;
};
class ConfigError : public Error {  // a setting is unknown or malformed; the job does not start
 public:
  using Error::Error;
};
class ProtocolError : public Error {  // a message or value is damaged
 public:
  using Error::Error;
};
class VersionMismatch : public Error {  // the ranks run different binaries; the job does not start
 public:
  using Error::Error;
};

// The task behind an exception that came out of a Ref; nullptr for any other exception. The pointer lives as long as
// `e`. To be called on the exception as it was caught, by reference.
const Failure* failure_of(const std::exception& e) noexcept;

}  // namespace mobula
