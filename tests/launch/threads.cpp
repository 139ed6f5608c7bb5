// Threads that come and go leave no memory behind: the runtime's, where many tasks wait at once, and the program's own.
#include <unistd.h>

#include <chrono>
#include <cstdio>
#include <fstream>
#include <mobula/mobula.hpp>
#include <thread>
#include <vector>

namespace {

using namespace std::chrono_literals;

constexpr std::size_t kMiB = 1 << 20;

std::size_t resident() {
  std::ifstream in("/proc/self/statm");
  std::size_t all = 0;
  std::size_t pages = 0;
  in >> all >> pages;
  return pages * static_cast<std::size_t>(sysconf(_SC_PAGESIZE));
}

int check(const char* what, std::size_t before, std::size_t after, std::size_t most) {
  const std::size_t more = after > before ? after - before : 0;
  std::printf("%s: %zu MiB more\n", what, more / kMiB);
  return more < most ? 0 : 1;
}

struct Gate {
  void open() { std::this_thread::sleep_for(150ms); }
};
int wait_for(std::vector<mobula::Ref<void>> gate) {
  mobula::get(gate.at(0));
  return 1;
}
long square(long x) { return x * x; }

// Tasks that wait lend their slots, so each has a thread.
int bursts() {
  auto gate = mobula::actor<Gate>();
  std::size_t before = 0;
  for (int burst = 0; burst < 7; ++burst) {
    if (burst == 2) before = resident();
    const auto open = mobula::remote<&Gate::open>(gate);
    std::vector<mobula::Ref<int>> all;
    for (int i = 0; i < 300; ++i) all.push_back(mobula::remote<wait_for>(std::vector<mobula::Ref<void>>{open}));
    mobula::get(all);
    all.clear();
    std::this_thread::sleep_for(1300ms);  // threads without work end
  }
  return check("5 bursts of 300 tasks that wait", before, resident(), 40 * kMiB);
}

int short_threads() {
  const auto use = [](long n) {
    for (long i = 0; i < n; ++i) {
      std::thread([i] {
        if (mobula::get(mobula::remote<square>(i)) != i * i) std::abort();
      }).join();
    }
  };
  use(300);
  const std::size_t before = resident();
  use(2000);
  return check("2,000 short threads", before, resident(), 8 * kMiB);
}

}  // namespace

int main(int argc, char** argv) {
  return mobula::run(argc, argv, [] { return short_threads() + bursts(); });
}
