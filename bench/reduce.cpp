// What does `reduce` cost beside the `map` that made its values, and beside getting and adding them up? Nanoseconds an
// element, for batches of a thousand to ten million numbers; the goal is at most three times the map, for any length.
// With a number as argument, that is the longest.
#include <ranges>

#include "bench.hpp"

static double third(long x) { return static_cast<double>(x) / 3; }
static double add(double a, double b) { return a + b; }

int main(int argc, char** argv) {
  bench::Report report("reduce");
  const long most = argc > 1 && argv[1][0] != '-' ? std::atol(argv[1]) : 10'000'000;
  return mobula::run(argc, argv, [&] {
    constexpr int kTurns = 5;
    for (long n = 1'000; n <= most; n *= 10) {
      std::vector<double> maps;
      std::vector<double> gets;
      std::vector<double> reduces;
      for (int turn = 0; turn <= kTurns; ++turn) {
        const auto each = [n](double since) { return (bench::seconds() - since) / static_cast<double>(n) * 1e9; };
        double start = bench::seconds();
        const auto batch = mobula::remote<third>.map(std::views::iota(0L, n));
        const auto values = mobula::get(batch);
        const double map = each(start);
        start = bench::seconds();
        double sum = 0;
        for (const double value : mobula::get(batch)) sum += value;
        const double get = each(start);
        start = bench::seconds();
        const double folded = mobula::get(mobula::reduce<add>(batch));
        const double reduce = each(start);
        if (std::abs(folded - sum) > std::abs(sum) * 1e-9) std::abort();
        if (turn == 0) continue;  // pages are touched for the first time
        maps.push_back(map);
        gets.push_back(get);
        reduces.push_back(reduce);
      }
      const std::string of = " of " + std::to_string(n);
      report.add("map" + of, maps, "ns each");
      report.add("get and add" + of, gets, "ns each");
      report.add("reduce" + of, reduces, "ns each");
      report.add_ratio("reduce / map" + of, reduces, maps, "goal: at most 3");
    }
  });
}
