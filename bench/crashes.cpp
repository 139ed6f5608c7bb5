// What does a process of its own cost a task, how many programs start a second (GNU parallel in turns, if it is there),
// what does a durable task cost (with --mobula-journal=DIR), and how long after a rank is killed do its tasks run
// again? With several ranks each turn loses one of them.
//   crashes [IMAGE RUNTIME]: also tasks and commands in containers of that image, which has this program
#include <signal.h>
#include <unistd.h>

#include <numeric>
#include <span>

#include "bench.hpp"

namespace {

constexpr int kTasks = 2000;
constexpr int kPrograms = 2000;

int twice(int x) { return 2 * x; }
double sum(std::span<const double> values) { return std::accumulate(values.begin(), values.end(), 0.0); }
struct Box {
  int add(int x) { return total += x; }
  int total = 0;
};

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
  return mobula::run(argc, argv, [&] {
    bench::Report report("crashes");
    std::vector<double> inside, warm, fresh, large_inside, large_warm, calls, boxed_calls, durable, programs, parallel,
        contained_tasks, contained_programs, again;
    const auto large = mobula::put(std::vector<double>(8 << 20, 1.0));
    const auto actor = mobula::actor<Box>();
    const auto boxed = mobula::actor<Box>.with({.isolation = mobula::sandbox{}})();
    mobula::container image;
    if (argc > 2) image = {.image = argv[1], .runtime = argv[2]};
    const auto sums = [&large](const mobula::TaskOptions& options) {
      return [&large, options](int n) {
        for (int i = 0; i < n; ++i) mobula::get(mobula::remote<sum>.with(options)(large));
      };
    };
    const auto call = [](const mobula::Actor<Box>& of) {
      return [&of](int n) {
        for (int i = 0; i < n; ++i) mobula::get(mobula::remote<&Box::add>(of, i));
      };
    };
    const auto map = [](const mobula::TaskOptions& options) {
      return [options](int n) {
        std::vector<int> xs(static_cast<std::size_t>(n));
        std::iota(xs.begin(), xs.end(), 0);
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
      large_inside.push_back(each(20, sums({})) * 1e3);
      large_warm.push_back(each(20, sums({.isolation = mobula::sandbox{}})) * 1e3);
      calls.push_back(each(kTasks, call(actor)) * 1e6);
      boxed_calls.push_back(each(kTasks, call(boxed)) * 1e6);
      if (mobula::has_journal()) {
        durable.push_back(each(kTasks, map({.durable = true, .version = std::to_string(bench::seconds())})) * 1e6);
      }
      if (argc > 2) {
        contained_tasks.push_back(each(kTasks / 10, map({.isolation = image})) * 1e6);
        contained_programs.push_back(1 / each(kPrograms / 10, [&](int n) {
                                       std::vector<mobula::Ref<mobula::CommandResult>> all;
                                       for (int i = 0; i < n; ++i)
                                         all.push_back(mobula::command({"/bin/true"}, {.isolation = image}));
                                       for (const auto& ref : all) mobula::get(ref);
                                     }));
      }
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
    report.add("a task that adds up 64 MiB in place", large_inside, "ms");
    report.add("the same in a sandbox", large_warm, "ms");
    report.add("a call of an actor", calls, "us");
    report.add("of one in a process of its own", boxed_calls, "us");
    if (!durable.empty()) report.add("a durable task, distinct arguments", durable, "us");
    if (argc > 2) {
      report.add("a task in a warm container", contained_tasks, "us");
      report.add("commands in containers", contained_programs, "/s");
    }
    report.add("command true", programs, "/s");
    report.add("GNU parallel, the same", parallel, "/s");
    for (std::size_t left = mobula::cluster().ranks.size() - 1; left > 1; --left) {
      const double start = bench::seconds();
      again.push_back((mobula::get(mobula::remote<die_once>()) - start) * 1e3);
    }
    report.add("SIGKILL to the task's second start", again, "ms");
  });
}
