// How fast are tasks that make tasks? fib(25) makes 242,785 of them.
#include "bench.hpp"

static long fib(int n) {
  if (n < 2) return n;
  const auto a = mobula::remote<fib>(n - 1);
  const auto b = mobula::remote<fib>(n - 2);
  return mobula::get(a) + mobula::get(b);
}

int main(int argc, char** argv) {
  std::vector<double> rates;
  bench::Report report("nested");
  return bench::main(
      argc, argv, nullptr,
      [&](int, double) {
        const double start = bench::seconds();
        if (mobula::get(mobula::remote<fib>(25)) != 75'025) std::abort();
        rates.push_back(242'785 / (bench::seconds() - start) / 1e6);
      },
      [&] { report.add("fib(25), tasks a second", rates, "M/s"); });
}
