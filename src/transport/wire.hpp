// The one interface that moves bytes between ranks, with an implementation for MPI, for threads of one process, and for
// simulated ranks. It knows nothing of messages. All calls but `interrupt` and `sleep` are made under the rank's lock.
//
// Guarantees: frames between two ranks arrive once, and in the order sent unless one does not get on: then later ones
// may overtake it. A block arrives whole in the memory given for it.
// Nothing here waits for a particular peer, and a peer that is gone raises no error.
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <span>

#include "core/trace.hpp"
#include "mobula/detail/codec.hpp"
#include "mobula/detail/ids.hpp"

namespace mobula::transport {

using core::Time;
using detail::Buffer;
using detail::ByteView;
using detail::RankId;

class Wire {
 public:
  static constexpr std::size_t kFrameMax = 64 << 10;  // bytes of the largest frame

  using OnFrame = std::function<void(RankId from, ByteView frame)>;
  using OnBlock = std::function<void()>;

  virtual ~Wire() = default;
  virtual RankId rank() const = 0;
  virtual std::uint32_t size() const = 0;
  // Ranks with equal values share memory.
  virtual std::uint32_t node() const = 0;

  // Sends a frame of at most kFrameMax bytes. Never waits; the caller bounds how much is under way.
  virtual void send(RankId to, Buffer frame) = 0;
  // Delivers what has arrived and moves what is under way. True if anything happened.
  virtual bool poll(const OnFrame& on_frame) = 0;

  // Blocks are matched by (sender, receiver, key). `keep` holds the bytes until they are out.
  virtual void send_block(RankId to, std::uint64_t key, ByteView bytes, std::shared_ptr<const void> keep) = 0;
  virtual void receive_block(RankId from, std::uint64_t key, std::span<std::byte> into, OnBlock done) = 0;
  // Whether a block would begin to come at once. One that is too far ahead of others waits until those have come, so it
  // must be received after them.
  virtual bool can_receive(RankId, std::uint64_t) const { return true; }
  // Something of ours is still on its way out or in, and moves only while we poll.
  virtual bool busy() const = 0;
  // Forgets what is under way to and from a rank that is gone.
  virtual void abandon(RankId rank) = 0;

  // Sleeping without missing anything: arm, poll once more, then sleep. Returns when something may have arrived, when
  // `interrupt` is called, or after max_ns at the latest.
  virtual void arm() = 0;
  virtual void disarm() = 0;
  virtual void sleep(std::int64_t max_ns) = 0;
  virtual void interrupt() = 0;
  // From now on threads of the program that wait inside what is below, as in MPI, leave the cpus to others. They keep
  // their priority: what they do there may be done for all.
  virtual void give_way_inside() {}
  // Whatever arrives ends a sleep: it is not so where there are ranks of other nodes, which can't ring.
  virtual bool hears_all() const = 0;
};

}  // namespace mobula::transport
