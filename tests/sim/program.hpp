// A random program: its driver draws steps from the table of all, and remembers what must become of what they make.
#pragma once

#include <cstdint>
#include <span>
#include <string>
#include <utility>
#include <vector>

#include "sim/cluster.hpp"
#include "sim/expect.hpp"

namespace mobula::sim {

// An object that the driver holds, and what must become of it.
struct Known {
  Handle handle;
  Expected expected;
};

struct Called {
  detail::ActorBase actor;
  std::uint64_t calls = 0;        // of the driver
  std::vector<Expected> kept;     // what the Refs that it keeps stand for
  std::vector<Expected> pending;  // calls that may not have ended
  Known last;                     // call; its result may be an argument of others
};

class Program {
 public:
  explicit Program(Cluster& cluster) : cluster(cluster) {}
  Body run();

  std::uint64_t random(std::uint64_t below) { return cluster.random(below); }
  bool one_in(std::uint64_t n) { return random(n) == 0; }
  // Of rank 0, where the driver is.
  Handle submit(const FunctionInfo& function, const Cluster::Arguments& arguments, Deps deps = {},
                const TaskOptions* options = nullptr) {
    return cluster.submit(0, false, function, arguments, std::move(deps), options);
  }
  Handle submit_leaf(std::uint64_t seed, const TaskOptions* options = nullptr);
  Handle call(const detail::ActorBase& actor, const FunctionInfo& method, const Cluster::Arguments& arguments,
              Deps deps = {}) {
    return cluster.call(0, actor, method, {}, arguments, std::move(deps));
  }
  worker::Worker& worker() { return cluster.worker(0); }

  void expect(Handle handle, Expected expected) { known.push_back({std::move(handle), std::move(expected)}); }
  // Something that a task may take for a number: known already, new, or put. It may fail.
  Known some_number(std::uint64_t seed);
  Known put_number(std::uint64_t number);
  const Known& pick() { return known[random(known.size())]; }
  // Waits until the object is here; says for whom, should that never be.
  Body wait_for(const Handle& handle, std::string what = "");
  // Waits for the object, and holds it against what was expected.
  Body check(const Known& of);
  // The Ref in an object; empty if that has failed, as it may.
  Body open_ref(const Known& of, Handle* inside);
  // The Refs in a vector that is here.
  void open_refs(const Known& of, std::vector<Handle>* inside);
  // Cancels it, if that is possible.
  Body cancel(const Known& of);

  Cluster& cluster;
  std::vector<Known> known;
  std::vector<Called> actors;
};

// What a step gets.
struct Draw {
  std::uint64_t seed = 0;
  TaskOptions options;  // some; not all steps use them
  // For a task that waits for others that it did not submit: it must hold nothing that those may need.
  TaskOptions undemanding() const;
};

struct Step {
  const char* name;
  std::uint32_t weight;  // how often it is drawn, beside others
  Body (*act)(Program&, Draw);
};

// All of them, and the one that fills the ranks.
std::span<const Step> steps();
extern const Step kCrowd;

}  // namespace mobula::sim
