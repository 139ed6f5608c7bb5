#include "model/explorer.hpp"

#include <algorithm>
#include <string_view>
#include <unordered_map>
#include <vector>

namespace mobula::model {
namespace {

struct Hash {
  std::size_t operator()(const State& state) const {
    return std::hash<std::string_view>()({reinterpret_cast<const char*>(&state), sizeof state});
  }
};

// How a state was reached first.
struct Way {
  std::uint32_t from = 0;
  const char* what = "";
  std::uint8_t task = kNone;
  std::uint8_t rank = kNone;
};

class Explorer {
 public:
  Explorer(Model& model, const Plan& plan, bool invariants) : model_(model), plan_(plan), invariants_(invariants) {}

  Findings run() {
    add(model_.first(), {});
    for (std::uint32_t at = 0; at < states_.size() && findings_.verdict == Verdict::good; ++at) look_at(at);
    findings_.states = states_.size();
    findings_.steps = edges_.size();
    if (findings_.verdict == Verdict::good) look_for_livelock();
    return std::move(findings_);
  }

 private:
  std::uint32_t add(const State& state, const Way& way) {
    const auto [found, fresh] = ids_.emplace(state, static_cast<std::uint32_t>(states_.size()));
    if (fresh) {
      states_.push_back(state);
      ways_.push_back(way);
    }
    return found->second;
  }

  void look_at(std::uint32_t at) {
    const State state = states_[at];  // more of them move the others
    if (invariants_) {
      if (const std::string why = model_.why_wrong(state); !why.empty()) return report(Verdict::wrong, why, at);
    }
    model_.steps_from(state, steps_);
    for (const Step& step : steps_) edges_.emplace_back(at, add(step.next, {at, step.what, step.task, step.rank}));
    if (!steps_.empty()) return;
    if (model_.all_done(state)) {
      if (!model_.all_free(state)) return report(Verdict::leak, "all is done, and not all is free", at);
    } else if (model_.is_starved(state)) {
      ++findings_.starved;
    } else {
      return report(Verdict::deadlock, "nothing can happen any more, and not all is done", at);
    }
    ends_.push_back(at);
  }

  // From the ends backwards.
  void look_for_livelock() {
    std::sort(edges_.begin(), edges_.end(), [](const auto& a, const auto& b) { return a.second < b.second; });
    std::vector<bool> leads_to_end(states_.size());
    for (const std::uint32_t end : ends_) leads_to_end[end] = true;
    while (!ends_.empty()) {
      const std::uint32_t to = ends_.back();
      ends_.pop_back();
      auto edge = std::lower_bound(edges_.begin(), edges_.end(), to,
                                   [](const auto& each, std::uint32_t id) { return each.second < id; });
      for (; edge != edges_.end() && edge->second == to; ++edge) {
        if (leads_to_end[edge->first]) continue;
        leads_to_end[edge->first] = true;
        ends_.push_back(edge->first);
      }
    }
    const auto lost = std::find(leads_to_end.begin(), leads_to_end.end(), false);
    if (lost == leads_to_end.end()) return;
    report(Verdict::livelock, "no way leads to where all is done",
           static_cast<std::uint32_t>(lost - leads_to_end.begin()));
  }

  void report(Verdict verdict, const std::string& why, std::uint32_t at) {
    findings_.verdict = verdict;
    std::vector<const Way*> ways;
    for (std::uint32_t id = at; id != 0; id = ways_[id].from) ways.push_back(&ways_[id]);
    std::string& text = findings_.text;
    text = why + "\n" + to_string(plan_) + "  steps:\n";
    for (auto way = ways.rbegin(); way != ways.rend(); ++way) {
      text += "    ";
      if ((*way)->task != kNone) text += "task " + std::to_string((*way)->task) + " ";
      text += (*way)->what;
      if ((*way)->rank < kRanks) text += ", rank " + std::to_string((*way)->rank);
      text += "\n";
    }
    text += "  so it stands like this:\n" + model_.describe(states_[at]);
  }

  Model& model_;
  const Plan& plan_;
  const bool invariants_;
  std::vector<State> states_;
  std::vector<Way> ways_;
  std::unordered_map<State, std::uint32_t, Hash> ids_;
  std::vector<std::pair<std::uint32_t, std::uint32_t>> edges_;  // from, to
  std::vector<std::uint32_t> ends_;
  std::vector<Step> steps_;
  Findings findings_;
};

}  // namespace

Findings explore(Model& model, const Plan& plan, bool invariants) { return Explorer(model, plan, invariants).run(); }

}  // namespace mobula::model
