// How many no-op tasks a second does one driver get through, submitted one by one with all refs kept, and by map?
#include "bench.hpp"

static int identity(int x) { return x; }

int main(int argc, char** argv) {
  constexpr int kSingles = 200'000;
  constexpr int kMapped = 1'000'000;
  std::vector<double> floors, singles, mapped;
  long singles_kib = 0, mapped_kib = 0;
  bench::Report report("submit_rate");
  return bench::main(
      argc, argv,
      [] {
        bench::floor_message_rate(25'600);
        return bench::floor_message_rate(512'000) / 1e6;
      },
      [&](int, double floor) {
        mobula::get(mobula::remote<identity>.map(std::views::iota(0, 10'000)));
        {
          std::vector<mobula::Ref<int>> refs;
          refs.reserve(kSingles);
          const double start = bench::seconds();
          for (int i = 0; i < kSingles; ++i) refs.push_back(mobula::remote<identity>(i));
          mobula::wait(refs);
          singles.push_back(kSingles / (bench::seconds() - start) / 1e6);
          singles_kib = bench::peak_kib();
        }
        const double start = bench::seconds();
        const auto values = mobula::get(mobula::remote<identity>.map(std::views::iota(0, kMapped)));
        mapped.push_back(kMapped / (bench::seconds() - start) / 1e6);
        mapped_kib = bench::peak_kib();
        floors.push_back(floor);
        if (values.back() != kMapped - 1) std::abort();
      },
      [&] {
        report.add("raw MPI, 64-byte messages", floors, "M/s");
        report.add("one by one, refs kept", singles, "M/s");
        report.add_ratio("one by one, ratio", singles, floors, "(goal: at least 2)");
        report.add("map of ints, results back", mapped, "M/s");
        report.add_ratio("map, ratio", mapped, floors, "(goal: at least 20)");
        report.add("peak memory of the head, singles", {static_cast<double>(singles_kib) / 1024}, "MiB");
        report.add("peak memory of the head, map", {static_cast<double>(mapped_kib) / 1024}, "MiB");
      });
}
