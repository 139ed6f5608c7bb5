#include "keeper/board.hpp"

#include <string.h>
#include <sys/wait.h>

namespace mobula::keeper {

std::string describe_status(int status) {
  if (WIFSIGNALED(status)) {
    const int signal = WTERMSIG(status);
    return "killed by signal " + std::to_string(signal) + " (" + strsignal(signal) + ")" +
           (WCOREDUMP(status) ? ", core dumped" : "");
  }
  if (WIFEXITED(status)) return "exited with code " + std::to_string(WEXITSTATUS(status));
  return "ended";
}

std::string describe_end_of_head(int status) {
  if (status == 0) return "rank 0, the head, is gone";
  return std::string("rank 0, the head, ") + (WIFSIGNALED(status) ? "was " : "") + describe_status(status);
}

}  // namespace mobula::keeper
