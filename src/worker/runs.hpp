// The runs that a rank has begun and not ended. There may be thousands that wait for others, so nothing that happens
// often looks at all of them: those that are younger than kRunLimit are few, the others are found by their range, and
// are looked at when their time has come.
#pragma once

#include <map>
#include <set>
#include <utility>
#include <vector>

#include "core/list.hpp"
#include "core/trace.hpp"
#include "mobula/detail/ids.hpp"

namespace mobula::worker {

struct Run;

class Runs {
 public:
  static constexpr core::Time kRunLimit = 2'000'000;  // ns after which a run of several tasks is asked to end early

  bool empty() const { return all_.empty(); }
  std::size_t size() const { return all_.size(); }
  const std::vector<Run*>& all() const { return all_; }  // in no order

  // REQUIRES: it has its range, and the times of its start and deadline.
  void add(Run& run);
  void remove(Run& run);
  void starts_anew(Run& run, core::Time now);  // with what is left of its range

  // Calls `look(run)` for the runs whose time has come: first when kRunLimit or their deadline has passed, and then
  // when it says; 0: never. It must not add or remove runs.
  template <class F>
  void for_each_due(core::Time now, F&& look) {
    age(now);
    while (!due_.empty() && due_.begin()->first <= now) {
      Run& run = *due_.begin()->second;
      due_.erase(due_.begin());
      set_due(run, look(run));
    }
  }
  // Calls `visit(run)` for those with the task in their range, until it returns true. Of a task that runs twice, since
  // one is nobody's any more, it may be the other one only.
  template <class F>
  bool any_with(detail::ObjectId id, F&& visit) const {
    for (Run& run : young_) {
      if (contains(run, id) && visit(run)) return true;
    }
    auto behind = old_.upper_bound({id.span, id.index});
    while (behind != old_.begin()) {
      Run& run = *(--behind)->second;
      if (!contains(run, id)) return false;
      if (visit(run)) return true;
    }
    return false;
  }

 private:
  static bool contains(const Run& run, detail::ObjectId id);
  void age(core::Time now);
  void grow_old(Run& run, core::Time due);
  void set_due(Run& run, core::Time due);

  std::vector<Run*> all_;
  core::List<Run> young_;                                              // by their start
  std::multimap<std::pair<detail::SpanId, std::uint32_t>, Run*> old_;  // by their range
  std::set<std::pair<core::Time, Run*>> due_;                          // of those
};

}  // namespace mobula::worker
