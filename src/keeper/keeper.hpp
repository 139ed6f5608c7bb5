// The small process that the launcher started as a rank. Before any thread or MPI is there it forks the rank itself,
// and outlives it: so no launcher sees a rank die, and the job goes on. It holds the rank's socket to the launcher's
// PMIx server open, since that server takes a closed one for a death too; it passes signals on, and what the rank
// prints; it writes on the node's board how its rank ended; and it ends with the rank's exit code, or, where the rank
// died, with 0 once the job is over.
//
// If the keeper is killed, its rank is killed by the system.
#pragma once

#include <cstdint>
#include <memory>

#include "keeper/output.hpp"

namespace mobula::keeper {

// What a rank has of its keeper.
class Link {
 public:
  // Forks. Returns in the new process, which goes on as the rank; the calling one is the keeper from here on and does
  // not return. nullptr, and no fork, where threads run already or the system refuses.
  static std::unique_ptr<Link> start(Output& output);
  explicit Link(int socket) : socket_(socket) {}
  Link(const Link&) = delete;
  Link& operator=(const Link&) = delete;
  ~Link();

  // Hands over the process's connection to the PMIx server, if there is one.
  void hold_pmix();
  // The rank's place on the board (a file of shared memory). From here on its death is no reason to end the job, unless
  // it is the head.
  void watch(int board, std::uint32_t place, bool is_head);
  // The process ends in order now, with whatever code.
  void leave();

 private:
  void tell(char what, std::uint32_t number, int file);

  int socket_;
};

}  // namespace mobula::keeper
