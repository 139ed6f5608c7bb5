// How long does one task take, from the call to its result? Against 8 bytes there and back in raw MPI.
#include "bench.hpp"

static int identity(int x) { return x; }

int main(int argc, char** argv) {
  constexpr int kRounds = 50'000;
  std::vector<double> floors, ours;
  bench::Report report("round_trip");
  return bench::main(
      argc, argv,
      [] {
        bench::floor_round_trip(2000);
        return bench::floor_round_trip(kRounds) * 1e6;
      },
      [&](int, double floor) {
        for (int i = 0; i < 5000; ++i) mobula::get(mobula::remote<identity>(i));
        const double start = bench::seconds();
        for (int i = 0; i < kRounds; ++i) mobula::get(mobula::remote<identity>(i));
        ours.push_back((bench::seconds() - start) / kRounds * 1e6);
        floors.push_back(floor);
      },
      [&] {
        report.add("raw MPI, any source", floors, "us");
        report.add("remote + get", ours, "us");
        report.add_ratio("ratio", ours, floors, "(goal: at most 1.5)");
      });
}
