// A process of the nursery: its side, and the rank's.
#pragma once

#include <sys/types.h>

#include <span>
#include <string>
#include <vector>

#include "core/error.hpp"
#include "core/messages.hpp"
#include "mobula/detail/codec.hpp"
#include "mobula/run.hpp"

namespace mobula::nursery {

// What the rank writes into the shared file for one task.
struct Request {
  std::uint32_t function = 0;
  std::uint64_t dep_mask = 0;
  std::uint64_t inline_limit = 0;
  detail::ByteView args;
  std::vector<detail::ByteView> deps;
  std::vector<int> cpus;  // that it may use
  Context context;
  template <class V>
  void fields(V&& visit) {
    visit(function, dep_mask, inline_limit, args, deps, cpus, context.rank, context.node, context.host, context.slot,
          context.cores, context.gpus, context.task, context.id, context.attempt);
  }
};

// And what the child writes in its place.
struct Response {
  bool failed = false;
  core::ErrorRecord error;
  detail::ByteView value;
  template <class V>
  void fields(V&& visit) {
    visit(failed, error, value);
  }
};

// How a child has ended.
struct End {
  int status = 0;  // as of waitpid
  std::uint64_t max_rss = 0;
};

// The files that a child is given, in this order.
struct Files {
  int channel = -1;  // of the child
  int nurse = -1;
  int data = -1;  // the shared memory
  int out = -1;
  int err = -1;
};

// The zygote's life: forks as it is told, until nobody is there to tell it.
[[noreturn]] void live_as_zygote(int socket);

// Sends bytes with open files; false if nobody is there.
bool send_files(int socket, detail::ByteView bytes, std::span<const int> files);

}  // namespace mobula::nursery
