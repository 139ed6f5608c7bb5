// What does `reduce` cost beside the `map` that made its values, and beside getting and adding them up? Nanoseconds an
// element, for batches of a thousand to ten million numbers; the goal is at most three times the map, for any length.
// The processor time is that of rank 0: alone, all that it takes. With a number as argument, that is the longest.
#include <sys/resource.h>

#include <cmath>
#include <ranges>

#include "bench.hpp"

namespace {

double third(long x) { return static_cast<double>(x) / 3; }
double add(double a, double b) { return a + b; }

double processor_seconds() {
  rusage used{};
  getrusage(RUSAGE_SELF, &used);
  const auto seconds = [](const timeval& t) {
    return static_cast<double>(t.tv_sec) + 1e-6 * static_cast<double>(t.tv_usec);
  };
  return seconds(used.ru_utime) + seconds(used.ru_stime);
}

struct Costs {
  std::vector<double> elapsed;
  std::vector<double> processor;
};

// Of what `act` does, for each of n elements.
template <class Act>
void measure(Costs& costs, long n, bool counts, const Act& act) {
  const double start = bench::seconds();
  const double used = processor_seconds();
  act();
  if (!counts) return;
  costs.elapsed.push_back((bench::seconds() - start) / static_cast<double>(n) * 1e9);
  costs.processor.push_back((processor_seconds() - used) / static_cast<double>(n) * 1e9);
}

}  // namespace

int main(int argc, char** argv) {
  bench::Report report("reduce");
  const long most = argc > 1 && argv[1][0] != '-' ? std::atol(argv[1]) : 10'000'000;
  return mobula::run(argc, argv, [&] {
    constexpr int kTurns = 5;
    for (long n = 1'000; n <= most; n *= 10) {
      Costs map;
      Costs get;
      Costs reduce;
      for (int turn = 0; turn <= kTurns; ++turn) {
        const bool counts = turn != 0;  // in the first one pages are touched for the first time
        mobula::Batch<double> batch;
        std::vector<double> values;
        double sum = 0;
        double folded = 0;
        measure(map, n, counts, [&] {
          batch = mobula::remote<third>.map(std::views::iota(0L, n));
          values = mobula::get(batch);
        });
        measure(get, n, counts, [&] {
          for (const double value : mobula::get(batch)) sum += value;
        });
        measure(reduce, n, counts, [&] { folded = mobula::get(mobula::reduce<add>(batch)); });
        if (std::abs(folded - sum) > std::abs(sum) * 1e-9) std::abort();
      }
      const std::string of = " of " + std::to_string(n);
      report.add("map" + of, map.elapsed, "ns each");
      report.add("get and add" + of, get.elapsed, "ns each");
      report.add("reduce" + of, reduce.elapsed, "ns each");
      report.add_ratio("reduce / map" + of, reduce.elapsed, map.elapsed, "goal: at most 3");
      report.add("map: processor time" + of, map.processor, "ns each");
      report.add("reduce: processor time" + of, reduce.processor, "ns each");
    }
  });
}
