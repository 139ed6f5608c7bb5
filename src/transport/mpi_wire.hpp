// The wire of an MPI job. The only header here that needs mpi.h, with the gang code.
#pragma once

#include <mpi.h>

#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "core/shared_memory.hpp"
#include "transport/wire.hpp"

namespace mobula::transport {

// Over a communicator (of all ranks, if none is given), with one of its own. Starts MPI where it is not running yet,
// and ends it with `finalize` then. Made and finalized by one thread; construction is collective over the communicator,
// nothing after it is until `finalize`.
class MpiWire : public Wire {
 public:
  static std::unique_ptr<MpiWire> start(MPI_Comm over = MPI_COMM_NULL);

  virtual const std::string& host() const = 0;
  // How many ranks share this node, and which of them this is.
  virtual std::uint32_t node_size() const = 0;
  virtual std::uint32_t node_rank() const = 0;
  virtual const std::vector<RankId>& node_members() const = 0;  // in order
  // What each rank of this node gives, in order. Collective over the node.
  virtual std::vector<std::string> gather_on_node(const std::string& mine) = 0;
  // Memory that all ranks of this node see, zeros at first, with its pages or only reserved. nullptr on all if one of
  // them can't have it. Collective over the node.
  enum class Pages { made, reserved };
  virtual std::unique_ptr<core::SharedMemory> share_on_node(std::size_t bytes, Pages pages) = 0;
  // Gives this rank a segment of that size, aligned to pages and not touched, which all ranks of the node see.
  // Collective over the node. Throws Error where there is no room for it.
  virtual void share(std::size_t bytes) = 0;
  // The segment of a rank of this node, as this rank sees it; empty for others.
  virtual std::span<std::byte> segment(RankId rank) const = 0;
  // All segments of the node; nullptr before `share`.
  virtual const core::SharedMemory* shared() const = 0;
  // Whether it is so on all ranks. Collective over all.
  virtual bool all(bool here) = 0;
  // What MPI granted: MPI_THREAD_SERIALIZED at least, where it was started here.
  virtual int thread_level() const = 0;
  virtual MPI_Comm communicator() const = 0;
  // Which call of MPI the wire is at, or was at last. For any thread: one that is inside and stays the same does not
  // return.
  virtual std::uint64_t call() const = 0;
  static bool is_inside(std::uint64_t call) { return call % 2 != 0; }
  // Waits for all ranks, ends MPI if it was started here. `in_use`: threads of this rank may still look at segments,
  // which then stay where they are. `at_last` is called before MPI itself ends.
  virtual void finalize(bool in_use = false, const std::function<void()>& at_last = {}) = 0;
};

}  // namespace mobula::transport
