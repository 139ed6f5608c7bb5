// A million single tasks, all queued before the first of them can run: time to submit and to drain, and the head's
// memory.
#include <thread>

#include "bench.hpp"

namespace {
int identity(int x) { return x; }
void hold(double s) { std::this_thread::sleep_for(std::chrono::duration<double>(s)); }
}  // namespace

int main(int argc, char** argv) {
  constexpr int kTasks = 1'000'000;
  std::vector<double> submit, drain, bytes;
  return bench::main(
      argc, argv, nullptr,
      [&](int, double) {
        const auto slots = static_cast<std::size_t>(mobula::cluster().slots);
        const long before = bench::peak_kib();
        std::vector<mobula::Ref<void>> holders;
        for (std::size_t i = 0; i < slots; ++i) holders.push_back(mobula::remote<hold>(8.0));
        std::vector<mobula::Ref<int>> refs;
        refs.reserve(kTasks);
        const double start = bench::seconds();
        for (int i = 0; i < kTasks; ++i) refs.push_back(mobula::remote<identity>(i));
        submit.push_back(bench::seconds() - start);
        mobula::wait(holders);
        const double held = bench::seconds();
        if (mobula::get(refs).back() != kTasks - 1) std::abort();
        drain.push_back(bench::seconds() - held);
        if (bytes.empty()) bytes.push_back(static_cast<double>(bench::peak_kib() - before) * 1024 / kTasks);
      },
      [&] {
        bench::Report report("queued");
        report.add("1,000,000 single tasks, submitted", submit, "s");
        report.add("1,000,000 single tasks, drained", drain, "s");
        report.add("head's peak memory, a task", bytes, "bytes");
      },
      3);
}
