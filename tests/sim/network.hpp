// A network of virtual time: events in order, and wires between ranks whose messages take as long as the network says.
#pragma once

#include <deque>
#include <functional>
#include <map>
#include <memory>
#include <queue>
#include <tuple>
#include <vector>

#include "transport/wire.hpp"

namespace mobula::sim {

using core::Time;
using detail::RankId;

class SimWire;

class Network {
 public:
  explicit Network(std::uint32_t ranks);
  virtual ~Network();

  Time now() const { return now_; }
  std::uint32_t size() const { return static_cast<std::uint32_t>(wires_.size()); }
  SimWire& wire(RankId rank) { return *wires_[rank]; }

  void at(Time time, std::function<void()> act);
  // Moves on to the next event, if it is due by `limit`, and lets it happen; otherwise moves on to `limit`.
  bool next_event(Time limit);
  bool is_quiet() const { return events_.empty(); }
  // Forgets what is still to happen, and what is under way.
  void drop_events();

  virtual Time latency(RankId from, RankId to) = 0;
  virtual bool alive(RankId rank) const = 0;
  // Something has come for the rank, and it may poll.
  virtual void arrived(RankId rank) = 0;
  // The rank has sent something, or handled what came: a place where it may die.
  virtual void at_boundary(RankId) {}

 private:
  struct Event {
    Time time;
    std::uint64_t order;
    std::function<void()> act;
    bool operator>(const Event& other) const { return std::tie(time, order) > std::tie(other.time, other.order); }
  };
  Time now_ = 0;
  std::uint64_t order_ = 0;
  std::priority_queue<Event, std::vector<Event>, std::greater<>> events_;
  std::vector<std::unique_ptr<SimWire>> wires_;
};

// Nobody sleeps in virtual time.
class SleeplessWire : public transport::Wire {
 public:
  void arm() override {}
  void disarm() override {}
  void sleep(std::int64_t) override {}
  void interrupt() override {}
  bool hears_all() const override { return true; }
};

class SimWire final : public SleeplessWire {
 public:
  SimWire(Network& network, RankId rank) : network_(network), rank_(rank) {}
  RankId rank() const override { return rank_; }
  std::uint32_t size() const override { return network_.size(); }
  std::uint32_t node() const override { return 0; }
  void send(RankId to, detail::Buffer frame) override;
  bool poll(const OnFrame& on_frame) override;
  void send_block(RankId to, std::uint64_t key, detail::ByteView bytes, std::shared_ptr<const void> keep) override;
  void receive_block(RankId from, std::uint64_t key, std::span<std::byte> into, OnBlock done) override;
  bool busy() const override { return !wanted_.empty(); }
  void abandon(RankId rank) override;
  void drop_all();

 private:
  using BlockKey = std::pair<RankId, std::uint64_t>;
  struct Offered {
    detail::ByteView bytes;
    std::shared_ptr<const void> keep;
  };
  struct Wanted {
    std::span<std::byte> into;
    OnBlock done;
  };
  void deliver(RankId to, std::function<void()> arrive);

  Network& network_;
  RankId rank_;
  std::deque<std::pair<RankId, std::shared_ptr<detail::Buffer>>> frames_;
  std::map<BlockKey, Offered> offered_;
  std::map<BlockKey, Wanted> wanted_;
  std::map<RankId, Time> last_;  // when the last message to a rank arrives
};

}  // namespace mobula::sim
