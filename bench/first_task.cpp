// When the first task runs, in nanoseconds since the epoch: for bench/startup.sh and bench/slurm.sh, which know when
// the launcher began.
#include <chrono>
#include <cstdio>

#include "mobula/mobula.hpp"

long long now() {
  return std::chrono::duration_cast<std::chrono::nanoseconds>(std::chrono::system_clock::now().time_since_epoch())
      .count();
}

int main(int argc, char** argv) {
  return mobula::run(argc, argv, [] { std::printf("%lld\n", mobula::get(mobula::remote<now>())); });
}
