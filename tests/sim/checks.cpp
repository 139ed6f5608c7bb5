#include "sim/checks.hpp"

namespace mobula::sim {

void check_step(const Cluster& cluster, RankId r) {
  const Cluster::Rank& rank = cluster.ranks()[r];
  // But for members of gangs, for which nobody waits who may be what one of them waits for.
  const double by_others = rank.worker->cpus_in_use() - rank.worker->member_cpus();
  cluster.require(-1e-6 <= by_others && by_others <= rank.worker->settings().slots + 1e-6, "no slot runs two tasks");
  cluster.require(!rank.worker->has_runnable(), "nothing that can run stays idle");
  // Looking at all pieces after each step would make long queues cost their square.
  constexpr std::uint64_t kFew = 100;
  const bool looks = rank.head && (rank.head->unfinished() < kFew || cluster.outcome().events % 32 == 0);
  if (looks) {
    rank.head->check_invariants();
    const std::string sums = rank.head->why_not_sums();
    if (!sums.empty()) cluster.wrong("what is counted is there: " + sums);
    const std::string idle = rank.head->scheduler().what_stays_idle();
    if (!idle.empty()) cluster.wrong("nothing that can run stays idle: " + idle);
  }
  rank.store->check_invariants();
}

namespace {

void check_rank(const Cluster& cluster, RankId r) {
  const Cluster::Rank& rank = cluster.ranks()[r];
  const std::string where = " on rank " + std::to_string(r);
  if (rank.objects->records() > 1)
    cluster.wrong("no record outlives its handles" + where + ": " + rank.objects->describe());
  if (rank.store->size() != 0 || rank.store->used() != 0 || !rank.files.empty()) {
    cluster.wrong("no value outlives its refs" + where + ": " + rank.store->describe() +
                  std::to_string(rank.store->used()) + " bytes, " + std::to_string(rank.files.size()) + " files; " +
                  rank.worker->what_is_left() + rank.worker->describe());
  }
  const std::string left = rank.worker->what_is_left();
  if (!left.empty())
    cluster.wrong("nothing is left, and everything is free" + where + ": " + left + rank.worker->describe());
}

// For what, and who has it.
std::string who_waits(const Cluster& cluster) {
  constexpr std::size_t kMost = 2'000;  // of each
  std::string text = cluster.head().describe_pieces().substr(0, kMost);
  for (RankId r = 0; r < cluster.ranks().size() && text.size() < 3 * kMost; ++r) {
    const Cluster::Rank& rank = cluster.ranks()[r];
    if (!rank.alive || (rank.worker->interests() == 0 && rank.worker->running() + rank.worker->queued_tasks() == 0))
      continue;
    text += "rank " + std::to_string(r) + ": " + rank.worker->describe().substr(0, kMost) + "\n";
  }
  text += "the head has: " + cluster.head().what_is_left() + "\n";
  return text + "entries: " + cluster.head().describe_entries().substr(0, kMost);
}

}  // namespace

void check_rest(const Cluster& cluster) {
  const head::Head& head = cluster.head();
  if (!cluster.driver_ended()) {
    cluster.wrong("the driver waits for ever for " + cluster.awaited() + "\n" + who_waits(cluster));
  }
  if (head.unfinished() != 0) cluster.wrong("tasks have not ended\n" + who_waits(cluster));
  for (RankId r = 0; r < cluster.ranks().size(); ++r) {
    if (cluster.ranks()[r].alive) check_rank(cluster, r);
  }
  const std::string left = head.what_is_left();
  if (!left.empty()) cluster.wrong("nothing is left, and everything is free: " + left + head.describe_entries());
  cluster.require(!head.is_draining() || head.drained(), "a job that was told to end is at rest when all is done");
}

}  // namespace mobula::sim
