// Tasks with dependencies that do nothing: a chain, and a 1-D stencil with 3 of them. How long tasks must be for that
// not to matter is what bench_metg finds.
#include "bench.hpp"

namespace {

constexpr int kColumns = 64;

double cell(double l, double c, double r) { return (l + c + r) / 3; }
double first(double x) { return x; }
int next(int x) { return x + 1; }

double task_stencil(int steps) {
  const double start = bench::seconds();
  std::vector<mobula::Ref<double>> row;
  for (int i = 0; i < kColumns; ++i) row.push_back(mobula::remote<first>(1.0));
  for (int t = 1; t < steps; ++t) {
    std::vector<mobula::Ref<double>> above;
    above.reserve(kColumns);
    for (std::size_t i = 0; i < kColumns; ++i) {
      above.push_back(mobula::remote<cell>(row[(i + kColumns - 1) % kColumns], row[i], row[(i + 1) % kColumns]));
    }
    row = std::move(above);
  }
  mobula::wait(row);
  return bench::seconds() - start;
}

}  // namespace

int main(int argc, char** argv) {
  std::vector<double> chain, cell_us;
  std::size_t workers = 0;
  return bench::main(
      argc, argv, nullptr,
      [&](int, double) {
        workers = 0;
        for (const auto& rank : mobula::cluster().ranks) workers += rank.slots != 0 ? 1 : 0;
        task_stencil(50);
        constexpr int kLinks = 10'000;
        const double start = bench::seconds();
        mobula::Ref<int> last = mobula::remote<next>(0);
        for (int i = 1; i < kLinks; ++i) last = mobula::remote<next>(last);
        if (mobula::get(last) != kLinks) std::abort();
        chain.push_back((bench::seconds() - start) / kLinks * 1e6);
        constexpr int kSteps = 1000;
        cell_us.push_back(task_stencil(kSteps) / (kSteps * kColumns) * 1e6);
      },
      [&] {
        bench::Report report("stencil_" + std::to_string(workers) + "w");
        report.add("chain of 10,000, time per link", chain, "us");
        report.add("64 x 1,000 empty cells, time per task", cell_us, "us");
      });
}
