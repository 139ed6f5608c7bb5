// Pi by counting random points in the quarter circle: a map, and a reduce over its results.
#include <cstdint>
#include <cstdlib>
#include <iostream>
#include <mobula/mobula.hpp>
#include <random>

struct Count {
  std::int64_t inside = 0;
  std::int64_t all = 0;
};

Count sample(std::uint64_t seed, std::int64_t points) {
  std::mt19937_64 random(seed);
  std::uniform_real_distribution<double> unit;
  Count count{0, points};
  for (std::int64_t i = 0; i < points; ++i) {
    const double x = unit(random);
    const double y = unit(random);
    if (x * x + y * y < 1) ++count.inside;
  }
  return count;
}

Count add(Count a, Count b) { return {a.inside + b.inside, a.all + b.all}; }

int main(int argc, char** argv) {
  return mobula::run(argc, argv, [&] {
    const std::uint64_t tasks = argc > 1 ? std::strtoull(argv[1], nullptr, 10) : 200;
    const std::int64_t points = argc > 2 ? std::atoll(argv[2]) : 100'000;
    const auto parts = mobula::remote<sample>.map(std::views::iota(std::uint64_t{0}, tasks), mobula::same(points));
    const Count total = mobula::get(mobula::reduce<add>(parts));
    std::cout << "pi is about " << 4.0 * static_cast<double>(total.inside) / static_cast<double>(total.all) << " from "
              << total.all << " points in " << tasks << " tasks\n";
  });
}
