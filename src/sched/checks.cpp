// What tests ask of the scheduler: whether its sums are what they are sums of, whether anything is held that nobody
// has, and whether something that could run stays idle. These look at everything.
#include <cmath>

#include "sched/scheduler.hpp"

namespace mobula::sched {
namespace {

constexpr double kSlack = 1e-6;

bool differ(double a, double b) { return std::abs(a - b) > kSlack; }

std::string named(const char* what, double is, double should) {
  return std::string(what) + " " + std::to_string(is) + " in place of " + std::to_string(should) + "; ";
}

}  // namespace

std::string Scheduler::why_not_sums(const std::vector<const Piece*>& at_ranks,
                                    const std::vector<const Holding*>& held) const {
  struct Sums {
    std::uint32_t tasks = 0;
    std::uint32_t ahead = 0;
    std::uint32_t actors = 0;
    std::uint32_t lends = 0;
    std::uint32_t members = 0;
    double busy = 0;
    double held = 0;
  };
  std::map<RankId, Sums> sums;
  std::map<PoolId, std::uint32_t> holders;
  const auto add_lenders = [&](const Holding& holding) {
    for (const RankId lender : holding.lenders) sums[lender].lends += holding.waits ? 0 : 1;
  };
  for (const Piece* piece : at_ranks) {
    if (piece->state == State::ahead) {
      sums[piece->worker].ahead += piece->size();
      continue;
    }
    add_lenders(*piece);
    if (piece->pool != 0) {
      holders[piece->pool] += piece->size();
      continue;
    }
    sums[piece->worker].tasks += piece->size();
    if (class_of(*piece).gang != 0) ++sums[piece->worker].members;
    sums[piece->worker].busy += cpus_of(*piece) * piece->size();
  }
  for (const Holding* holding : held) {
    add_lenders(*holding);
    if (holding->pool != 0) {
      ++holders[holding->pool];
      continue;
    }
    ++sums[holding->worker].actors;
    sums[holding->worker].held += cpus_of(*holding);
  }
  std::string text;
  for (const auto& [id, pool] : pools_) {
    if (pool.worker != detail::kNoRank) sums[pool.worker].held += pool.all.cpus;
    if (pool.holders != holders[id]) text += named("holders of a pool:", pool.holders, holders[id]);
  }
  std::uint32_t members_in_way = 0;
  for (const RankId rank : members_) {
    const Worker& worker = workers_[rank];
    const Sums& sum = sums[rank];
    std::string wrong;
    if (worker.tasks != sum.tasks) wrong += named("tasks", worker.tasks, sum.tasks);
    if (worker.ahead != sum.ahead) wrong += named("tasks ahead", worker.ahead, sum.ahead);
    if (worker.actors != sum.actors) wrong += named("actors", worker.actors, sum.actors);
    if (worker.lends != sum.lends) wrong += named("lends", worker.lends, sum.lends);
    if (differ(worker.busy, sum.busy)) wrong += named("busy cpus", worker.busy, sum.busy);
    if (differ(worker.held, sum.held)) wrong += named("held cpus", worker.held, sum.held);
    if (worker.members != sum.members) wrong += named("members", worker.members, sum.members);
    if (worker.reserved) members_in_way += sum.members;
    if (!wrong.empty()) text += "rank " + std::to_string(rank) + ": " + wrong;
  }
  if (members_in_way != members_in_way_) {
    text += named("members in the way of a reservation:", members_in_way_, members_in_way);
  }
  return text;
}

std::string Scheduler::what_is_held() const {
  std::string text;
  for (const RankId rank : members_) {
    const Worker& worker = workers_[rank];
    std::string held;
    if (worker.tasks + worker.ahead + worker.actors + worker.lends + worker.members + worker.beside != 0 ||
        worker.load_ns != 0)
      held += "tasks or actors, ";
    if (differ(worker.busy, 0) || differ(worker.held, 0) || differ(worker.lent, 0)) {
      held += std::to_string(worker.busy) + " cpus busy, " + std::to_string(worker.held) + " held, " +
              std::to_string(worker.lent) + " lent, ";
    }
    if (worker.reserved) held += "is reserved, ";
    if (differ(worker.free.cpus, worker.offers.cpus) || differ(worker.free.gpus, worker.offers.gpus)) {
      held += std::to_string(worker.free.cpus) + " cpus of " + std::to_string(worker.offers.cpus) + " are free, ";
    }
    if (worker.free.memory != worker.offers.memory) held += "memory, ";
    for (const auto& [name, amount] : worker.offers.resources) {
      if (differ(worker.free.resources.at(name), amount)) held += "some of " + name + ", ";
    }
    if (!held.empty()) text += "rank " + std::to_string(rank) + ": " + held;
  }
  if (queued_tasks_ != 0) text += "tasks are queued, ";
  if (!pools_.empty()) text += "pools are left, ";
  if (reserver_ != nullptr) text += "there is a reservation for nobody, ";
  return text;
}

// The first piece of a queue, tried at every rank, whatever is remembered about those.
bool Scheduler::could_be_placed(const Class& klass, Piece& piece) {
  if (!klass.is_together()) {
    return std::any_of(members_.begin(), members_.end(),
                       [&](RankId rank) { return allowed(klass, rank) && look_at(klass, rank, &piece); });
  }
  const bool reserves = reserver_ == &klass;
  std::vector<RankId> ranks;
  for (const RankId rank : members_) {
    const Worker& worker = workers_[rank];
    const bool is_idle = (reserves && worker.reserved) || (is_open_to(piece, worker) && room(worker) == Room::idle);
    if (is_idle && may_take_part(klass, piece, rank)) ranks.push_back(rank);
  }
  if (ranks.size() < klass.gang) return false;
  std::sort(ranks.begin(), ranks.end());
  return !pick(klass, piece.preferred, within_nodes(klass, std::move(ranks), &Worker::free)).empty();
}

std::string Scheduler::what_stays_idle() {
  for (const auto& [order, klass] : queued_) {
    int levels = 0;
    for (const auto& [level, queue] : klass->queues) {
      if (queue.empty()) continue;
      if (could_be_placed(*klass, *queue.front()))
        return "it could be placed at once, and is not: " + describe(*queue.front());
      if (!klass->by_memory || ++levels == kLook) break;
    }
  }
  for (auto& [id, pool] : pools_) {
    if (pool.worker == detail::kNoRank || pool.closing) continue;
    for (auto& [priority, queue] : pool.queues) {
      if (queue.empty()) continue;
      const auto& demands = class_of(*queue.front()).demands;
      const bool fits_in =
          std::any_of(demands.begin(), demands.end(), [&free = pool.free, &piece = *queue.front()](const auto& demand) {
            return offers(free, demand, piece.memory);
          });
      if (fits_in) return "its bundle has room for it: " + describe(*queue.front());
      break;
    }
  }
  return "";
}

}  // namespace mobula::sched
