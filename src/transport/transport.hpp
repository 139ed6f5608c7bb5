// Messages over a wire: batched into frames, bounded by credits, in order per pair of ranks, of any size.
//
// Each frame begins with a header: its number, since one that does not get on may be overtaken by later ones, and
// credits: how many counted frames of the receiver have been handled here. At most kWindow counted
// frames are under way to one rank; what comes beyond waits in this rank's memory, and `backlog` tells how much, so
// that those who make messages can slow down. A message larger than a frame travels as a block, and the frames after it
// wait for it. Messages to the own rank take the same way without the wire.
//
// Not thread-safe: called under the rank's lock.
#pragma once

#include <deque>
#include <functional>
#include <map>
#include <unordered_map>
#include <vector>

#include "core/messages.hpp"
#include "transport/wire.hpp"

namespace mobula::transport {

class Transport {
 public:
  static constexpr std::uint32_t kWindow = 32;

  explicit Transport(Wire& wire) : wire_(wire) {}

  RankId rank() const { return wire_.rank(); }
  Wire& wire() { return wire_; }

  template <class M>
  void send(RankId to, const M& message) {
    Peer& peer = to == rank() ? self_ : peer_of(to);
    if (peer.lost) return;
    if (peer.open.empty()) begin_frame(peer, to);
    const std::size_t from = peer.open.size();
    core::append_message(peer.open, message);
    if (peer.open.size() > kSplit && to != rank()) close_frame(peer, from);
  }

  // Told, by a poll, of a rank that has sent something damaged, and of what that is: nothing of that rank is taken in
  // any more, and it should be abandoned. None: it is thrown to whoever polls.
  using OnDamage = std::function<void(RankId from, const std::string& what)>;
  void set_on_damage(OnDamage on_damage) { on_damage_ = std::move(on_damage); }

  // Sends bytes as a block and returns its key, for the receiver's receive_block.
  std::uint64_t send_block(RankId to, ByteView bytes, std::shared_ptr<const void> keep);
  void receive_block(RankId from, std::uint64_t key, std::span<std::byte> into, Wire::OnBlock done) {
    wire_.receive_block(from, key, into, std::move(done));
  }

  bool can_receive(RankId from, std::uint64_t key) const { return wire_.can_receive(from, key); }

  // Delivers frames, own ones too. True if anything happened. `on_frame` may send.
  bool poll(const Wire::OnFrame& on_frame) {
    const bool own = poll_own(on_frame);
    return poll_wire(on_frame) || own;
  }
  bool poll_own(const Wire::OnFrame& on_frame);
  bool poll_wire(const Wire::OnFrame& on_frame);
  // Sends what is complete and covered by credits.
  void flush();
  bool has_unsent() const { return !dirty_.empty() || !self_.open.empty(); }
  bool has_own() const { return !self_.open.empty(); }

  // Bytes that wait for credits, in all and for one rank.
  std::size_t backlog() const { return backlog_; }
  bool busy() const { return wire_.busy() || backlog_ != 0; }
  // Drops what is under way to a lost rank, and what comes from it.
  void abandon(RankId rank);

  // Frames with messages that were sent, by receiver.
  std::vector<core::Left::To> frames_by_receiver() const;
  // Not as many frames of the rank as that have been handled.
  bool is_behind(RankId rank, std::uint32_t frames);
  // Takes everything sent for handled by its receivers: for measuring a rank by itself.
  void credit_all();
  std::uint64_t frames_sent() const { return frames_sent_; }
  std::uint64_t frames_received() const { return frames_received_; }

  // What each frame begins with; messages follow.
  struct Header {
    std::uint32_t consumed;  // counted frames of the receiver that were handled by the sender of this
    std::uint32_t kind;
    std::uint32_t number;  // of a counted frame, from 0
  };

 private:
  template <class F>
  void guarded(RankId from, F&& act);
  OnDamage on_damage_;
  std::vector<std::pair<RankId, std::string>> damaged_;  // since the poll began

  static constexpr std::uint32_t kCredits = 0;  // nothing but the header; not counted
  static constexpr std::uint32_t kMessages = 1;
  static constexpr std::uint32_t kOversize = 2;  // the messages follow as a block
  static constexpr std::size_t kSplit = Wire::kFrameMax / 2;
  static constexpr std::size_t kUsual = 224;  // bytes of a frame: most are shorter

  struct Oversize {
    std::uint64_t size;
    std::uint64_t key;
  };

  struct Peer {
    RankId rank = detail::kNoRank;
    bool dirty = false;
    bool lost = false;
    bool block_pending = false;
    std::uint32_t sent = 0;                 // counted frames sent
    std::uint32_t acked = 0;                // of those, handled by the peer
    std::uint32_t consumed = 0;             // counted frames of the peer handled here
    std::uint32_t returned = 0;             // of those, told to the peer
    std::uint32_t arrived = 0;              // counted frames of the peer that have come in their turn
    Buffer open;                            // the frame being filled, with room for its header
    std::deque<Buffer> waiting;             // complete frames without credit
    std::map<std::uint32_t, Buffer> early;  // those that have come before their turn
    std::deque<Buffer> stalled;             // arrived frames behind one whose block is still coming
    std::uint64_t next_block = 1;
  };

  Peer& peer_of(RankId rank);
  void begin_frame(Peer& peer, RankId to);
  void close_frame(Peer& peer, std::size_t last_message);
  void mark(Peer& peer);
  void send_ready(Peer& peer);
  void transmit(Peer& peer, Buffer frame);
  void arrived(RankId from, ByteView frame, const Wire::OnFrame& on_frame);
  void in_turn(Peer& peer, std::uint32_t kind, ByteView frame, const Wire::OnFrame& on_frame);
  void take_in(Peer& peer, std::uint32_t kind, ByteView frame, const Wire::OnFrame& on_frame);
  void consume(Peer& peer, ByteView frame, const Wire::OnFrame& on_frame);
  void drain_stalled(Peer& peer, const Wire::OnFrame& on_frame);

  Wire& wire_;
  std::unordered_map<RankId, std::unique_ptr<Peer>> peers_;
  Peer* last_ = nullptr;
  Peer self_;
  Buffer spare_;  // for what goes to the own rank, and is handled at once
  std::vector<Peer*> dirty_;
  struct Landed {
    Peer* peer;
    std::shared_ptr<Buffer> frame;
  };
  std::vector<Landed> landed_;  // oversize frames that are complete
  std::size_t backlog_ = 0;
  std::uint64_t frames_sent_ = 0;
  std::uint64_t frames_received_ = 0;
};

}  // namespace mobula::transport
