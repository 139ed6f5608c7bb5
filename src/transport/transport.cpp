#include "transport/transport.hpp"

#include <cstring>
#include <utility>

#include "core/mark.hpp"

namespace mobula::transport {
namespace {

// Of numbers that count on from the largest to 0.
bool is_after(std::uint32_t a, std::uint32_t b) { return static_cast<std::int32_t>(a - b) > 0; }

}  // namespace

Transport::Peer& Transport::peer_of(RankId rank) {
  if (last_ != nullptr && last_->rank == rank) return *last_;
  auto& peer = peers_[rank];
  if (!peer) {
    peer = std::make_unique<Peer>();
    peer->rank = rank;
  }
  last_ = peer.get();
  return *last_;
}

void Transport::begin_frame(Peer& peer, RankId to) {
  peer.open.reserve(kUsual);
  if (to == rank()) return;
  peer.open.extend(sizeof(Header));
  mark(peer);
}

void Transport::mark(Peer& peer) {
  if (!peer.dirty) {
    peer.dirty = true;
    dirty_.push_back(&peer);
  }
}

// Ends the open frame, so that no frame but that of a single large message exceeds the limit.
void Transport::close_frame(Peer& peer, std::size_t last_message) {
  Buffer tail;
  if (peer.open.size() > Wire::kFrameMax && last_message > sizeof(Header)) {
    tail.extend(sizeof(Header));
    tail.append(peer.open.data() + last_message, peer.open.size() - last_message);
    peer.open.shrink(last_message);
  }
  backlog_ += peer.open.size();
  peer.waiting.push_back(std::move(peer.open));
  peer.open = std::move(tail);
  if (peer.open.size() > Wire::kFrameMax) {
    backlog_ += peer.open.size();
    peer.waiting.push_back(std::move(peer.open));
    peer.open = Buffer();
  }
  mark(peer);
  send_ready(peer);
}

void Transport::send_ready(Peer& peer) {
  while (!peer.waiting.empty() && peer.sent - peer.acked < kWindow) {
    Buffer frame = std::move(peer.waiting.front());
    peer.waiting.pop_front();
    backlog_ -= frame.size();
    transmit(peer, std::move(frame));
  }
}

void Transport::transmit(Peer& peer, Buffer frame) {
  Header header{peer.consumed, kMessages, peer.sent};
  if (frame.size() > Wire::kFrameMax) {
    MOBULA_MARK("transport: a message is larger than a frame");
    header.kind = kOversize;
    auto whole = std::make_shared<Buffer>(std::move(frame));
    const Oversize oversize{whole->size(), send_block(peer.rank, whole->view(), whole)};
    frame = Buffer();
    frame.extend(sizeof header);
    frame.append(&oversize, sizeof oversize);
  }
  std::memcpy(frame.data(), &header, sizeof header);
  peer.returned = peer.consumed;
  ++peer.sent;
  ++frames_sent_;
  wire_.send(peer.rank, std::move(frame));
}

void Transport::flush() {
  for (std::size_t i = 0; i < dirty_.size(); ++i) {
    Peer& peer = *dirty_[i];
    peer.dirty = false;
    if (peer.lost) continue;
    send_ready(peer);
    if (!peer.open.empty()) {
      if (peer.waiting.empty() && peer.sent - peer.acked < kWindow) {
        transmit(peer, std::move(peer.open));
      } else {
        MOBULA_MARK("transport: a frame waits for credits");
        backlog_ += peer.open.size();
        peer.waiting.push_back(std::move(peer.open));
      }
      peer.open = Buffer();
    }
    if (peer.consumed - peer.returned >= kWindow / 2) {
      const Header header{peer.consumed, kCredits, 0};
      Buffer frame;
      frame.append(&header, sizeof header);
      peer.returned = peer.consumed;
      wire_.send(peer.rank, std::move(frame));
    }
  }
  dirty_.clear();
}

std::uint64_t Transport::send_block(RankId to, ByteView bytes, std::shared_ptr<const void> keep) {
  const std::uint64_t key = peer_of(to).next_block++;
  wire_.send_block(to, key, bytes, std::move(keep));
  return key;
}

// What the handlers send to the own rank is left for the next round, so that none starves the network.
bool Transport::poll_own(const Wire::OnFrame& on_frame) {
  if (self_.open.empty()) return false;
  Buffer own = std::exchange(self_.open, std::move(spare_));
  on_frame(rank(), own.view());
  if (own.capacity() <= Wire::kFrameMax) {
    own.clear();
    spare_ = std::move(own);
  }
  return true;
}

// A wire never sees what is thrown here: it would leave what it is at half done.
template <class F>
void Transport::guarded(RankId from, F&& act) {
  try {
    act();
  } catch (const ProtocolError& error) {
    if (!on_damage_) throw;
    peer_of(from).lost = true;
    damaged_.emplace_back(from, error.what());
  }
}

bool Transport::poll_wire(const Wire::OnFrame& on_frame) {
  bool happened =
      wire_.poll([&](RankId from, ByteView frame) { guarded(from, [&] { arrived(from, frame, on_frame); }); });
  while (!landed_.empty()) {
    const std::vector<Landed> landed = std::move(landed_);
    landed_.clear();
    for (const Landed& one : landed) {
      one.peer->block_pending = false;
      guarded(one.peer->rank, [&] {
        consume(*one.peer, one.frame->view().subspan(sizeof(Header)), on_frame);
        drain_stalled(*one.peer, on_frame);
      });
    }
    happened = true;
  }
  for (const auto& [rank, what] : std::exchange(damaged_, {})) on_damage_(rank, what);
  return happened;
}

void Transport::arrived(RankId from, ByteView frame, const Wire::OnFrame& on_frame) {
  Peer& peer = peer_of(from);
  if (peer.lost) return;
  if (frame.size() < sizeof(Header)) detail::throw_damaged("a frame is shorter than its header");
  Header header;
  std::memcpy(&header, frame.data(), sizeof header);
  if (is_after(header.consumed, peer.sent)) detail::throw_damaged("credits for what was not sent");
  if (is_after(header.consumed, peer.acked)) {  // otherwise the frame was overtaken, by ever so many that only credit
    peer.acked = header.consumed;
    if (!peer.waiting.empty()) mark(peer);
  }
  if (header.kind == kCredits) return;
  ++frames_received_;
  if (header.number != peer.arrived) {
    if (header.number - peer.arrived > kWindow) detail::throw_damaged("a frame came twice, or before its window");
    peer.early.emplace(header.number, frame);
    return;
  }
  in_turn(peer, header.kind, frame, on_frame);
  while (!peer.early.empty() && peer.early.begin()->first == peer.arrived) {
    const Buffer next = std::move(peer.early.begin()->second);
    peer.early.erase(peer.early.begin());
    std::memcpy(&header, next.data(), sizeof header);
    in_turn(peer, header.kind, next.view(), on_frame);
  }
}

void Transport::in_turn(Peer& peer, std::uint32_t kind, ByteView frame, const Wire::OnFrame& on_frame) {
  ++peer.arrived;
  if (peer.block_pending) {
    MOBULA_MARK("transport: a frame waits for the one before it");
    peer.stalled.emplace_back(frame);
  } else {
    take_in(peer, kind, frame, on_frame);
  }
}

// A counted frame whose turn has come.
void Transport::take_in(Peer& peer, std::uint32_t kind, ByteView frame, const Wire::OnFrame& on_frame) {
  if (kind == kOversize) {
    detail::Decoder in(frame.subspan(sizeof(Header)));
    const auto oversize = in.get<Oversize>();
    constexpr std::uint64_t kMost =
        (std::uint64_t{4} << 30) + 2 * Wire::kFrameMax;  // of one message, and what it joins
    if (oversize.size < sizeof(Header)) detail::throw_damaged("an oversize frame is empty");
    if (oversize.size > kMost) detail::throw_damaged("an oversize frame is larger than a message may be");
    auto whole = std::make_shared<Buffer>();
    whole->extend(oversize.size);
    peer.block_pending = true;
    wire_.receive_block(peer.rank, oversize.key, {whole->data(), whole->size()}, [this, &peer, whole] {
      landed_.push_back({&peer, whole});
    });
    return;
  }
  consume(peer, frame.subspan(sizeof(Header)), on_frame);
}

void Transport::consume(Peer& peer, ByteView frame, const Wire::OnFrame& on_frame) {
  if (peer.lost) return;
  on_frame(peer.rank, frame);
  ++peer.consumed;
  if (peer.consumed - peer.returned >= kWindow / 2) mark(peer);
}

void Transport::drain_stalled(Peer& peer, const Wire::OnFrame& on_frame) {
  while (!peer.stalled.empty() && !peer.block_pending) {
    const Buffer frame = std::move(peer.stalled.front());
    peer.stalled.pop_front();
    Header header;  // its credits were taken when it came: those that came after it count for more
    std::memcpy(&header, frame.data(), sizeof header);
    take_in(peer, header.kind, frame.view(), on_frame);
  }
}

void Transport::credit_all() {
  for (auto& [rank, peer] : peers_) peer->acked = peer->sent;
}

std::vector<core::Left::To> Transport::frames_by_receiver() const {
  std::vector<core::Left::To> all;
  for (const auto& [rank, peer] : peers_) {
    if (peer->sent != 0) all.push_back({rank, peer->sent});
  }
  return all;
}

bool Transport::is_behind(RankId rank, std::uint32_t frames) { return is_after(frames, peer_of(rank).consumed); }

void Transport::abandon(RankId rank) {
  Peer& peer = peer_of(rank);
  peer.lost = true;
  for (const Buffer& frame : peer.waiting) backlog_ -= frame.size();
  peer.waiting.clear();
  peer.open = Buffer();
  peer.stalled.clear();
  peer.early.clear();
  wire_.abandon(rank);
}

}  // namespace mobula::transport
