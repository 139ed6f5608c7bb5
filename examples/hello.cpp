// Squares of a thousand numbers, each in a task of its own.
#include <iostream>
#include <mobula/mobula.hpp>
#include <numeric>

int square(int x) { return x * x; }

int main(int argc, char** argv) {
  return mobula::run(argc, argv, [] {
    auto squares = mobula::remote<square>.map(std::views::iota(0, 1000));  // Batch<int>
    const std::vector<int> values = mobula::get(squares);
    std::cout << "sum of squares: " << std::accumulate(values.begin(), values.end(), 0L) << '\n';
    for (const auto& rank : mobula::cluster().ranks) {
      std::cout << rank.name << " on " << rank.host << ", " << rank.slots << " slots\n";
    }
  });
}
