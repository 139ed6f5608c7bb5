#include "random/rounds.hpp"

#include <unistd.h>

#include <algorithm>
#include <cstdio>
#include <cstdlib>
#include <memory>

#include "random/disturbance.hpp"
#include "random/interpreter.hpp"
#include "random/rest.hpp"

namespace random_programs {
namespace {

using std::chrono::milliseconds;

std::int64_t patience() {
  const char* factor = std::getenv("RANDOM_PATIENCE");
  return static_cast<std::int64_t>(20'000 * (factor == nullptr ? 1.0 : std::atof(factor)));
}

// What a round may take for good, and what surely finds room beside that.
struct Shares {
  Number holders = 0;
  Number gang_most = 1;
  Number wide_most = 1;
};
// `ranks` with `slots` each, all of one node.
Shares shares_of(Number ranks, Number slots, bool some_hold) {
  if (!some_hold) return {0, ranks, std::min<Number>(4, ranks * slots)};
  if (ranks == 1) return {slots - 1, slots == 1 ? Number{1} : Number{0}, 1};
  if (slots == 1) return {ranks / 2, ranks - ranks / 2, ranks - ranks / 2};
  const Number holders = std::min<Number>(ranks - 1, 3);
  return {holders, ranks - holders, slots};
}

class Rounds {
 public:
  Rounds(const Options& options, std::string command_line) : options_(options), command_line_(std::move(command_line)) {
    settings_.driver = getpid();
    settings_.patience = patience();
    settings_.ranks_are_lost = options.kills != 0;
    start_watch(getpid(), milliseconds(settings_.patience));
    look_at_cluster();
  }

  int run() {
    const Number seeds = options_.last_seed - options_.first_seed + 1;
    const Number all = seeds * options_.rounds;
    Number done = 0;
    const auto start = std::chrono::steady_clock::now();
    std::unique_ptr<BusyNeighbours> neighbours;
    if (options_.busy) neighbours = std::make_unique<BusyNeighbours>();
    for (Number seed = options_.first_seed; seed <= options_.last_seed; ++seed) {
      for (Number round = 0; round < options_.rounds; ++round, ++done) {
        if (const int code = one(seed, round); code != kWell) return code;
        // By then all that is kept for the next round has been made.
        if (all >= 8 && done == all / 3) early_ = settled_figures();
      }
    }
    const std::string grown = options_.check_memory && !early_.empty() ? what_has_grown(done - done / 3) : "";
    if (!grown.empty()) {
      std::fprintf(stderr, "random: NOT AT REST: %s%s\n", title_.c_str(), grown.c_str());
      return kNotAtRest;
    }
    std::printf("random: well: %llu rounds, %llu steps, %.1f s\n", static_cast<unsigned long long>(done),
                static_cast<unsigned long long>(steps_),
                std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count());
    return kWell;
  }

 private:
  void look_at_cluster() {
    const mobula::ClusterInfo info = mobula::cluster();
    settings_.nodes = static_cast<std::uint32_t>(info.nodes.size());
    std::vector<std::uint32_t> ranks;
    slots_ = 1'000;
    for (const auto& rank : info.ranks) {
      if (rank.slots == 0) continue;
      ranks.push_back(rank.rank);
      slots_ = std::min(slots_, static_cast<Number>(rank.slots));
    }
    settings_.first_rank = ranks.front();
    settings_.ranks =
        static_cast<std::uint32_t>(ranks.size() - std::min<std::size_t>(options_.kills, ranks.size() - 1));
    for (const auto& [rank, figures] : figures_of_ranks(settings_.driver, milliseconds(settings_.patience))) {
      if (rank != 0) workers_.push_back(figures.process);
    }
    set_others(workers_);
  }

  // One program, and the rest after it.
  int one(Number seed, Number round) {
    const Number number = mix(seed) + round;
    const Steps steps = program_of(options_, seed, round);
    steps_ += size_of(steps);
    title_ = "seed " + std::to_string(seed) + ", round " + std::to_string(round) + ": " + command_line_;
    set_title(title_);
    const Shares shares = shares_of(settings_.ranks, slots_, Draw(number).one_in(2));
    settings_.gang_most = static_cast<std::uint32_t>(shares.gang_most);
    settings_.wide_most = static_cast<std::uint32_t>(shares.wide_most);
    settings_.may_choose_rank = options_.kills == 0 && (shares.holders == 0 || shares.holders < slots_);
    std::unique_ptr<Killer> killer;
    if (options_.kills != 0 && round == 0 && seed == options_.first_seed) {
      killer = std::make_unique<Killer>(number, workers_, std::min<Number>(options_.kills, workers_.size() - 1));
    }
    try {
      const std::string path = std::to_string(seed) + "." + std::to_string(round);
      Interpreter interpreter(Role::driver, settings_, path, number, shares.holders);
      interpreter.run(steps);
    } catch (const Wrong&) {
      return wrong();
    }
    if (something_is_wrong()) return wrong();
    if (!options_.check_rest) return kWell;
    const Watched watch("the wait for rest");
    const std::string held = wait_for_rest(milliseconds(settings_.patience / 2));
    if (held.empty()) return kWell;
    std::fprintf(stderr, "random: NOT AT REST: %s%s\n", title_.c_str(), held.c_str());
    say_all_waits();  // perhaps of a task that nobody has waited for
    return kNotAtRest;
  }

  int wrong() const {
    std::fprintf(stderr, "random: WRONG: %s\n", title_.c_str());
    return kWrongValue;
  }

  // Threads that nothing needs any more end within a second.
  std::map<std::uint32_t, Figures> settled_figures() const {
    std::this_thread::sleep_for(milliseconds(1500));
    return figures_of_ranks(settings_.driver, milliseconds(settings_.patience));
  }

  std::string what_has_grown(Number rounds) const {
    // Growth that is no leak: what the allocator keeps, and tables that grow to their largest.
    const Number most_kib = 16'384 + 64 * rounds;
    std::string text;
    for (int tries = 0; tries < 4; ++tries) {
      text.clear();
      for (const auto& [rank, now] : settled_figures()) {
        const auto before = early_.find(rank);
        if (before == early_.end()) continue;
        if (now.threads > before->second.threads + 1) {
          text += "\n  rank " + std::to_string(rank) + " has " + std::to_string(now.threads) + " threads, and had " +
                  std::to_string(before->second.threads);
        }
        if (now.resident_kib > before->second.resident_kib + most_kib) {
          text += "\n  rank " + std::to_string(rank) + " has " + std::to_string(now.resident_kib) +
                  " KiB in memory, and had " + std::to_string(before->second.resident_kib) + " when " +
                  std::to_string(rounds) + " rounds were still to come";
        }
      }
      if (text.empty()) break;
    }
    return text;
  }

  const Options& options_;
  std::string command_line_;
  std::string title_ = "the start";
  Settings settings_;
  Number slots_ = 1;  // of each rank
  std::vector<pid_t> workers_;
  Number steps_ = 0;
  std::map<std::uint32_t, Figures> early_;
};

}  // namespace

int run_rounds(const Options& options, const std::string& command_line) {
  set_title(command_line);
  const int code = Rounds(options, command_line).run();
  // Whatever hangs from now on is the end of the job.
  end_within(milliseconds(patience()), code);
  return code;
}

}  // namespace random_programs
