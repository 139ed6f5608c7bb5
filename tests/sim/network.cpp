#include "sim/network.hpp"

#include <algorithm>

namespace mobula::sim {

using detail::Buffer;
using detail::ByteView;

Network::Network(std::uint32_t ranks) {
  for (RankId r = 0; r < ranks; ++r) wires_.push_back(std::make_unique<SimWire>(*this, r));
}
Network::~Network() = default;

void Network::drop_events() {
  events_ = {};
  for (const auto& wire : wires_) wire->drop_all();
}

void Network::at(Time time, std::function<void()> act) {
  events_.push({std::max(time, now_), order_++, std::move(act)});
}

bool Network::next_event(Time limit) {
  if (events_.empty() || events_.top().time > limit) {
    now_ = std::max(now_, limit);
    return false;
  }
  now_ = events_.top().time;
  const auto act = std::move(const_cast<Event&>(events_.top()).act);
  events_.pop();
  act();
  return true;
}

void SimWire::deliver(RankId to, std::function<void()> arrive) {
  Time& last = last_[to];
  last = std::max(last + 1, network_.now() + network_.latency(rank_, to));  // order per pair
  network_.at(last, [this, to, arrive = std::move(arrive)] {
    if (!network_.alive(to)) return;
    arrive();
    network_.arrived(to);
  });
}

void SimWire::send(RankId to, Buffer frame) {
  if (!network_.alive(rank_)) return;  // it died in the middle of its step
  deliver(to, [this, to, frame = std::make_shared<Buffer>(std::move(frame))] {
    network_.wire(to).frames_.emplace_back(rank_, frame);
  });
  network_.at_boundary(rank_);
}

void SimWire::send_block(RankId to, std::uint64_t key, ByteView bytes, std::shared_ptr<const void> keep) {
  if (!network_.alive(rank_)) return;
  deliver(to, [this, to, key, bytes, keep = std::move(keep)] {
    network_.wire(to).offered_[{rank_, key}] = {bytes, keep};
  });
  network_.at_boundary(rank_);
}

void SimWire::receive_block(RankId from, std::uint64_t key, std::span<std::byte> into, OnBlock done) {
  wanted_[{from, key}] = {into, std::move(done)};
  network_.at(network_.now() + 1, [this] {
    if (network_.alive(rank_)) network_.arrived(rank_);
  });
}

bool SimWire::poll(const OnFrame& on_frame) {
  bool happened = false;
  while (!frames_.empty() && network_.alive(rank_)) {
    const auto [from, frame] = std::move(frames_.front());
    frames_.pop_front();
    on_frame(from, frame->view());
    network_.at_boundary(rank_);
    happened = true;
  }
  for (auto wanted = wanted_.begin(); wanted != wanted_.end();) {
    const auto offered = offered_.find(wanted->first);
    if (offered == offered_.end()) {
      ++wanted;
      continue;
    }
    const auto [into, done] = std::move(wanted->second);
    std::copy(offered->second.bytes.begin(), offered->second.bytes.end(), into.begin());
    offered_.erase(offered);
    wanted_.erase(wanted);
    done();
    wanted = wanted_.begin();
    happened = true;
  }
  return happened;
}

void SimWire::drop_all() {
  frames_.clear();
  offered_.clear();
  wanted_.clear();
}

void SimWire::abandon(RankId rank) {
  std::erase_if(wanted_, [rank](const auto& w) { return w.first.first == rank; });
  std::erase_if(offered_, [rank](const auto& o) { return o.first.first == rank; });
  std::erase_if(network_.wire(rank).offered_, [this](const auto& o) { return o.first.first == rank_; });
}

}  // namespace mobula::sim
