// Many ranks on few cores, whose tasks only sleep: what of their time is lost. `mpirun --oversubscribe -n 257
// bench_sleepers`.
#include <ranges>
#include <thread>

#include "bench.hpp"

namespace {
constexpr double kLength = 0.5;  // s
void nap(int) { std::this_thread::sleep_for(std::chrono::duration<double>(kLength)); }
}  // namespace

int main(int argc, char** argv) {
  constexpr int kEach = 5;  // tasks of each worker
  std::vector<double> single, map;
  std::size_t workers = 0;
  return bench::main(
      argc, argv, nullptr,
      [&](int, double) {
        workers = static_cast<std::size_t>(mobula::cluster().slots);
        const auto n = static_cast<int>(workers) * kEach;
        const auto efficiency = [&](auto&& submit) {
          const double start = bench::seconds();
          mobula::wait(submit());
          return kEach * kLength / (bench::seconds() - start);
        };
        single.push_back(efficiency([n] {
          std::vector<mobula::Ref<void>> refs;
          for (int i = 0; i < n; ++i) refs.push_back(mobula::remote<nap>(i));
          return refs;
        }));
        map.push_back(efficiency([n] { return mobula::remote<nap>.map(std::views::iota(0, n)); }));
      },
      [&] {
        bench::Report report("sleepers");
        const std::string of = ", tasks of 0.5 s on " + std::to_string(workers) + " workers";
        report.add("one by one" + of, single, "efficiency");
        report.add("map" + of, map, "efficiency");
      },
      3);
}
