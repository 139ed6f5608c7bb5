// Runs a program on the public API, in the driver, a task, a method or a thread of those, and compares all that comes
// of it with the model.
#pragma once

#include <chrono>
#include <thread>
#include <utility>

#include "random/model.hpp"
#include "random/operations.hpp"
#include "random/tally.hpp"
#include "random/watch.hpp"

namespace random_programs {

// What all programs of a round know of the job. It travels as its bytes.
struct Settings {
  std::int32_t driver = 0;         // its process
  std::int64_t patience = 20'000;  // milliseconds
  bool ranks_are_lost = false;
  bool may_choose_rank = true;   // each rank surely has room for a task of one cpu
  std::uint32_t first_rank = 0;  // of those with slots, which are consecutive
  std::uint32_t ranks = 1;       // with slots, and sure to stay
  std::uint32_t nodes = 1;
  std::uint32_t gang_most = 1;  // members of a gang that surely find room
  std::uint32_t wide_most = 1;  // cpus of a task that surely find room
};

// Where an actor is known to stand.
struct KnownTally {
  mobula::Actor<Tally> actor;
  bool is_own = true;    // else only its owner may end it
  bool may_die = false;  // by `kill`
  bool is_dead = false;
  Number calls = 0;  // made by this caller
};
using TallyPtr = std::shared_ptr<KnownTally>;

struct CarriedTally {
  mobula::Actor<Tally> actor;
  bool may_die = false;
  template <class Archive>
  void serialize(Archive& archive, unsigned) {
    archive& actor& may_die;
  }
};

struct KnownBatch {
  mobula::Batch<Number> batch;
  std::vector<NodePtr> nodes;
};

// A program on its way to a task or method, with what it is given to work on.
struct Order {
  Settings settings;
  std::string program;
  std::string path;  // of the step that sends it
  Number seed = 0;
  Number holders = 0;  // cpus that it may take for good
  Outcome ends_in = {};
  std::vector<Carried<Number>> numbers = {};
  std::vector<Carried<Words>> words = {};
  std::vector<CarriedTally> tallies = {};

  template <class Archive>
  void serialize(Archive& archive, unsigned) {
    archive& settings& program& path& seed& holders& ends_in& numbers& words& tallies;
  }
};

// An actor whose method runs a program. Only its maker calls it: programs that wait for each other's would stand still.
struct Host {
  Number run(const Order& order);
};

class Interpreter {
 public:
  Interpreter(Role role, const Settings& settings, std::string path, Number seed, Number holders);
  Interpreter(Role role, const Order& order);
  Interpreter(const Interpreter&) = delete;
  Interpreter& operator=(const Interpreter&) = delete;
  // Waits for the threads that it has started.
  ~Interpreter();

  // All steps; then waits for what is left and checks it, or drops it. Throws Wrong, once the driver has been told.
  void run(const Steps& steps);
  // The steps alone.
  void run_steps(const Steps& steps);

  const Settings& settings() const { return settings_; }
  Role role() const { return role_; }
  const std::string& path() const { return path_; }
  // What this program is called where it is the caller of an actor: each run of it has a name of its own.
  Number caller() const { return caller_; }

  // ---- nodes
  NodePtr node(Outcomes own, std::vector<NodePtr> inputs = {}) const;
  NodePtr value(Number digest, std::vector<NodePtr> inputs = {}) const {
    return node({{Kind::value, digest}}, std::move(inputs));
  }
  // The digest that the node gives if it gives a value at all.
  static Number digest_of(const NodePtr& node);

  // ---- what is known. One is made where there is none.
  Known<Number> number(Draw& draw);
  // One that surely gives its value.
  Known<Number> sure_number(Draw& draw);
  Known<Words> words(Draw& draw);
  Known<std::string> text(Draw& draw);
  KnownBatch batch(Draw& draw);
  TallyPtr tally(Draw& draw);

  void add(mobula::Ref<Number> ref, NodePtr node) { keep(numbers, {std::move(ref), std::move(node)}); }
  void add(mobula::Ref<Words> ref, NodePtr node) { keep(all_words, {std::move(ref), std::move(node)}); }
  void add(mobula::Ref<std::string> ref, NodePtr node) { keep(texts, {std::move(ref), std::move(node)}); }
  void add(mobula::Ref<void> ref, NodePtr node) { keep(voids, {std::move(ref), std::move(node)}); }
  void add(mobula::Ref<Parcel> ref, NodePtr node) { keep(parcels, {std::move(ref), std::move(node)}); }
  void add(mobula::Ref<mobula::Ref<Number>> ref, NodePtr node) { keep(boxes, {std::move(ref), std::move(node)}); }
  void add(const Parcel& parcel);

  std::vector<Known<Number>> numbers;
  std::vector<Known<Words>> all_words;
  std::vector<Known<std::string>> texts;
  std::vector<Known<void>> voids;
  std::vector<Known<Parcel>> parcels;
  std::vector<Known<mobula::Ref<Number>>> boxes;  // the node is that of what lies inside
  std::vector<KnownBatch> batches;
  std::vector<TallyPtr> tallies;
  std::vector<mobula::Actor<Host>> hosts;
  std::vector<mobula::View<Words>> views;
  std::vector<std::thread> threads;
  // cpus that may still be taken for good: by actors with cpus, and placement groups.
  Number holders = 0;

  // ---- waiting, and comparing
  template <class T>
  void check(const Known<T>& known, mobula::Duration timeout = mobula::none);
  void check(const KnownBatch& batch);
  void check_all();
  void drop_all();
  void join_threads();
  // Does what gives a digest or throws, and holds it against the node. Returns what came of it.
  template <class Act>
  Outcome observe(const NodePtr& node, const std::string& what, Act&& act, std::vector<Explanation> explain = {},
                  bool may_time_out = false);
  void judge(Node& node, const Outcome& outcome, const std::string& what, const std::string& text = {}) const;
  // What is not a node's outcome: a condition that must hold.
  void require(bool condition, const std::string& what) const {
    if (!condition) wrong(what);
  }
  // The call itself must throw one of these kinds.
  template <class Act>
  void expect_throw(const std::vector<Kind>& kinds, const std::string& what, Act&& act) const;
  [[noreturn]] void wrong(const std::string& what) const;
  Watched watched(const std::string& what, std::vector<Explanation> explain = {}) const {
    return Watched(path_ + ": " + what, std::move(explain));
  }

  // ---- programs elsewhere
  // With some of what is known here.
  Order order(Draw& draw, const Step& step);

 private:
  template <class T>
  void keep(std::vector<T>& shelf, T&& known) {
    constexpr std::size_t kMost = 40;
    if (shelf.size() >= kMost) shelf.erase(shelf.begin());
    shelf.push_back(std::move(known));
  }

  Role role_;
  Settings settings_;
  std::string root_;
  std::string path_;  // of the step that is being done
  Number seed_;
  Number caller_;
};

template <class T>
Explanation explanation(const mobula::Ref<T>& ref) {
  return [ref] { return mobula::explain(ref); };
}

template <class T>
std::vector<Explanation> explanations(const T& refs) {
  std::vector<Explanation> all;
  for (const auto& ref : refs) all.push_back(explanation(ref));
  return all;
}

template <class Act>
Outcome Interpreter::observe(const NodePtr& node, const std::string& what, Act&& act, std::vector<Explanation> explain,
                             bool may_time_out) {
  Outcome outcome;
  std::string text;
  {
    const Watched watch = watched(what, std::move(explain));
    try {
      outcome = {Kind::value, act()};
    } catch (...) {
      outcome = outcome_of(std::current_exception(), &text);
    }
  }
  if (!may_time_out || outcome.kind != Kind::timed_out) judge(*node, outcome, what, text);
  return outcome;
}

template <class T>
void Interpreter::check(const Known<T>& known, mobula::Duration timeout) {
  const auto act = [&]() -> Number {
    if constexpr (std::is_void_v<T>) {
      mobula::get(known.ref, timeout);
      return 0;
    } else if constexpr (std::is_same_v<T, mobula::Ref<Number>>) {
      return mobula::get(mobula::get(known.ref));
    } else if constexpr (std::is_same_v<T, Parcel>) {
      const Parcel parcel = mobula::get(known.ref, timeout);
      add(parcel);
      return digest(parcel);
    } else {
      return digest(mobula::get(known.ref, timeout));
    }
  };
  observe(known.node, "get", act, {explanation(known.ref)}, !timeout.is_none());
}

template <class Act>
void Interpreter::expect_throw(const std::vector<Kind>& kinds, const std::string& what, Act&& act) const {
  std::string text = "nothing was thrown";
  try {
    act();
  } catch (...) {
    const Outcome outcome = outcome_of(std::current_exception(), &text);
    for (const Kind kind : kinds) {
      if (outcome.kind == kind) return;
    }
  }
  wrong(what + " should have thrown another error: " + text);
}

}  // namespace random_programs
