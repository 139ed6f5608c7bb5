#include "worker/runs.hpp"

#include <algorithm>

#include "worker/worker.hpp"

namespace mobula::worker {

void Runs::add(Run& run) {
  run.running_at = all_.size();
  all_.push_back(&run);
  if (run.deadline == 0) {
    young_.push_back(run);
  } else {
    grow_old(run, std::min(run.deadline, run.started + kRunLimit));
  }
}

void Runs::remove(Run& run) {
  all_.back()->running_at = run.running_at;
  all_[run.running_at] = all_.back();
  all_.pop_back();
  if (run.list == &young_) {
    young_.erase(run);
    return;
  }
  if (run.due != 0) due_.erase({run.due, &run});
  const auto [first, last] = old_.equal_range({run.range.span, run.began_at});
  old_.erase(std::find_if(first, last, [&run](const auto& entry) { return entry.second == &run; }));
}

void Runs::starts_anew(Run& run, core::Time now) {
  run.started = now;
  if (run.list != &young_) return;  // what is to be done with one that takes long is done
  young_.erase(run);
  young_.push_back(run);
}

bool Runs::contains(const Run& run, detail::ObjectId id) {
  return run.range.span == id.span && run.range.begin <= id.index && id.index < run.range.end;
}

void Runs::age(core::Time now) {
  while (!young_.empty() && now - young_.front()->started > kRunLimit) {
    Run& run = *young_.front();
    young_.erase(run);
    grow_old(run, now);
  }
}

void Runs::grow_old(Run& run, core::Time due) {
  run.began_at = run.range.begin;
  old_.emplace(std::pair{run.range.span, run.began_at}, &run);
  set_due(run, due);
}

void Runs::set_due(Run& run, core::Time due) {
  run.due = due;
  if (due != 0) due_.emplace(due, &run);
}

}  // namespace mobula::worker
