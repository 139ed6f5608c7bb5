// The peers' programs in Mobula, started as mpirun -n 3: a head and two workers.
#include <array>
#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <mobula/mobula.hpp>
#include <numeric>
#include <random>
#include <span>

namespace {

constexpr int kSync = 20'000, kMany = 200'000, kBlocks = 32, kLength = 8, kFib = 20;
constexpr std::size_t kShared = std::size_t{1} << 30U, kBases = std::size_t{1} << 20U,
                      kWords = std::size_t{1} << (2 * kLength);

using Counts = std::vector<std::int64_t>;

int noop(int x) { return x; }
double total(std::span<const double> array) { return std::accumulate(array.begin(), array.end(), 0.0); }

Counts count_kmers(int seed) {
  std::mt19937_64 random(static_cast<std::uint64_t>(seed));
  Counts counts(kWords);
  std::size_t word = 0;
  for (std::size_t i = 0; i < kBases; ++i) {
    word = (word * 4 + (random() & 3U)) % kWords;
    if (i + 1 >= kLength) ++counts[word];
  }
  return counts;
}

Counts add(Counts a, std::span<const std::int64_t> b) {
  for (std::size_t i = 0; i < a.size(); ++i) a[i] += b[i];
  return a;
}

struct Counter {
  int n = 0;
  int add(int x) { return n += x; }
};

long fib(int n) {
  if (n < 2) return n;
  const auto a = mobula::remote<fib>(n - 1), b = mobula::remote<fib>(n - 2);
  return mobula::get(a) + mobula::get(b);
}
long fib_tasks(int n) { return n < 2 ? 1 : 1 + fib_tasks(n - 1) + fib_tasks(n - 2); }

double seconds() { return std::chrono::duration<double>(std::chrono::steady_clock::now().time_since_epoch()).count(); }
template <class Run>
void rate(const char* name, double n, Run run) {
  const double start = seconds();
  run();
  std::printf("%s %.6g\n", name, n / (seconds() - start));
}
template <class Run>
void took(const char* name, Run run) {
  const double start = seconds();
  run();
  std::printf("%s %.6g\n", name, (seconds() - start) * 1000);
}
void check(bool right) {
  if (!right) std::abort();
}

}  // namespace

int main(int argc, char** argv) {
  return mobula::run(argc, argv, [] {
    mobula::get(mobula::remote<noop>(0));
    const auto now = std::chrono::system_clock::now().time_since_epoch();
    std::printf("epoch %lld\n",
                static_cast<long long>(std::chrono::duration_cast<std::chrono::nanoseconds>(now).count()));
    rate("task_sync", kSync, [] {
      for (int i = 0; i < kSync; ++i) check(mobula::get(mobula::remote<noop>(i)) == i);
    });
    rate("task_async", kMany, [] {
      std::vector<mobula::Ref<int>> refs;
      refs.reserve(kMany);
      for (int i = 0; i < kMany; ++i) refs.push_back(mobula::remote<noop>(i));
      check(mobula::get(refs).back() == kMany - 1);
    });
    rate("map", 10.0 * kMany, [] {
      check(mobula::get(mobula::remote<noop>.map(std::views::iota(0, 10 * kMany))).back() == 10 * kMany - 1);
    });
    {
      const auto counter = mobula::actor<Counter>();
      rate("actor_sync", kSync, [&] {
        for (int i = 0; i < kSync; ++i) mobula::get(mobula::remote<&Counter::add>(counter, 1));
      });
      rate("actor_async", kMany, [&] {
        std::vector<mobula::Ref<int>> refs;
        refs.reserve(kMany);
        for (int i = 0; i < kMany; ++i) refs.push_back(mobula::remote<&Counter::add>(counter, 1));
        check(mobula::get(refs).back() == kSync + kMany);
      });
    }
    std::vector<double> array(kShared / sizeof(double), 1.0);
    took("shared_1GiB_ms", [&] {
      const auto ref = mobula::put(array);
      std::vector<mobula::Ref<double>> sums;
      for (int i = 0; i < 4; ++i) sums.push_back(mobula::remote<total>(ref));
      check(mobula::get(sums)[3] == kShared / 8.0);
    });
    took("kmers_ms", [] {
      const Counts counts =
          mobula::get(mobula::reduce<add>(mobula::remote<count_kmers>.map(std::views::iota(0, kBlocks))));
      check(std::accumulate(counts.begin(), counts.end(), 0L) == kBlocks * static_cast<long>(kBases - kLength + 1));
    });
    rate("fib", static_cast<double>(fib_tasks(kFib)), [] { check(mobula::get(mobula::remote<fib>(kFib)) == 6765); });
  });
}
