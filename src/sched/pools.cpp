// Parts of workers that are set aside.
#include <algorithm>
#include <limits>
#include <map>
#include <numeric>

#include "core/mark.hpp"
#include "sched/scheduler.hpp"

namespace mobula::sched {

void Scheduler::change(core::WireDemand& amount, const core::WireDemand& by, double sign) {
  amount.cpus += sign * by.cpus;
  amount.gpus += sign * by.gpus;
  change_memory(amount, by.memory, sign);
  for (const auto& [name, n] : by.resources) amount.resources[name] += sign * n;
}

void Scheduler::change_memory(core::WireDemand& amount, std::uint64_t by, double sign) {
  amount.memory += static_cast<std::uint64_t>(sign < 0 ? -sign : sign) * (sign < 0 ? -by : by);
}

Scheduler::PoolId Scheduler::open_pool(const core::WireDemand& demand) {
  Pool pool;
  pool.all = pool.free = demand;
  pools_.emplace(next_pool_, std::move(pool));
  return next_pool_++;
}

// Takes (`sign` > 0) or gives back what as many tasks hold.
void Scheduler::change_pool(const Holding& holding, double sign) {
  const PoolId id = holding.pool;
  Pool& pool = pools_.at(id);
  change(pool.free, class_of(holding).demands[holding.demand], -sign);
  change_memory(pool.free, holding.memory, -sign);
  pool.holders += static_cast<std::uint32_t>(static_cast<std::int64_t>(sign));
  if (pool.holders == 0) pool.free = pool.all;  // whatever rounding has left
  if (sign < 0 && !pool.queues.empty()) eager_.insert(id);
  drop_unused(id);
}

// Of one that is being closed.
void Scheduler::drop_unused(PoolId id) {
  const Pool& pool = pools_.at(id);
  if (!pool.closing || pool.holders != 0) return;
  vacate(id);
  eager_.erase(id);
  pools_.erase(id);
}

// The pool's worker has it for others, or is gone.
void Scheduler::vacate(PoolId id) {
  Pool& pool = pools_.at(id);
  const RankId rank = std::exchange(pool.worker, detail::kNoRank);
  if (rank == detail::kNoRank) return;
  Worker& worker = workers_[rank];
  worker.held -= pool.all.cpus;
  if (worker.held < 1e-9) worker.held = 0;
  change_free(rank, pool.all, 1);
  look_at_again(rank);
}

bool Scheduler::takes_of_node(const Pool& pool) const {
  return std::any_of(pool.all.resources.begin(), pool.all.resources.end(),
                     [this](const auto& amount) { return node_resources_.contains(amount.first); });
}

void Scheduler::move_away(const std::vector<PoolId>& pools, RankId from) {
  for (const PoolId id : pools) {
    const Pool& pool = pools_.at(id);
    if (pool.worker == from && (pool.holders == 0 || !takes_of_node(pool))) vacate(id);
  }
}

void Scheduler::vacate_unused(const std::vector<PoolId>& pools) {
  for (const PoolId id : pools) {
    if (pools_.at(id).holders == 0) vacate(id);
  }
}

void Scheduler::give_up(PoolId first) {
  if (reserver_ == &pools_.at(first)) end_reservation();
}

void Scheduler::close_pool(PoolId id) {
  give_up(id);
  pools_.at(id).closing = true;
  drop_unused(id);
}

// Which site each bundle gets, the largest ones first; empty if there is no room for all. `used`: nodes on which the
// group has bundles already.
std::vector<RankId> Scheduler::arrange(const std::vector<const core::WireDemand*>& bundles, Strategy strategy,
                                       std::vector<Site> sites, const std::set<std::uint32_t>& used) const {
  std::map<std::uint32_t, std::vector<Site*>> nodes;
  for (Site& site : sites) nodes[workers_[site.worker].node].push_back(&site);
  std::vector<std::size_t> order(bundles.size());
  std::iota(order.begin(), order.end(), std::size_t{0});
  std::stable_sort(order.begin(), order.end(), [&](std::size_t a, std::size_t b) {
    return std::tuple(bundles[a]->gpus, bundles[a]->cpus, bundles[a]->memory) >
           std::tuple(bundles[b]->gpus, bundles[b]->cpus, bundles[b]->memory);
  });
  std::vector<RankId> result(bundles.size(), detail::kNoRank);
  std::map<std::uint32_t, std::uint32_t> load;  // bundles, by node
  for (const std::uint32_t node : used) load[node] = 1;
  const auto take_in = [&](std::uint32_t node, std::size_t bundle) {
    // Of equal workers of a node the one with least left is filled, unless they are to be spread.
    Site* best = nullptr;
    for (Site* site : nodes.at(node)) {
      if (!offers(site->free, *bundles[bundle])) continue;
      const bool spreads = strategy == Strategy::spread;
      if (best == nullptr || (spreads ? site->free.cpus > best->free.cpus : site->free.cpus < best->free.cpus))
        best = site;
    }
    if (best == nullptr) return false;
    change(best->free, *bundles[bundle], -1);
    for (const auto& [name, amount] : bundles[bundle]->resources) {
      if (!node_resources_.contains(name)) continue;
      for (Site* site : nodes.at(node)) site->free.resources[name] = best->free.resources[name];
    }
    result[bundle] = best->worker;
    ++load[node];
    return true;
  };
  if (strategy == Strategy::strict_pack) {
    for (const auto& [node, of_node] : nodes) {
      if (!used.empty() && !used.contains(node)) continue;
      std::vector<core::WireDemand> before;
      for (const Site* site : of_node) before.push_back(site->free);
      if (std::all_of(order.begin(), order.end(), [&, n = node](std::size_t bundle) { return take_in(n, bundle); })) {
        return result;
      }
      for (std::size_t i = 0; i < of_node.size(); ++i) of_node[i]->free = before[i];
    }
    return {};
  }
  for (const std::size_t bundle : order) {
    std::vector<std::pair<std::int64_t, std::uint32_t>> preferred;
    for (const auto& [node, of_node] : nodes) {
      const auto n = static_cast<std::int64_t>(load[node]);
      if (strategy == Strategy::strict_spread && n != 0) continue;
      double cpus = 0;
      for (const Site* site : of_node) cpus += site->free.cpus;
      // Packed: where the group is already, then where most is free.
      preferred.emplace_back(strategy == Strategy::pack ? -(n << 32) - static_cast<std::int64_t>(cpus) : n, node);
    }
    std::sort(preferred.begin(), preferred.end());
    if (std::none_of(preferred.begin(), preferred.end(), [&](const auto& p) { return take_in(p.second, bundle); })) {
      return {};
    }
  }
  return result;
}

bool Scheduler::may_look_for(PoolId first, Time now) {
  constexpr Time kEach = 10'000;  // ns for each rank that a look has to do with
  const Time pause = kEach * std::ssize(members_);
  const bool kept_free = reserver_ == &pools_.at(first) && reserved_news_ != looked_news_;
  if (first == looked_for_ && now - looked_at_ < pause && !kept_free) return false;
  looked_for_ = first;
  looked_at_ = now;
  looked_news_ = reserved_news_;
  return true;
}

bool Scheduler::place_pools(const std::vector<PoolId>& ids, Strategy strategy, Time now, GroupTurn turn) {
  now_ = now;
  std::vector<PoolId> missing;
  std::vector<const core::WireDemand*> bundles;
  std::set<std::uint32_t> used;
  for (const PoolId id : ids) {
    const Pool& pool = pools_.at(id);
    if (is_placed(id)) {
      used.insert(workers_[pool.worker].node);
    } else {
      missing.push_back(id);
      bundles.push_back(&pool.all);
    }
  }
  const void* const who = &pools_.at(ids.front());
  const bool reserves = reserver_ == who;
  // What the ranks have for the bundles: at once, or once the tasks there have ended. Cpus that are lent by tasks which
  // wait are wanted back, so they are taken only where the ranks never have enough beside them, and beside members of
  // gangs, which may be inside MPI.
  const auto sites = [&](auto&& cpus_of_worker) {
    std::vector<Site> all;
    for (const RankId rank : members_) {
      const Worker& worker = workers_[rank];
      const bool is_for_others = is_kept_free(worker) && !reserves && used.empty() && turn == GroupTurn::of_others;
      if (worker.slots == 0 || worker.closed || is_for_others) continue;
      Site site{rank, worker.free};
      site.free.cpus = cpus_of_worker(worker);
      all.push_back(std::move(site));
    }
    return all;
  };
  std::vector<RankId> wanted =
      arrange(bundles, strategy, sites([](const Worker& worker) { return worker.lasting_beside_members(); }), used);
  const bool takes_lent = wanted.empty();
  if (takes_lent) {
    wanted = arrange(bundles, strategy, sites([](const Worker& worker) { return worker.slots - worker.held; }), used);
  }
  const auto at_once = [takes_lent](const Worker& worker) {
    const double cpus = worker.capacity() - worker.busy;
    return takes_lent ? cpus : std::min(cpus, worker.lasting());
  };
  const std::vector<RankId> chosen = arrange(bundles, strategy, sites(at_once), used);
  if (!chosen.empty()) {
    // Those who wait may be waiting for what the group holds already, so it may take what is kept free for them.
    if (reserves || !used.empty()) MOBULA_MARK("sched: a group is placed that waited");
    if (reserves || !used.empty()) end_reservation();
    for (std::size_t i = 0; i < missing.size(); ++i) {
      Pool& pool = pools_.at(missing[i]);
      pool.worker = chosen[i];
      Worker& worker = workers_[chosen[i]];
      worker.held += pool.all.cpus;
      change_free(chosen[i], pool.all, -1);
      if (!pool.queues.empty()) eager_.insert(missing[i]);
      look_at_again(chosen[i]);  // an actor for which that rank was right may have to take what is lent
    }
    return true;
  }
  if (turn == GroupTurn::before_others) return false;
  constexpr Time kLookAgain = 1'000'000;
  if ((reserver_ != nullptr && !reserves && used.empty()) || now_ < no_reserving_until_) return false;
  if (reserves && give_up_reservation()) return false;
  if (reserves && now_ - reserved_anew_ < kLookAgain) return false;
  std::sort(wanted.begin(), wanted.end());
  wanted.erase(std::unique(wanted.begin(), wanted.end()), wanted.end());
  const int priority = used.empty() ? 0 : std::numeric_limits<int>::max();
  if (!wanted.empty()) {
    reserve_for(who, wanted, priority);
  } else if (reserves) {
    end_reservation();
  }
  return false;
}

std::optional<Scheduler::Decision> Scheduler::place_in_pools() {
  while (!eager_.empty()) {
    const PoolId id = *eager_.begin();
    Pool& pool = pools_.at(id);
    if (pool.worker != detail::kNoRank) {
      for (auto& [priority, queue] : pool.queues) {
        if (queue.empty()) continue;
        Piece& piece = *queue.front();
        const auto& demands = class_of(piece).demands;
        for (std::uint32_t i = 0; i < demands.size(); ++i) {
          if (offers(pool.free, demands[i], piece.memory)) return Decision{&piece, 1, pool.worker, i, {}, {}};
        }
        break;  // what is first waits, and others behind it
      }
    }
    eager_.erase(id);
  }
  return std::nullopt;
}

}  // namespace mobula::sched
