// A lazy map of 10,000,000 items: the head's memory before and after. 1,000,000 no-op tasks by map, 200,000 one by one.
#include "bench.hpp"

static void nothing(int) {}
static int identity(int x) { return x; }

static long resident_kib() {
  long pages = 0, resident = 0;
  std::ifstream("/proc/self/statm") >> pages >> resident;
  return resident * 4;
}

int main(int argc, char** argv) {
  bench::Report report("lazy");
  return mobula::run(argc, argv, [&] {
    mobula::get(mobula::remote<nothing>.map(std::views::iota(0, 100'000)));
    const long before = resident_kib();
    double start = bench::seconds();
    mobula::get(mobula::remote<nothing>.map(std::views::iota(0, 10'000'000)));
    report.add("lazy map of 10,000,000", {10 / (bench::seconds() - start)}, "M/s");
    report.add("head: growth of memory meanwhile, at most", {static_cast<double>(bench::peak_kib() - before) / 1024},
               "MiB");
    start = bench::seconds();
    const auto values = mobula::get(mobula::remote<identity>.map(std::views::iota(0, 1'000'000)));
    report.add("map of 1,000,000 with results", {1 / (bench::seconds() - start)}, "M/s");
    start = bench::seconds();
    std::vector<mobula::Ref<int>> refs;
    for (int i = 0; i < 200'000; ++i) refs.push_back(mobula::remote<identity>(i));
    mobula::wait(refs);
    report.add("200,000 one by one, refs kept", {0.2 / (bench::seconds() - start)}, "M/s");
    report.add("head: peak memory", {static_cast<double>(bench::peak_kib()) / 1024}, "MiB");
  });
}
