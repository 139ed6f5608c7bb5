// Resources that are set aside together, for tasks and actors that should have them.
//
//   auto group = mobula::placement_group({{.cpus = 2}, {.cpus = 2}}, mobula::Strategy::spread);
//   auto a = mobula::actor<Solver>.with({.cpus = 2, .placement = group.bundle(0)})(…);
//   auto b = mobula::actor<Solver>.with({.cpus = 2, .placement = group.bundle(1)})(…);
#pragma once

#include <stdexcept>
#include <vector>

#include "mobula/ref.hpp"

namespace mobula {

// pack: few nodes; spread: many. The strict ones take one node for all, or a node of its own for each.
enum class Strategy : std::uint8_t { pack, spread, strict_pack, strict_spread };

// A handle. May be copied and passed on. Its bundles are given back when the last handle is gone, and the tasks and
// actors in them have ended.
class PlacementGroup {
 public:
  PlacementGroup() = default;
  PlacementGroup(detail::Handle handle, std::uint32_t size) : ready_(std::move(handle)), size_(size) {}

  std::size_t size() const { return size_; }
  // For the options of tasks and actors: they run where the bundle is, and hold part of it. Throws std::out_of_range.
  Placement bundle(std::size_t i) const {
    if (i >= size_)
      throw std::out_of_range("mobula: a placement group of " + std::to_string(size_) + " has no bundle " +
                              std::to_string(i));
    return {Placement::Kind::bundle, static_cast<std::uint32_t>(i), ready_.handle()};
  }
  // Ready once all bundles are set aside. Nobody has to wait for it: tasks in a bundle do.
  const Ref<void>& ready() const { return ready_; }

  bool operator==(const PlacementGroup& other) const { return ready_ == other.ready_; }
  template <class Archive>
  void serialize(Archive& archive, unsigned) {
    archive& ready_& size_;
  }

 private:
  Ref<void> ready_;
  std::uint32_t size_ = 0;
};

// Sets all bundles aside or none, each on one rank, as soon as there is room. If a rank is lost, its bundles are set
// aside anew elsewhere. Throws Infeasible where the job can never have room; std::invalid_argument for no bundles.
PlacementGroup placement_group(const std::vector<Demand>& bundles, Strategy strategy = Strategy::pack);

}  // namespace mobula
