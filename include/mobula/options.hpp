// What a task may ask for.
#pragma once

#include <chrono>
#include <cstddef>
#include <cstdint>
#include <map>
#include <string>
#include <variant>
#include <vector>

#include "mobula/detail/handle.hpp"

namespace mobula {

// A length of time, or none. Made from any std::chrono duration.
struct Duration {
  std::int64_t nanoseconds = -1;  // negative: none

  constexpr Duration() = default;
  template <class Rep, class Period>
  constexpr Duration(std::chrono::duration<Rep, Period> d)  // NOLINT: 5ms is meant to be a Duration
      : nanoseconds(std::chrono::duration_cast<std::chrono::nanoseconds>(d).count()) {}

  constexpr bool is_none() const { return nanoseconds < 0; }
  bool operator==(const Duration&) const = default;
};
inline constexpr Duration none{};

// What one task holds while it runs. A rank offers its slots as cpus.
struct Demand {
  double cpus = 1;  // 0: shares a slot's time with others
  double gpus = 0;
  std::size_t memory = 0;                        // bytes
  std::map<std::string, double> resources = {};  // by name, as ranks offer them (--mobula-resources)
  bool operator==(const Demand&) const = default;
};

// Where a task may or should run. on_node, on_rank, one_per_node and bundles (placement_group.hpp) are strict; the
// others are preferences.
struct Placement {
  enum class Kind : std::uint8_t { any, pack, spread, on_node, on_rank, near, one_per_node, bundle };
  Kind kind = Kind::any;
  std::uint32_t index = 0;     // of the node, rank or bundle
  detail::Handle object = {};  // for near; of a bundle, its group
  bool operator==(const Placement&) const = default;
};
inline const Placement any{};
inline const Placement pack{Placement::Kind::pack, 0, {}};                  // fill ranks in order
inline const Placement spread{Placement::Kind::spread, 0, {}};              // the emptiest rank
inline const Placement one_per_node{Placement::Kind::one_per_node, 0, {}};  // of gangs
inline Placement on_node(std::uint32_t index) { return {Placement::Kind::on_node, index, {}}; }
inline Placement on_rank(std::uint32_t index) { return {Placement::Kind::on_rank, index, {}}; }
// The rank that holds, or will make, the object; the rank of an actor.
inline Placement near(const detail::RefBase& ref) { return {Placement::Kind::near, 0, ref.handle()}; }

// In the rank's process, beside others.
struct InProcess {
  bool operator==(const InProcess&) const = default;
};
inline constexpr InProcess in_process{};

// In a process of its own, without MPI: what ends it (a signal, `exit`, a limit) is an error of the task, TaskCrashed,
// and no harm to the rank. Its arguments and its result travel as they do between ranks, large values in memory that
// the processes share; it can't use Refs, nor start tasks. What it prints is passed on, and the last lines travel with
// the error. Of an actor: its object lives there.
struct sandbox {
  std::size_t memory = 0;  // bytes of address space that it may add; 0: TaskOptions::memory, if set
  Duration time = none;    // of each task or call, from its start; then TaskCrashed
  std::string cwd = {};    // its working directory
  std::map<std::string, std::string> env = {};  // set besides what the rank has
  bool reuse = true;                            // tasks with the same sandbox take turns in warm processes
  bool operator==(const sandbox&) const = default;
};

// In a container of an image. Of commands: the image has the program. Of tasks and actors: it has this very program, at
// the same path, with the libraries that it needs; it is started there with the same arguments, and otherwise this is a
// sandbox. The runtime is the first that a rank has in PATH of Apptainer, Charliecloud, Podman and Docker; only ranks
// that have it get such tasks. TaskOptions::memory is a limit there.
struct container {
  // As the runtime names it: a file, a folder, or a name with a tag; or an archive (.tar, .tar.gz) as `docker save` and
  // `docker export` make them. What must be fetched or unpacked first is so once for each node (Config::images).
  std::string image;
  std::vector<std::string> binds = {};  // "/host/path" or "/host/path:/path/in/container"
  std::map<std::string, std::string> env = {};
  bool gpus = false;         // show the node's GPUs
  std::string runtime = {};  // "apptainer", "charliecloud", "podman" or "docker"; "": the first one
  bool reuse = true;         // those with the same image take turns in warm containers, where that saves time
  bool operator==(const container&) const = default;
};

using Isolation = std::variant<InProcess, sandbox, container>;

struct TaskOptions {
  double cpus = 1;
  double gpus = 0;
  std::size_t memory = 0;
  std::map<std::string, double> resources = {};
  std::vector<Demand> alternatives = {};  // tried in order after the demand above
  int retries = 3;                        // runs after the first one; for a lost worker
  bool retry_exceptions = false;          // and for exceptions of the task itself
  int priority = 0;                       // higher first
  std::string name = {};                  // default: the function's name
  Duration timeout = none;                // from the start of execution; then TimedOut
  Duration time_request = none;           // not started where less of the allocation's time is left
  Placement placement = any;
  Isolation isolation = in_process;
  // With a journal (setting `journal`): the result is kept there, and a task of a later job with the same function,
  // version and arguments takes it in place of running. So it must depend on nothing else. What it throws is not kept.
  // Arguments are compared by their bytes, those between the members of a struct too. No Refs inside arguments.
  bool durable = false;
  std::string version = {};  // what you call this version of its code

  bool operator==(const TaskOptions&) const = default;
};

// Of each member of a gang. Placement pack takes few nodes, spread many; any takes what is free. Retries run the whole
// gang again. The timeout is for each member.
using GangOptions = TaskOptions;

struct ActorOptions {
  double cpus = 0;  // 1 and more: slots of its own, for as long as it lives; 0: shares them with others
  double gpus = 0;
  std::size_t memory = 0;
  std::map<std::string, double> resources = {};
  std::string name = {};          // for find_actor; one actor of a name at a time
  bool get_if_exists = false;     // an actor of that name and class is taken in place of a new one
  bool detached = false;          // lives to the end of the job
  int restarts = 0;               // constructed anew, elsewhere, when its rank is lost
  int call_retries = 0;           // runs of a call after the first, when the rank was lost meanwhile; needs restarts
  std::uint32_t max_pending = 0;  // calls of one rank that have not ended; more throw Backpressure; 0: no limit
  std::uint32_t concurrency = 1;  // calls that may run at once, on threads of their own
  Placement placement = any;
  // In a process of its own, which runs its calls one at a time. If it ends, the call that it was at throws
  // TaskCrashed, or runs again where call_retries allow; restarts have it made anew there, and without any are left all
  // later calls throw ActorDied.
  Isolation isolation = in_process;
  // If not 0: after so many calls the object's state is saved by its `serialize` and kept by the head, and a restart
  // goes on from there: constructed from the same arguments, then read. Needs restarts and concurrency 1.
  std::uint32_t checkpoint_every = 0;
  // With a journal: saved states are kept there too, and an actor of this name and class in a later job goes on from
  // the last one. Needs a name and checkpoint_every, but no restarts.
  bool durable = false;
};

}  // namespace mobula
