#include "keeper/processes.hpp"

#include <signal.h>
#include <sys/wait.h>
#include <unistd.h>

#include <filesystem>
#include <fstream>
#include <iterator>
#include <string>
#include <system_error>

namespace mobula::keeper {

bool has_threads() {
  std::error_code error;
  const auto threads = std::filesystem::directory_iterator("/proc/self/task", error);
  return std::distance(begin(threads), end(threads)) != 1;
}

void kill_children() {
  constexpr int kRounds = 10'000;  // some start others as fast as they are killed
  for (int round = 0; round < kRounds; ++round) {
    std::ifstream list("/proc/self/task/" + std::to_string(getpid()) + "/children");
    bool any = false;
    for (pid_t pid = 0; list >> pid; any = true) kill(pid, SIGKILL);
    if (!any) return;
    waitpid(-1, nullptr, 0);
    while (waitpid(-1, nullptr, WNOHANG) > 0) {
    }
  }
}

}  // namespace mobula::keeper
