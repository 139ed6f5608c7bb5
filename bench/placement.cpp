// How evenly a graph's tasks are placed: naps with dependencies, on many ranks of few cores, against the time that they
// would take if no rank ever waited. What the head and messages cost is little beside a nap of 3 ms; what is lost is
// lost to placement, and to messages that are not heard at once.   mpirun --oversubscribe -n 9 bench_placement
#include <map>
#include <thread>

#include "bench.hpp"

namespace {

constexpr double kLength = 3e-3;  // s
constexpr int kSteps = 60;
using Row = std::vector<mobula::Ref<double>>;

double nap(double x) {
  std::this_thread::sleep_for(std::chrono::duration<double>(kLength));
  return x;
}
double cell(double l, double c, double r) { return nap((l + c + r) / 3); }

template <class Next>
double efficiency(int width, int workers, Next next) {
  const double start = bench::seconds();
  Row row;
  for (int i = 0; i < width; ++i) row.push_back(mobula::remote<nap>(1.0));
  for (int t = 1; t < kSteps; ++t) {
    Row below;
    for (int i = 0; i < width; ++i) below.push_back(next(row, static_cast<std::size_t>(i)));
    row = std::move(below);
  }
  mobula::wait(row);
  return kSteps * kLength * width / workers / (bench::seconds() - start);
}

}  // namespace

int main(int argc, char** argv) {
  std::map<std::pair<std::string, int>, std::vector<double>> found;
  int workers = 0;
  return bench::main(
      argc, argv, nullptr,
      [&](int, double) {
        workers = static_cast<int>(mobula::cluster().slots);
        for (const int columns : {1, 2, 4}) {
          const int width = columns * workers;
          const auto n = static_cast<std::size_t>(width);
          found[{"chains", columns}].push_back(
              efficiency(width, workers, [](const Row& r, std::size_t i) { return mobula::remote<nap>(r[i]); }));
          found[{"stencil", columns}].push_back(efficiency(width, workers, [n](const Row& r, std::size_t i) {
            return mobula::remote<cell>(r[(i + n - 1) % n], r[i], r[(i + 1) % n]);
          }));
        }
      },
      [&] {
        bench::Report report("placement");
        for (const auto& [of, values] : found)
          report.add(of.first + ", " + std::to_string(of.second) + " columns a worker", values, "efficiency");
      });
}
