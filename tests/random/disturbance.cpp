#include "random/disturbance.hpp"

#include <spawn.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <unistd.h>

#include <chrono>
#include <csignal>
#include <cstdio>
#include <cstdlib>
#include <string>

namespace random_programs {

Killer::Killer(Number seed, std::vector<pid_t> processes, Number kills)
    : thread_([draw = Draw(seed), processes = std::move(processes), kills](const std::stop_token& stop) mutable {
        for (Number i = 0; i < kills && !processes.empty(); ++i) {
          std::this_thread::sleep_for(std::chrono::milliseconds(draw.below(120)));
          if (stop.stop_requested()) return;
          const std::size_t chosen = draw.below(processes.size());
          std::fprintf(stderr, "random: process %d is killed\n", processes[chosen]);
          kill(processes[chosen], SIGKILL);
          processes.erase(processes.begin() + static_cast<std::ptrdiff_t>(chosen));
        }
      }) {}

Killer::~Killer() = default;

BusyNeighbours::BusyNeighbours() {
  std::string word = kWord;
  std::string parent = std::to_string(getpid());
  std::string name = "random_test";
  char* words[] = {name.data(), word.data(), parent.data(), nullptr};
  for (int i = 0; i < 2; ++i) {
    pid_t process = 0;
    if (posix_spawn(&process, "/proc/self/exe", nullptr, nullptr, words, environ) == 0) processes_.push_back(process);
  }
}

BusyNeighbours::~BusyNeighbours() {
  for (const pid_t process : processes_) {
    kill(process, SIGKILL);
    waitpid(process, nullptr, 0);
  }
}

void BusyNeighbours::compute() {
  // It looks for its parent itself: the thread that spawned it may end earlier than the process.
  const pid_t parent = getppid();
  for (Number number = 1; number != 0; number = mix(number)) {
    if (number % (1 << 24) == 0 && getppid() != parent) break;
  }
  std::_Exit(0);
}

}  // namespace random_programs
