// The wire between threads of one process. A hub of size 1 is the wire of a program that runs alone.
#pragma once

#include <deque>
#include <map>
#include <memory>
#include <mutex>
#include <tuple>
#include <vector>

#include "transport/doorbell.hpp"
#include "transport/wire.hpp"

namespace mobula::transport {

class LocalHub {
 public:
  explicit LocalHub(std::uint32_t size);
  ~LocalHub();
  Wire& at(RankId rank);

 private:
  friend class LocalWire;
  struct Frame {
    RankId from;
    Buffer bytes;
  };
  struct OutBlock {
    ByteView bytes;
    std::shared_ptr<const void> keep;
  };
  struct InBlock {
    std::span<std::byte> into;
    Wire::OnBlock done;
  };
  struct Inbox {
    std::mutex mutex;  // guards all below
    std::deque<Frame> frames;
    std::map<std::pair<RankId, std::uint64_t>, OutBlock> blocks;  // offered by (sender, key)
    std::map<std::pair<RankId, std::uint64_t>, InBlock> wanted;   // used by the receiver only
    Doorbell bell;
  };
  std::vector<std::unique_ptr<Inbox>> inboxes_;
  std::vector<std::unique_ptr<Wire>> wires_;
};

}  // namespace mobula::transport
