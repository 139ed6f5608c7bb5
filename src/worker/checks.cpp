// What tests ask of a worker at rest: whether all that it knew of is gone.
#include <cmath>

#include "worker/worker.hpp"

namespace mobula::worker {

std::string Worker::what_is_left() const {
  std::string text;
  const auto name = [&text](std::size_t n, const char* what) {
    if (n != 0) text += std::to_string(n) + " " + what + ", ";
  };
  const auto differ = [](double a, double b) { return std::abs(a - b) > 1e-6; };
  name(pieces_.size() + queued_tasks_ + queued_without_cpus_ + unannounced_.size() + parked_.size(), "pieces");
  name(sent_.tasks() + sent_.bytes(), "tasks at the head, or bytes of them");
  name(running_.size(), "runs");
  name(members_.size(), "members of gangs");
  name(actors_.size() + callable_[0].size() + callable_[1].size(), "actors");
  name(calls_.size() + remotes_.size(), "pending calls");
  name(folds_.size(), "reductions");
  name(loans_.size(), "loans");
  name(interests_.size(), "interests");
  name(incoming_.size() + preparing_.size() + receiving_.size(), "values on their way");
  name(answers_.size(), "answers");
  name(failing_.size(), "pieces to fail");
  name(places_.size(), "places");
  name(in_store_, "bytes of inputs");
  if (resuming_ != 0) text += "threads that want their cpus, ";
  if (free_slots_.size() != settings_.slots) text += "slots are not free, ";
  if (differ(free_.cpus, settings_.slots) || differ(free_.gpus, settings_.offers.gpus) ||
      free_.memory != settings_.offers.memory) {
    text += std::to_string(free_.cpus) + " cpus are free, ";
  }
  if (actor_cpus_ != 0) text += std::to_string(actor_cpus_) + " cpus are of actors, ";
  for (const auto& [resource, amount] : settings_.offers.resources) {
    if (differ(free_.resources.at(resource), amount)) text += "some of " + resource + ", ";
  }
  if (unused_ != 0 || told_ != core::Lending{}) {
    text += std::to_string(unused_) + " cpus are unused, " + std::to_string(told_.cpus) + " told to be, ";
  }
  if (spoken_for_ != 0 || member_cpus_ != 0 || beside_ != 0) text += "cpus are of members, or of who waits, ";
  return text;
}

}  // namespace mobula::worker
