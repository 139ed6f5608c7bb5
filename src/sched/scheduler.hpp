// Decides which tasks go to which worker. A pure state machine: it is told what is queued, what workers offer, what was
// assigned and what ended, and answers with decisions, which the head carries out and reports back. It knows no
// messages, no clock, no threads, and nothing of functions but how long they take.
//
// Tasks with equal demands and wishes form a class (classes.hpp). Plain tasks (one cpu, anywhere) are sent ahead of
// need, so that a worker always has about a millisecond of work; others go where what they need is free. Nothing here
// looks at all workers or all tasks: workers with room are in bit sets, queued tasks in the queues of their class, and
// classes that found no room wait for news of a rank (parked.hpp).
//
// A gang starts when as many ranks as it has members are idle; all its tasks are given out at once. A task that asks
// for more cpus than any rank has starts when enough ranks of one node are idle: it runs on one of them, and the others
// lend it their cores. Where the ranks don't become idle by themselves, some are kept free: they get no other work
// until it has started. After that nobody may do so for as long as it took, or a tenth of a second, so that other work
// has its share.
#pragma once

#include <algorithm>
#include <array>
#include <map>
#include <optional>
#include <set>
#include <string>
#include <unordered_map>
#include <vector>

#include "core/list.hpp"
#include "core/messages.hpp"
#include "core/trace.hpp"
#include "mobula/placement_group.hpp"
#include "sched/bitset.hpp"
#include "sched/classes.hpp"
#include "sched/states.hpp"

namespace mobula::sched {

using core::Range;
using core::Time;
using detail::RankId;

// What an assigned task holds, and after it the actor that it made.
struct Holding {
  ClassRef klass;
  std::uint32_t demand = 0;  // which of its class
  std::uint64_t memory = 0;  // beside that demand's
  RankId worker = detail::kNoRank;
  std::uint64_t pool = 0;       // out of which it has that; 0: out of its worker
  std::vector<RankId> lenders;  // idle ranks of the same node, whose cores it has besides
  bool waits = false;           // for others: its cpus are free meanwhile
};

// A stretch of tasks that are in the same state. The head derives from it what it needs besides.
struct Piece : Holding, core::Listed<Piece> {
  using State = sched::State;

  std::uint32_t size() const { return range.end - range.begin; }
  // A rank has it, and may run it.
  bool is_at_rank() const { return state == State::ahead || state == State::assigned; }
  void become(State next) {
    MOBULA_CHECK(may_follow(state, next), "a task goes from state to state as the ledger allows");
    state = next;
  }

  Range range;
  bool nested = false;  // submitted by a task
  State state = State::waiting;
  std::int32_t priority = 0;
  std::uint32_t function = 0;
  std::uint32_t bytes = 0;  // of one task's arguments, about
  Time queued_at = 0;
  RankId preferred = detail::kNoRank;
  std::uint64_t estimate_ns = 0;  // of one task, when it was assigned
};

// NOLINTNEXTLINE(clang-analyzer-optin.performance.Padding)
class Scheduler {
 public:
  explicit Scheduler(std::uint32_t ranks, std::uint32_t functions);

  // `node_resources`: of what it offers, that which the ranks of its node have together. The same on all ranks.
  // `features`: what tasks may need of it, beside what is counted (WireOptions::needs).
  void add_worker(RankId rank, std::uint32_t node, const core::WireDemand& offers,
                  const std::vector<std::string>& node_resources = {}, const std::vector<std::string>& features = {});
  void remove_worker(RankId rank);
  // Nothing is placed there any more.
  void close(RankId rank);
  // What of the cpus that the rank's tasks hold is not used there.
  void set_lent(RankId rank, const core::Lending& lending);
  bool has_worker(RankId rank) const { return rank < workers_.size() && workers_[rank].alive; }

  // Sets the class, and the memory, of tasks with such options (nullptr: plain). `why_infeasible` says why no rank can
  // ever run them. Which class that is may be another one after ranks were lost. `nested`: a task has submitted them.
  void classify(Holding& holding, const core::WireOptions* options, bool nested = false);
  bool can_run(const Holding& holding) const;
  std::optional<std::string> why_infeasible(const Holding& holding) const;
  // What each kind of rank lacks at present, for people.
  std::string describe(const Piece& piece) const;

  // Behind others of its priority, or before them: what was given back has waited already.
  void enqueue(Piece& piece, bool first = false);
  void enqueue_behind(Piece& piece, Piece& other);  // which is queued, and of which it was a part
  void dequeue(Piece& piece);
  void resized(Piece& piece, std::int64_t change);  // a queued piece grew or shrank
  std::size_t queued_tasks() const { return queued_tasks_; }

  struct Decision {
    Piece* piece = nullptr;  // queued; its first `tasks` go to `worker`
    std::uint32_t tasks = 0;
    RankId worker = detail::kNoRank;
    std::uint32_t demand = 0;
    // Of a gang, which goes whole: its ranks in order, and the demand that each meets.
    std::vector<std::pair<RankId, std::uint32_t>> members;
    std::vector<RankId> lenders;
  };
  // Higher priorities first; but what has waited for kPatience gets every kTurn-th decision, so that nothing starves.
  std::optional<Decision> place(Time now);
  static constexpr Time kPatience = 1'000'000'000;
  static constexpr std::uint32_t kTurn = 8;

  // Whether tasks that still wait for others may be sent ahead to the worker.
  bool has_room_ahead(RankId rank) const { return room_ahead(rank) != 0; }
  std::size_t room_ahead(RankId rank) const {  // tasks
    const Worker& worker = workers_[rank];
    if (!worker.alive || worker.closed || is_kept_free(worker)) return 0;
    const std::size_t has = std::size_t{worker.ahead} + worker.tasks;
    return has < kAhead ? kAhead - has : 0;
  }

  // The rank has the piece, and all its inputs are there: it holds what it asks for. Sets the piece's fields.
  void assigned(Piece& piece, RankId worker, std::uint32_t demand, std::vector<RankId> lenders = {});
  // The rank has the piece while inputs are missing: it holds nothing until `inputs_came`.
  void sent_ahead(Piece& piece, RankId worker);
  void inputs_came(Piece& piece);
  // The tasks of a piece at a rank are done, given back or lost: it is waiting.
  void ended(Piece& piece);
  void stays(const Piece& piece);  // the same, but what the one task held stays held: by an actor
  void left(Holding holding);      // such an actor has ended
  // A task with lenders or in a pool waits for others, or goes on. Others that are plain count by `set_lent`.
  void set_waits(Holding& holding, bool waits);
  void measured(std::uint32_t function, std::uint64_t elapsed_ns, std::uint32_t tasks);
  std::uint64_t estimate_ns(std::uint32_t function) const { return estimates_[function]; }

  // ---- pools: parts of workers that are set aside, the bundles of placement groups.
  using PoolId = std::uint64_t;
  PoolId open_pool(const core::WireDemand& demand);
  // Whether it is worth looking for room for the group of that pool. A look costs a glance at each rank, so after one
  // that found none some time passes, unless ranks that are kept free for the group have something back.
  bool may_look_for(PoolId first, Time now);
  // Groups have their turn one after the other, and the first may have ranks kept free. Those that tasks have asked for
  // may have what is kept free for others, also before their turn: whoever waits for them may hold what others need.
  enum class GroupTurn : std::uint8_t { of_others, of_nested, before_others };
  // Gives those pools a worker that have none: all or none. False: there is no room.
  bool place_pools(const std::vector<PoolId>& pools, Strategy strategy, Time now,
                   GroupTurn turn = GroupTurn::of_others);
  // The group of that pool waits for room no more: no ranks are kept free for it.
  void give_up(PoolId first);
  // Takes the worker, which closes, from those of the pools that have it, so that they are placed elsewhere. What runs
  // in them counts with them until it ends; but of what the ranks of a node have together others would have at once
  // what is still in use, so such a pool stays.
  void move_away(const std::vector<PoolId>& pools, RankId from);
  // Takes the worker from those of the pools of which nobody holds anything.
  void vacate_unused(const std::vector<PoolId>& pools);
  bool is_placed(PoolId pool) const { return rank_of(pool) != detail::kNoRank; }
  RankId rank_of(PoolId pool) const { return pools_.at(pool).worker; }  // kNoRank: none yet
  // Nothing is queued there any more; it goes once nothing is held.
  void close_pool(PoolId pool);
  std::optional<std::string> why_infeasible(const std::vector<core::WireDemand>& bundles, Strategy strategy) const;
  // Why a pool with all of the bundle can never run tasks of the class.
  std::optional<std::string> why_infeasible(const Holding& holding, const core::WireDemand& bundle) const;
  std::size_t pools() const { return pools_.size(); }
  template <class F>
  void for_each_queued(PoolId pool, F&& visit) const {
    for (const auto& [priority, queue] : pools_.at(pool).queues)
      for (Piece& piece : queue) visit(piece);
  }

  struct TakeBack {
    RankId worker = detail::kNoRank;
    std::uint32_t tasks = 0;
  };
  // Work that should be asked back from a worker for others that run dry.
  std::optional<TakeBack> rebalance(Time now);
  void gave_back(RankId worker, std::uint32_t tasks, Time now);
  bool may_rebalance() const { return !idle_.empty() && !rich_.empty(); }

  // Tasks are queued, and what stays where it is holds all cpus that there are.
  bool starved() const;
  // Workers that were reserved since the last call: what they have not begun is to be taken back, so that it does not
  // wait there for work that has to wait for the gang.
  std::vector<RankId> take_reserved();
  // The pieces that are queued, and that the ranks that are left can never run as tasks of their class.
  std::vector<Piece*> hopeless() const;
  std::size_t classes() const { return classes_.size(); }  // beside that of plain tasks
  // Some worker has nothing to do, and nothing that will follow.
  bool hungry() const { return !hungry_.empty(); }
  double slots() const { return slots_; }
  std::uint32_t outstanding(RankId rank) const { return workers_[rank].tasks + workers_[rank].ahead; }
  core::WireDemand total() const;
  core::WireDemand free() const;
  void check_invariants() const;
  // For tests, in checks.cpp: what is not as it should be, for people; empty: nothing.
  // Of the sums over what is at ranks, and what actors and stuck members hold.
  std::string why_not_sums(const std::vector<const Piece*>& at_ranks, const std::vector<const Holding*>& held) const;
  // Where nothing is at a rank or queued.
  std::string what_is_held() const;
  // After `place` has found nothing more, and no search goes on.
  std::string what_stays_idle();

 private:
  static constexpr std::uint32_t kAhead = 2048;        // tasks that a worker may hold ahead of their inputs
  static constexpr std::uint64_t kTarget = 1'000'000;  // ns of work that a slot should have
  static constexpr std::uint64_t kUnknown = 20'000;    // ns that a task of unknown length is taken for
  static constexpr double kTogether = 10'000;          // ns of work for which one message is worth it
  static constexpr Time kSettle = 100'000;             // ns in which so little work should be done: no TakeBack before
  static constexpr std::uint32_t kBytes = 32 << 10;    // of arguments in one assignment
  static constexpr int kLook = 64;                     // candidates, levels and the like that one search looks at
  static constexpr std::size_t kFewClasses = 64;
  static constexpr Time kLookEvery = 1'000;  // ns, in which searches that go on look at one class more

  // What each task changes comes first: of thousands of workers none is in a cache.
  struct Worker {
    bool alive = false;
    bool closed = false;        // gets no work
    bool taking = false;        // a TakeBack is under way
    bool reserved = false;      // for a gang that waits
    std::uint32_t tasks = 0;    // in state assigned
    double busy = 0;            // cpus of those
    std::uint64_t load_ns = 0;  // the time that those take, as estimated
    std::uint32_t ahead = 0;    // tasks in state ahead
    double slots = 0;
    double lent = 0;
    double lent_by_members = 0;  // of that
    std::uint32_t members = 0;   // of gangs: tasks in state assigned
    double by_members = 0;       // cpus of those
    std::uint32_t beside = 0;    // of those, the ones that run, and have no cpus of their own
    double held = 0;             // cpus of actors
    std::uint32_t actors = 0;
    std::uint32_t lends = 0;  // its cores to so many tasks of other ranks: it gets no work
    Time rest_until = 0;      // no TakeBack before
    Time rest = 0;
    std::uint32_t node = 0;
    core::WireDemand free;  // what no task of a class but the plain one holds
    core::WireDemand offers;
    std::vector<std::string> features;
    // The search for parked classes that have room for what it has back.
    std::optional<Turn> asked;  // those are done
    bool asks_all = false;      // not only ordinary ones
    bool asks_again = false;    // once more from the beginning, since it has more back
    // Actors that count on it, by their cpus, the most first, and their order.
    std::set<std::pair<double, std::uint64_t>, std::greater<>> counting;
    std::uint32_t load() const { return tasks + actors; }
    double capacity() const { return lends != 0 ? 0 : std::max(0.0, slots + lent - held); }
    // Cpus that may be held for good, once the tasks there have ended: who lends cpus while it waits wants them back.
    double lasting() const { return lends != 0 ? 0 : slots - held - lent; }
    // The same, once those tasks have ended that do so by themselves: a member may be inside MPI.
    double lasting_beside_members() const { return lasting() - (by_members - lent_by_members); }
  };
  struct Pool {
    RankId worker = detail::kNoRank;
    core::WireDemand all;
    core::WireDemand free;
    std::uint32_t holders = 0;  // tasks and actors
    bool closing = false;
    std::map<int, Queue, std::greater<>> queues;  // by priority
  };
  // What a worker has for bundles, while they are being placed.
  struct Site {
    RankId worker = detail::kNoRank;
    core::WireDemand free;
  };

  enum class Room : std::uint8_t { none, low, idle };
  // Where the first tasks of a piece can go.
  struct Choice {
    Piece* piece = nullptr;
    RankId rank = detail::kNoRank;
    std::uint32_t demand = 0;
  };
  bool is_kept_free(const Worker& worker) const { return worker.reserved && members_in_way_ == 0; }
  void count_member(const Holding& holding, int change);
  void keep_free(const std::set<RankId>& asked);
  Room room(const Worker& worker) const;
  void update(RankId rank);
  void load(Piece& piece);
  void unload(const Piece& piece, std::uint32_t tasks);
  void ask_reserved(RankId rank);
  double cpus_of(const Holding& holding) const;
  Queue& queue_of(const Piece& piece);
  void count_queued(Piece& piece);
  void charge(const Holding& holding, double tasks);
  void change_free(RankId rank, const core::WireDemand& by, double sign);
  void give_back(const Holding& holding, std::uint32_t tasks);
  void lend_rank(RankId rank, int times);

  // ---- classes.cpp
  Class& class_of(const Holding& holding) { return holding.klass ? *holding.klass : plain_; }
  const Class& class_of(const Holding& holding) const { return holding.klass ? *holding.klass : plain_; }
  ClassRef class_with(const core::WireOptions& options, bool by_memory, bool nested);
  void list(Class& klass);
  void drop_unused_classes();
  std::vector<FamilyRef>& families_at(const Class& klass);
  template <class F>
  void for_each_family_at(RankId rank, F&& visit);
  static Family::Asks asks_of(const Class& klass);
  static Amounts amounts_of(const core::WireDemand& demand, std::uint64_t memory, const Family::Asks& asks);
  static Amounts amounts_of(const Class& klass);
  static Amounts amounts_of(const Worker& worker, const Family::Asks& asks);
  const std::vector<RankId>& ranks_of(const Class& klass) const;
  bool allowed(const Class& klass, RankId rank) const;
  bool is_at(const Class& klass, RankId rank) const;
  void find_ranks(Class& klass);
  void find_most_memory(Class& klass);
  std::optional<std::string> why_infeasible(const Class& klass, std::uint64_t memory) const;
  void rank_changed(RankId rank);
  void look_at_again(RankId rank, bool ordinary = false);
  void look_at_all_again(Class& klass);
  void look_at_news(Class& klass);
  void queued_more(Class& klass, const Piece& piece);
  void set_turn(Class& klass);
  void enter_turn(Class& klass);
  void leave_turn(Class& klass);
  void look_for_others(Class& klass);
  void set_parked(Class& klass, bool parked);
  void park(Class& klass);
  // REQUIRES: it counts on a rank.
  auto& counting_on(const Class& klass) { return workers_[klass.counts_on].counting; }
  void wake_those_counting_on(RankId rank);
  int wake_first(RankId rank, int looks);
  void wake_parked();

  bool could_be_placed(const Class& klass, Piece& piece);
  bool may_lend(const Class& klass, RankId rank) const;
  void find_width(Class& klass);
  static bool offers(const core::WireDemand& offer, const core::WireDemand& demand, std::uint64_t memory = 0);
  static bool offers_besides_cpus(const core::WireDemand& offer, const core::WireDemand& demand);
  std::optional<std::uint32_t> fits(const Class& klass, const Worker& worker, bool takes_lent = false) const;
  std::optional<Choice> look_at(const Class& klass, RankId rank, Piece* only, bool takes_lent = false) const;
  std::optional<Choice> choose_lent(Class& klass, Piece* only) const;
  Piece* longest_waiting();
  bool stays_little(const Worker& worker, std::uint32_t function, std::uint32_t tasks) const;
  std::optional<RankId> choose_plain(const Piece& piece);
  std::optional<RankId> next_plain();
  std::optional<Choice> choose(Class& klass, Piece* only);
  std::optional<Choice> choose_anywhere(Class& klass, Piece* only);
  std::optional<Choice> choose_at_place(Class& klass, Piece* only);
  void has_no_room(Class& klass, RankId rank);
  std::optional<Decision> place_in(Class& klass, Piece* only = nullptr);
  std::optional<Decision> place_first();
  using Members = std::vector<std::pair<RankId, std::uint32_t>>;
  std::optional<std::uint32_t> fits_now(const Class& klass, RankId rank, bool nested) const;
  std::vector<RankId> within_nodes(const Class& klass, std::vector<RankId> ranks, core::WireDemand Worker::*has) const;
  core::WireDemand sum_of(core::WireDemand Worker::*has) const;
  bool is_open_to(const Piece& piece, const Worker& worker) const;
  bool may_take_part(const Class& klass, const Piece& piece, RankId rank) const;
  Members pick(const Class& klass, RankId preferred, const std::vector<RankId>& from) const;
  Members pick_wide(const Class& klass, RankId preferred, std::vector<RankId> from,
                    core::WireDemand Worker::*has) const;
  std::optional<Members> choose_together(Class& klass, Piece& piece);
  void reserve(const Class& klass, Piece& piece);
  bool could_take_part(const Class& klass, RankId rank) const;
  bool reserved_in_vain(const Class& klass, const Piece& piece) const;
  bool is_too_early_for(const Class& klass, const Piece& piece) const;
  void give_up_in_vain();
  Time reserve_pause() const;
  void reserve_for(const void* who, const std::vector<RankId>& workers, int priority);
  bool give_up_reservation();
  // ns; what it waits for may be held for ever.
  static constexpr Time kReserveMost = 60'000'000'000;
  void end_reservation();
  std::vector<RankId> arrange(const std::vector<const core::WireDemand*>& bundles, Strategy strategy,
                              std::vector<Site> sites, const std::set<std::uint32_t>& used) const;
  // Adds `by` as many times as `sign` says.
  static void change(core::WireDemand& amount, const core::WireDemand& by, double sign);
  static void change_memory(core::WireDemand& amount, std::uint64_t by, double sign);
  void change_pool(const Holding& holding, double sign);
  void vacate(PoolId id);
  bool takes_of_node(const Pool& pool) const;
  void drop_unused(PoolId id);
  std::optional<Decision> place_in_pools();
  std::uint32_t share(const Class& klass, const Piece& piece, const Worker& worker) const;

  std::vector<Worker> workers_;
  std::vector<RankId> members_;
  std::unordered_map<std::uint32_t, std::vector<RankId>> nodes_;
  std::set<std::string> node_resources_;
  Class plain_;
  std::map<std::string, ClassRef> classes_;  // others, by the encoded demand and placement
  std::size_t drop_at_ = kFewClasses;        // so many: those go that nothing is of
  std::uint64_t next_order_ = 1;
  // Their families: those that may run anywhere, and those of one rank or node.
  std::vector<FamilyRef> anywhere_;
  std::unordered_map<std::uint32_t, std::vector<FamilyRef>> at_rank_;
  std::unordered_map<std::uint32_t, std::vector<FamilyRef>> at_node_;
  // By whether the class is ordinary: such ones want to know when a plain task has ended, others don't.
  std::array<News, 2> news_;
  std::array<std::size_t, 2> parked_{};  // with something queued
  BitSet fresh_;                         // ranks that had something back, and have not looked for whom
  BitSet unfinished_;                    // those whose search goes on
  RankId unfinished_cursor_ = 0;
  std::int64_t looks_ = 0;  // that such searches have left
  Time looks_at_ = 0;       // when they got some
  // Those with something queued: the ones that are to be tried, in order, but plain tasks; and all.
  std::map<Turn, Class*> turns_;
  bool reservation_ended_ = false;          // since it was unset
  std::map<std::uint64_t, Class*> queued_;  // by their order; that of plain tasks always
  // Where the search for what has waited longest goes on: a class, and its level.
  std::uint64_t patience_class_ = 0;
  std::optional<Level> patience_level_;
  std::vector<std::uint64_t> estimates_;
  BitSet idle_;    // fewer tasks that can run than capacity
  BitSet hungry_;  // of those, the ones to which nothing was sent ahead
  BitSet low_;     // room for more ahead
  BitSet rich_;    // more tasks than capacity, and may be asked
  // For what ranks are kept free, a class or the first pool of a group, one at a time: so no two wait for each other's
  // ranks.
  const void* reserver_ = nullptr;
  int reserver_priority_ = 0;
  std::vector<RankId> reserved_;
  std::uint32_t members_in_way_ = 0;  // of gangs, on those: while there are any, other tasks have them too
  std::vector<RankId> fresh_reserved_;
  Time reserved_since_ = 0;
  Time reserved_anew_ = 0;
  std::uint64_t reserved_news_ = 0;  // times that a rank which is reserved had something back
  // When the gang was looked for last: of those, how many of the reserved ranks it could have, and one that it could
  // not.
  std::uint64_t reserved_seen_ = 0;
  std::size_t reserved_could_ = 0;
  RankId reserved_lacks_ = detail::kNoRank;
  Time reserved_looked_ = 0;
  std::optional<Time>
      reserved_checked_;  // whether they were reserved in vain; since then nothing has come to stay on one
  Time no_reserving_until_ = 0;
  std::map<PoolId, Pool> pools_;
  PoolId looked_for_ = 0;  // the group for which there was no room
  Time looked_at_ = 0;
  std::uint64_t looked_news_ = 0;  // that there were then
  std::set<PoolId> eager_;         // with something queued, and perhaps room for it
  PoolId next_pool_ = 1;
  Time now_ = 0;
  std::uint32_t turn_ = 0;
  // Idle ranks that ended a task a short while ago, the last one at the end: these still poll, and are asked first.
  static constexpr std::size_t kFreed = 64;
  std::vector<RankId> freed_;
  RankId filling_ = detail::kNoRank;  // who got the last plain task
  RankId cursor_ = 0;
  RankId rich_cursor_ = 0;
  std::size_t queued_tasks_ = 0;
  double slots_ = 0;
};

}  // namespace mobula::sched
