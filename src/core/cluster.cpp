#include "core/cluster.hpp"

#include <algorithm>

#include "core/wire.hpp"

namespace mobula::core {
namespace {

struct WireRank {
  RankInfo info;
  template <class V>
  void fields(V&& visit) {
    visit(info.rank, info.node, info.host, info.name, info.slots, info.alive);
  }
};
struct WireNode {
  NodeInfo info;
  template <class V>
  void fields(V&& visit) {
    visit(info.node, info.host, info.ranks);
  }
};
struct WireCluster {
  std::vector<WireNode> nodes;
  std::vector<WireRank> ranks;
  int slots = 0;
  std::map<std::string, double> total;
  std::map<std::string, double> free;
  template <class V>
  void fields(V&& visit) {
    visit(nodes, ranks, slots, total, free);
  }
};

struct WireUse {
  StoreUse use;
  template <class V>
  void fields(V&& visit) {
    visit(use.rank, use.node, use.host, use.capacity, use.used, use.touched, use.pinned, use.spilled, use.largest_free,
          use.objects, use.copies, use.fetches, use.evictions, use.spills, use.restores);
  }
};
struct WireObject {
  StoredObject object;
  template <class V>
  void fields(V&& visit) {
    visit(object.id, object.size, object.rank, object.in_memory, object.in_use, object.readers, object.holders,
          object.inner_holders);
  }
};
struct WireStats {
  std::vector<WireUse> ranks;
  std::vector<WireObject> largest;
  template <class V>
  void fields(V&& visit) {
    visit(ranks, largest);
  }
};

template <class W>
std::string to_text(W& wire) {
  detail::Buffer bytes;
  WireWriter out(bytes);
  wire.fields(out);
  return std::string(reinterpret_cast<const char*>(bytes.data()), bytes.size());
}

}  // namespace

std::string encode_stats(const StoreStats& stats) {
  WireStats wire;
  for (const StoreUse& use : stats.ranks) wire.ranks.push_back({use});
  for (const StoredObject& object : stats.largest) wire.largest.push_back({object});
  return to_text(wire);
}

StoreStats decode_stats(const std::string& bytes) {
  WireStats wire;
  WireReader in(std::as_bytes(std::span(bytes)));
  wire.fields(in);
  StoreStats stats;
  std::map<std::uint32_t, StoreUse> nodes;
  for (auto& rank : wire.ranks) {
    const StoreUse& use = rank.use;
    const auto [found, fresh] = nodes.try_emplace(use.node, use);
    if (!fresh) {
      StoreUse& sum = found->second;
      for (const auto member : {&StoreUse::capacity, &StoreUse::used, &StoreUse::touched, &StoreUse::pinned,
                                &StoreUse::spilled, &StoreUse::objects, &StoreUse::copies}) {
        sum.*member += use.*member;
      }
      for (const auto member : {&StoreUse::fetches, &StoreUse::evictions, &StoreUse::spills, &StoreUse::restores}) {
        sum.*member += use.*member;
      }
      sum.largest_free = std::max(sum.largest_free, use.largest_free);
    }
    stats.ranks.push_back(std::move(rank.use));
  }
  for (auto& [node, use] : nodes) stats.nodes.push_back(std::move(use));
  for (auto& object : wire.largest) stats.largest.push_back(std::move(object.object));
  return stats;
}

std::string encode_cluster(const ClusterInfo& info) {
  WireCluster wire;
  for (const NodeInfo& node : info.nodes) wire.nodes.push_back({node});
  for (const RankInfo& rank : info.ranks) wire.ranks.push_back({rank});
  wire.slots = info.slots;
  wire.total = info.total;
  wire.free = info.free;
  return to_text(wire);
}

ClusterInfo decode_cluster(const std::string& bytes) {
  WireCluster wire;
  WireReader in(std::as_bytes(std::span(bytes)));
  wire.fields(in);
  ClusterInfo info;
  for (auto& node : wire.nodes) info.nodes.push_back(std::move(node.info));
  for (auto& rank : wire.ranks) info.ranks.push_back(std::move(rank.info));
  info.slots = wire.slots;
  info.total = std::move(wire.total);
  info.free = std::move(wire.free);
  return info;
}

}  // namespace mobula::core
