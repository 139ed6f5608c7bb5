// A process of the nursery: its side, and what it and the rank say to each other.
//
// It is forked by the zygote, or, where it lives in a container, started as the rank's own program, which comes to
// mobula::run, finds there that it is a guest, and fetches its files at a *door*: a socket in a folder that the
// container sees. From then on both are the same.
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

// How a child comes to be. Written into its file of data by the rank.
struct Birth {
  core::WireSandbox sandbox;
  std::string door;                // the folder; of a guest:
  std::vector<std::string> words;  // the command line of its container
  std::vector<std::string> env;
  std::vector<std::string> end;  // and the one that ends it, where killing its process does not
  template <class V>
  void fields(V&& visit) {
    visit(sandbox, door, words, env, end);
  }
};

// A value that a task gets: where it lies in the memory that the ranks of the node share, or itself.
struct Dep {
  static constexpr std::uint64_t kInline = ~std::uint64_t{0};
  std::uint64_t offset = kInline;
  std::uint64_t size = 0;
  detail::ByteView bytes;
  template <class V>
  void fields(V&& visit) {
    visit(offset, size, bytes);
  }
};

// What the rank writes into the shared file for one task. An actor's child makes its object in the first one.
struct Request {
  enum class Act : std::uint8_t { run, save, end };
  Act act = Act::run;
  std::uint32_t function = 0;
  std::uint64_t dep_mask = 0;
  std::uint64_t inline_limit = 0;
  detail::ByteView args;
  detail::ByteView checkpoint;
  std::vector<Dep> deps;
  std::vector<int> cpus;  // that it may use
  Context context;
  template <class V>
  void fields(V&& visit) {
    visit(act, function, dep_mask, inline_limit, args, checkpoint, deps, cpus, context.rank, context.node, context.host,
          context.slot, context.cores, context.gpus, context.task, context.id, context.attempt);
  }
};

// And what the child writes in its place; the value lies behind it.
struct Response {
  bool failed = false;
  core::ErrorRecord error;
  template <class V>
  void fields(V&& visit) {
    visit(failed, error);
  }
};
struct Sizes {
  std::uint64_t response = 0;
  std::uint64_t value = 0;
};

// What a child says first.
struct Greeting {
  std::uint64_t digest = 0;  // of its functions
};

// How a child has ended.
struct End {
  int status = 0;  // as of waitpid
  std::uint64_t max_rss = 0;
};

// The files that a child is given, in this order; the last one only where there is such memory.
struct Files {
  int channel = -1;  // of the child
  int nurse = -1;
  int data = -1;  // the shared file
  int out = -1;
  int err = -1;
  int memory = -1;  // what the ranks of the node share
};

inline constexpr const char* kDoor = "MOBULA_DOOR";  // the variable that makes a process a guest

// The zygote's life: forks as it is told, until nobody is there to tell it.
[[noreturn]] void live_as_zygote(int socket);
// Of a program that was started as a guest.
[[noreturn]] void live_as_guest(const std::string& door);

// Sends bytes with open files; false if nobody is there.
bool send_files(int socket, detail::ByteView bytes, std::span<const int> files);

}  // namespace mobula::nursery
