// What does a process of its own cost a task, how many programs start a second (GNU parallel in turns, if it is there),
// and how long after a rank is killed do its tasks run again? With several ranks each turn loses one of them.
#include <signal.h>
#include <unistd.h>

#include "bench.hpp"

namespace {

constexpr int kTasks = 2000;
constexpr int kPrograms = 2000;

int twice(int x) { return 2 * x; }

// Kills the rank of its first run. Returns when the second one began.
double die_once() {
  if (mobula::here().attempt == 1) kill(getpid(), SIGKILL);
  return bench::seconds();
}

template <class Submit>
double each(int n, Submit&& submit) {
  const double start = bench::seconds();
  submit(n);
  return (bench::seconds() - start) / n;
}

}  // namespace

int main(int argc, char** argv) {
  return mobula::run(argc, argv, [] {
    bench::Report report("crashes");
    std::vector<double> inside, warm, fresh, programs, parallel, again;
    const auto map = [](const mobula::TaskOptions& options) {
      return [options](int n) {
        std::vector<int> xs(static_cast<std::size_t>(n));
        mobula::get(mobula::remote<twice>.with(options).map(xs));
      };
    };
    const int slots = mobula::cluster().slots;
    const std::string rival =
        "seq " + std::to_string(kPrograms / 10) + " | parallel -j " + std::to_string(slots) + " true >/dev/null 2>&1";
    const bool has_rival = std::system("parallel --version >/dev/null 2>&1") == 0;
    for (int turn = 0; turn < 5; ++turn) {
      inside.push_back(each(kTasks * 50, map({})) * 1e6);
      warm.push_back(each(kTasks, map({.isolation = mobula::sandbox{}})) * 1e6);
      fresh.push_back(each(kTasks / 10, map({.isolation = mobula::sandbox{.reuse = false}})) * 1e6);
      programs.push_back(1 / each(kPrograms, [](int n) {
                           std::vector<mobula::Ref<mobula::CommandResult>> all;
                           for (int i = 0; i < n; ++i) all.push_back(mobula::command({"true"}));
                           for (const auto& ref : all) mobula::get(ref);
                         }));
      if (has_rival) {
        parallel.push_back(1 / each(kPrograms / 10, [&](int) { static_cast<void>(std::system(rival.c_str())); }));
      }
    }
    report.add("a task in the rank's process", inside, "us");
    report.add("in a warm sandbox", warm, "us");
    report.add("in a fresh sandbox", fresh, "us");
    report.add("command true", programs, "/s");
    report.add("GNU parallel, the same", parallel, "/s");
    for (std::size_t left = mobula::cluster().ranks.size() - 1; left > 1; --left) {
      const double start = bench::seconds();
      again.push_back((mobula::get(mobula::remote<die_once>()) - start) * 1e3);
    }
    report.add("SIGKILL to the task's second start", again, "ms");
  });
}
