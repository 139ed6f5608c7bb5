// Two actors on two ranks call each other, quiet and beside processes that compute on all cores: then a hop takes
// longer by what the cores are shared, and not a turn of the system's scheduler, which is milliseconds.
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <chrono>
#include <csignal>
#include <cstdio>
#include <cstdlib>
#include <mobula/mobula.hpp>
#include <thread>
#include <vector>

namespace {

using mobula::get;
using mobula::remote;

struct Hop {
  mobula::Actor<Hop> other = {};
  long seen = 0;
  void meet(mobula::Actor<Hop> actor) { other = actor; }
  void hop(long left) {
    ++seen;
    if (left > 0) remote<&Hop::hop>(other, left - 1);
  }
  long count() const { return seen; }
};

double seconds() { return std::chrono::duration<double>(std::chrono::steady_clock::now().time_since_epoch()).count(); }

// In microseconds.
double time_of_hop(mobula::Actor<Hop> a, mobula::Actor<Hop> b, long hops) {
  const auto count = [&] { return get(remote<&Hop::count>(a)) + get(remote<&Hop::count>(b)); };
  const long before = count();
  const double start = seconds();
  remote<&Hop::hop>(a, hops - 1);
  while (count() < before + hops) std::this_thread::sleep_for(std::chrono::milliseconds(2));
  return (seconds() - start) / static_cast<double>(hops) * 1e6;
}

// Processes that compute, for a minute at most.
class Busy {
 public:
  explicit Busy(unsigned n) {
    for (unsigned i = 0; i < n; ++i) {
      const pid_t pid = fork();
      if (pid != 0) {
        pids_.push_back(pid);
        continue;
      }
      for (const double end = seconds() + 60; seconds() < end;) {
      }
      _exit(0);
    }
  }
  ~Busy() {
    for (const pid_t pid : pids_) {
      kill(pid, SIGKILL);
      waitpid(pid, nullptr, 0);
    }
  }

 private:
  std::vector<pid_t> pids_;
};

}  // namespace

int main(int argc, char** argv) {
  return mobula::run(argc, argv, [] {
    const auto a = mobula::actor<Hop>.with({.placement = mobula::on_rank(1)})();
    const auto b = mobula::actor<Hop>.with({.placement = mobula::on_rank(2)})();
    get(remote<&Hop::meet>(a, b));
    get(remote<&Hop::meet>(b, a));
    time_of_hop(a, b, 500);
    const double quiet = time_of_hop(a, b, 2000);
    double beside = 0;
    {
      const Busy busy(std::thread::hardware_concurrency());
      time_of_hop(a, b, 200);
      beside = time_of_hop(a, b, 1000);
    }
    mobula::kill(a);
    mobula::kill(b);
    std::printf("a hop: %.1f us, beside processes that compute %.1f us\n", quiet, beside);
    return beside < 1000 ? 0 : 1;
  });
}
