// CPU time that each rank of an idle cluster takes: idle [SECONDS].
#include <sys/resource.h>

#include <thread>

#include "bench.hpp"

static double cpu_seconds() {
  rusage usage{};
  getrusage(RUSAGE_SELF, &usage);
  return static_cast<double>(usage.ru_utime.tv_sec + usage.ru_stime.tv_sec) +
         static_cast<double>(usage.ru_utime.tv_usec + usage.ru_stime.tv_usec) * 1e-6;
}

int main(int argc, char** argv) {
  bench::Report report("idle");
  return mobula::run(argc, argv, [&] {
    const int seconds = argc > 1 ? std::atoi(argv[1]) : 30;
    const auto ranks = mobula::cluster().ranks;
    const auto ask = [&] {
      std::vector<double> all;
      for (const auto& rank : ranks) {
        all.push_back(rank.slots > 0
                          ? mobula::get(mobula::remote<cpu_seconds>.with({.placement = mobula::on_rank(rank.rank)})())
                          : cpu_seconds());
      }
      return all;
    };
    const auto before = ask();
    std::this_thread::sleep_for(std::chrono::seconds(seconds));
    const auto after = ask();
    std::vector<double> percent;
    for (std::size_t i = 0; i < before.size(); ++i) percent.push_back((after[i] - before[i]) / seconds * 100);
    report.add("CPU of a rank, " + std::to_string(ranks.size()) + " ranks for " + std::to_string(seconds) + " s",
               percent, "%  (goal: under 1)");
  });
}
