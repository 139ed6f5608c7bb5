// What the program knows of the values that it holds Refs to: a node for each, whose outcomes follow from those of its
// inputs.
#pragma once

#include <memory>
#include <optional>
#include <vector>

#include "random/outcome.hpp"

namespace random_programs {

struct Node {
  Outcomes own = {};  // how it may end where its inputs are well
  std::vector<std::shared_ptr<Node>> inputs = {};
  // Whether anyone who holds it may cancel it; once we did, what cancel said.
  bool may_be_cancelled = false;
  std::optional<bool> cancelled = {};
  bool ranks_are_lost = false;       // so it may end in what losses explain
  std::optional<Outcome> seen = {};  // how it did end: so it stays
};
using NodePtr = std::shared_ptr<Node>;

// All ways in which the node may end.
Outcomes outcomes_of(const Node& node);
// Whether it surely gives a value.
bool is_sure(const Node& node);

template <class T>
struct Known {
  mobula::Ref<T> ref;
  NodePtr node;
};

// The same on its way to another task: what may come of it, at any time.
template <class T>
struct Carried {
  mobula::Ref<T> ref;
  Outcomes outcomes;
  bool may_be_cancelled = false;

  template <class Archive>
  void serialize(Archive& archive, unsigned) {
    archive& ref& outcomes& may_be_cancelled;
  }
};

template <class T>
Carried<T> carried(const Known<T>& known) {
  return {known.ref, outcomes_of(*known.node), known.node->may_be_cancelled};
}

template <class T>
Known<T> known(const Carried<T>& carried, bool ranks_are_lost) {
  Node node;
  node.ranks_are_lost = ranks_are_lost;
  node.own = carried.outcomes;
  node.may_be_cancelled = carried.may_be_cancelled;
  return {carried.ref, std::make_shared<Node>(std::move(node))};
}

// A container of Refs, with the model of each.
struct Parcel {
  std::vector<Carried<Number>> numbers;
  std::vector<Carried<Words>> words;

  template <class Archive>
  void serialize(Archive& archive, unsigned) {
    archive& numbers& words;
  }
};
inline Number digest(const Parcel& parcel) { return mix(parcel.numbers.size() * 1000 + parcel.words.size()); }

}  // namespace random_programs
