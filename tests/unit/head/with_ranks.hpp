// A head among ranks that a test speaks for.
#pragma once

#include <gtest/gtest.h>

#include <memory>
#include <vector>

#include "head/head.hpp"
#include "transport/local_wire.hpp"
#include "transport/transport.hpp"

namespace mobula::head {

class WithRanks : public ::testing::Test {
 protected:
  struct Place {
    std::uint32_t node = 0;
    std::uint32_t slots = 0;  // with a cpu each
  };
  // Where the ranks are, that of the head first.
  explicit WithRanks(const std::vector<Place>& places)
      : hub(static_cast<std::uint32_t>(places.size())), transport(hub.at(0)), head(transport, objects, settings(hub)) {
    for (RankId rank = 0; rank < places.size(); ++rank) {
      core::Join join;
      join.node = places[rank].node;
      join.slots = places[rank].slots;
      join.offers.cpus = join.slots;
      head.handle(rank, join);
    }
  }
  static std::vector<Place> one_a_node(const std::vector<std::uint32_t>& slots) {
    std::vector<Place> places;
    for (const std::uint32_t n : slots) places.push_back({static_cast<std::uint32_t>(places.size()), n});
    return places;
  }
  void step(Time later = 1) {
    now += later;
    head.step(now);
    head.check_invariants();
    transport.flush();
  }

  transport::LocalHub hub;
  transport::Transport transport;
  store::Store store{store::Store::Settings{}};
  store::ObjectTable objects{0, store};
  Head head;
  Time now = 1;

 private:
  static Settings settings(transport::LocalHub& hub) {
    Settings settings;
    settings.ranks = hub.at(0).size();
    settings.lost_after = 0;
    return settings;
  }
};

}  // namespace mobula::head
