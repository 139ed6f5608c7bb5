#include "random/model.hpp"

#include <unordered_map>

namespace random_programs {
namespace {

using Memory = std::unordered_map<const Node*, Outcomes>;

// `memory` keeps a node that is reached in several ways from being worked out each time.
const Outcomes& work_out(const Node& node, Memory& memory) {
  if (const auto found = memory.find(&node); found != memory.end()) return found->second;
  Outcomes outcomes;
  if (node.seen) {
    outcomes.push_back(*node.seen);
  } else {
    bool may_run = true;
    for (const NodePtr& input : node.inputs) {
      bool may_be_well = false;
      for (const Outcome& outcome : work_out(*input, memory)) {
        if (outcome.kind == Kind::value) {
          may_be_well = true;
        } else {
          add_to(outcomes, outcome);
        }
      }
      may_run = may_run && may_be_well;
    }
    if (node.cancelled == true) {
      add_to(outcomes, {Kind::cancelled, 0});
    } else {
      if (may_run) {
        for (const Outcome& outcome : node.own) add_to(outcomes, outcome);
      }
      if (node.may_be_cancelled) add_to(outcomes, {Kind::cancelled, 0});
    }
    if (node.ranks_are_lost) {
      for (const Kind kind : {Kind::worker_lost, Kind::object_lost, Kind::actor_died}) add_to(outcomes, {kind, 0});
    }
  }
  return memory[&node] = std::move(outcomes);
}

}  // namespace

Outcomes outcomes_of(const Node& node) {
  Memory memory;
  return work_out(node, memory);
}

bool is_sure(const Node& node) {
  const Outcomes outcomes = outcomes_of(node);
  return outcomes.size() == 1 && outcomes.front().kind == Kind::value;
}

}  // namespace random_programs
