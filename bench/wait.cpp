// How long does waiting on 10,000 refs take, when they are ready, and from their submission on?
#include "bench.hpp"

static int identity(int x) { return x; }

int main(int argc, char** argv) {
  std::vector<double> ready_ms, all_ms, completed_ms;
  bench::Report report("wait");
  return bench::main(
      argc, argv, nullptr,
      [&](int, double) {
        double start = bench::seconds();
        std::vector<mobula::Ref<int>> refs;
        for (int i = 0; i < 10'000; ++i) refs.push_back(mobula::remote<identity>(i));
        mobula::wait(refs);
        all_ms.push_back((bench::seconds() - start) * 1e3);
        start = bench::seconds();
        mobula::wait(refs);
        ready_ms.push_back((bench::seconds() - start) * 1e3);
        start = bench::seconds();
        for (const auto& ref : mobula::as_completed(refs)) mobula::get(ref);
        completed_ms.push_back((bench::seconds() - start) * 1e3);
      },
      [&] {
        report.add("submit 10,000 and wait", all_ms, "ms");
        report.add("wait on 10,000 ready", ready_ms, "ms");
        report.add("as_completed over 10,000 ready", completed_ms, "ms");
      });
}
