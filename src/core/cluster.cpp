#include "core/cluster.hpp"

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

}  // namespace

std::string encode_cluster(const ClusterInfo& info) {
  WireCluster wire;
  for (const NodeInfo& node : info.nodes) wire.nodes.push_back({node});
  for (const RankInfo& rank : info.ranks) wire.ranks.push_back({rank});
  wire.slots = info.slots;
  wire.total = info.total;
  wire.free = info.free;
  detail::Buffer bytes;
  WireWriter out(bytes);
  wire.fields(out);
  return std::string(reinterpret_cast<const char*>(bytes.data()), bytes.size());
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
