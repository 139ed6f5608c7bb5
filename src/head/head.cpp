#include "head/head.hpp"

#include <algorithm>
#include <cmath>
#include <limits>

#include "core/cluster.hpp"
#include "core/functions.hpp"
#include "core/mark.hpp"

namespace mobula::head {

using core::ErrorKind;
using core::ErrorRecord;
using core::Event;
using core::make_error;
using detail::kHeadRank;
using detail::kNoRank;
using detail::kVariable;

namespace {

constexpr Time kOnTheWay = 2'000'000'000;  // ns after which a result has come, or its rank is lost

}  // namespace

bool Head::Entry::held() const {
  if (inner > 0) return true;
  return std::any_of(ranks.begin(), ranks.end(), [](const auto& holder) { return holder.second > 0; });
}

ByteView Head::Work::args_of(std::uint32_t begin, std::uint32_t end) const {
  if (is_gang()) return args.view();
  if (ends.empty()) return args.view().subspan(std::size_t{begin - base} * fixed, std::size_t{end - begin} * fixed);
  const std::size_t from = begin == base ? 0 : ends[begin - base - 1];
  return args.view().subspan(from, ends[end - base - 1] - from);
}

Head::Head(transport::Transport& transport, store::ObjectTable& objects, Settings settings)
    : transport_(transport),
      objects_(objects),
      settings_(std::move(settings)),
      scheduler_(settings_.ranks, core::function_count()),
      ranks_(settings_.ranks),
      assigned_(settings_.ranks),
      recent_(settings_.ranks),
      deferred_(settings_.ranks),
      frees_(settings_.ranks),
      owned_pieces_(settings_.ranks) {}

Head::~Head() = default;

// ---- ranks -------------------------------------------------------------------------------------------------------

void Head::handle(RankId from, const core::Join& m) {
  RankState& rank = ranks_[from];
  if (rank.joined) return;
  core::check_demands({&m.offers, 1});
  if (m.digest != settings_.digest || m.version != settings_.version) {
    if (join_error_.empty()) {
      join_error_ = "rank " + std::to_string(from) + " on " + m.host + " runs another program than rank 0 (Mobula " +
                    m.version + " there, " + settings_.version +
                    " here; or another build of the program): start all ranks from one binary, and see that all nodes "
                    "read the same file";
    }
  }
  rank = {true, true, false, m.node, m.slots, m.host, ""};
  ++joined_;
  scheduler_.add_worker(from, m.node, m.offers, m.node_resources, m.features);
}

void Head::handle(RankId from, const core::Lending& m) {
  if (!std::isfinite(m.cpus) || m.cpus < -0.5) detail::throw_damaged("a rank lends a negative number of cpus");
  if (!std::isfinite(m.of_members) || m.of_members < -0.5 || m.of_members > m.cpus + 0.5)
    detail::throw_damaged("members of gangs lend more cpus than their rank does");
  scheduler_.set_lent(from, {std::max(0.0, m.cpus), std::max(0.0, m.of_members), m.beside});
}

void Head::handle(RankId from, const core::Waits& m) {
  ++messages_;
  if (m.overtime != 0) {
    const auto found = overtime_.find({from, m.overtime});
    if (found != overtime_.end()) scheduler_.set_waits(found->second, m.waits);
  } else if (Piece* piece = piece_with(m.id); piece != nullptr && piece->worker == from) {
    if (piece->gang != 0) {
      member_waits(*piece, m.waits);
    } else {
      scheduler_.set_waits(*piece, m.waits);
    }
  } else if (Actor* actor = find_actor(m.id); actor != nullptr && actor->holding.worker == from) {
    scheduler_.set_waits(actor->holding, m.waits);
  }
}

// ---- pieces ------------------------------------------------------------------------------------------------------

Head::Piece* Head::piece_with(ObjectId id) const {
  const auto span = spans_.find(id.span);
  if (span == spans_.end()) return nullptr;
  const auto after = span->second.pieces.upper_bound(id.index);
  if (after == span->second.pieces.begin()) return nullptr;
  Piece* piece = std::prev(after)->second.get();
  return id.index < piece->range.end ? piece : nullptr;
}

Head::Standing Head::standing(ObjectId id, RankId* worker) const {
  const Piece* piece = piece_with(id);
  if (piece == nullptr) return Standing::ended;
  if (worker != nullptr) *worker = piece->worker;
  // What a member of a broken gang gives is nobody's, though its rank may not be rid of it yet.
  if (const auto gang = gangs_.find(piece->gang); gang != gangs_.end() && gang->second.broken) return Standing::waiting;
  switch (piece->state) {
    case sched::State::ahead:
    case sched::State::assigned: return Standing::assigned;
    case sched::State::queued: return Standing::queued;
    default: return Standing::waiting;
  }
}

Head::Inputs Head::inputs_of(const Piece& piece) {
  Inputs inputs;
  for (const ObjectId& id : piece.work->deps()) {
    Input& input = inputs.emplace_back();
    input.id = id;
    input.stands = standing(id, &input.at);
    if (input.stands != Standing::assigned) input.at = kNoRank;
    input.entry = find_entry(id);
  }
  return inputs;
}

Head::Piece& Head::add_piece(const Range& range, std::shared_ptr<Work> work) {
  auto piece = std::make_unique<Piece>();
  piece->range = range;
  piece->function = work->function;
  piece->priority = work->options ? work->options->priority : 0;
  piece->nested = work->nested;
  piece->work = std::move(work);
  Piece& added = *piece;
  MOBULA_CHECK(spans_[range.span].pieces.emplace(range.begin, std::move(piece)).second, "a task was submitted twice");
  ++owned_pieces_[range.span.owner()];
  return added;
}

// A part of another piece as one of its own, like that one but for its state, and in no list yet.
Head::Piece& Head::add_part(const Piece& of, const Range& range) {
  Piece& part = add_piece(range, of.work);
  static_cast<sched::Holding&>(part) = of;
  part.bytes = of.bytes;
  part.preferred = of.preferred;
  part.attempt = of.attempt;
  part.crashes = of.crashes;
  part.again = of.again;
  part.estimate_ns = of.estimate_ns;
  part.queued_at = of.queued_at;
  return part;
}

Head::Piece& Head::split(Piece& piece, std::uint32_t at) {
  Piece& rest = add_part(piece, {piece.range.span, at, piece.range.end});
  const std::uint32_t n = piece.range.end - at;
  if (piece.state == sched::State::queued) {
    scheduler_.resized(piece, -static_cast<std::int64_t>(n));
    piece.range.end = at;
    scheduler_.enqueue_behind(rest, piece);
  } else {
    piece.range.end = at;
    rest.become(piece.state);
    if (piece.is_at_rank()) list_assigned(rest);
    rest.missing = piece.missing;
    rest.unplaced = piece.unplaced;
    if (piece.failing != nullptr) fail_later(rest, piece.failing);
    if (piece.missing == 0) return rest;
    for (const ObjectId& dep : piece.work->deps()) {
      Entry* entry = find_entry(dep);
      if (entry == nullptr || !entry->dependents.contains(&piece) || entry->dependents.contains(&rest)) continue;
      entry->dependents.push_back(&rest);
    }
  }
  return rest;
}

void Head::unhook(Piece& piece) {
  undefer(piece);
  if (piece.state == sched::State::queued) scheduler_.dequeue(piece);
  if (piece.missing != 0) {
    for (const ObjectId& dep : piece.work->deps()) {
      if (Entry* entry = find_entry(dep)) entry->dependents.erase(&piece);
    }
    piece.missing = 0;
  }
}

// The piece does not wait for room at a rank any more.
void Head::undefer(Piece& piece) {
  if (piece.deferred_to == kNoRank) return;
  deferred_[piece.deferred_to].erase(piece);
  piece.deferred_to = kNoRank;
}

void Head::list_assigned(Piece& piece) {
  auto& list = assigned_[piece.worker];
  piece.assigned_at = static_cast<std::uint32_t>(list.size());
  list.push_back(&piece);
}

void Head::unlist_assigned(Piece& piece) {
  auto& list = assigned_[piece.worker];
  list.back()->assigned_at = piece.assigned_at;
  list[piece.assigned_at] = list.back();
  list.pop_back();
}

// The worker is rid of the piece, which waits to be set up anew, or is to end.
void Head::unassign(Piece& piece) {
  if (piece.promised) {
    piece.become(sched::State::waiting);
  } else {
    scheduler_.ended(piece);
  }
  take_from_rank(piece);
}

// REQUIRES: the scheduler knows that the piece is at no rank.
void Head::take_from_rank(Piece& piece) {
  unlist_assigned(piece);
  unhook(piece);
  piece.worker = kNoRank;
}

// The task is over, and its rank goes on with what it holds.
void Head::goes_on(Piece& piece, std::uint32_t overtime) {
  MOBULA_MARK("head: a task that is over goes on");
  if (piece.size() != 1 || piece.promised || piece.gang != 0 || overtime_.contains({piece.worker, overtime}))
    detail::throw_damaged("what goes on is no task that runs");
  // Its inputs have come there before the word of them came here.
  if (piece.state == sched::State::ahead) scheduler_.inputs_came(piece);
  overtime_.emplace(std::pair(piece.worker, overtime), piece);
  scheduler_.stays(piece);
  piece.become(sched::State::waiting);
  take_from_rank(piece);
}

void Head::handle(RankId from, const core::OvertimeEnded& m) {
  ++messages_;
  const auto found = overtime_.find({from, m.overtime});
  if (found == overtime_.end()) detail::throw_damaged("what has ended did not go on");
  scheduler_.left(found->second);
  overtime_.erase(found);
  settle();
}

// After the scheduler knows that the rank is lost.
void Head::overtime_lost(RankId lost) {
  const auto from = overtime_.lower_bound({lost, 0});
  auto to = from;
  for (; to != overtime_.end() && to->first.first == lost; ++to)
    scheduler_.left(to->second);  // what it had of its node
  overtime_.erase(from, to);
}

// REQUIRES: the piece is in no list but its span's.
void Head::erase_piece(Piece& piece) {
  const SpanId id = piece.range.span;
  const auto span = spans_.find(id);
  --owned_pieces_[id.owner()];
  span->second.pieces.erase(piece.range.begin);
  if (span->second.pieces.empty() && span->second.owner_gone && span->second.entries.empty()) spans_.erase(span);
}

void Head::handle(RankId from, const core::Submit& m) {
  ++messages_;
  const auto [function, fixed] = core::check_tasks(m.body, m.range, m.deps.size(), core::kind_of(m.body));
  if (m.range.span.owner() != from) detail::throw_damaged("a rank submits tasks of another");
  check_ids(m.deps);
  check_ids(m.refs);
  const std::uint32_t n = m.range.end - m.range.begin;
  const ObjectId first{m.range.span, m.range.begin};
  const core::WireOptions* options = m.body.has_options ? &m.body.options : nullptr;
  if (options != nullptr && options->gang != 0 && options->gang != n)
    detail::throw_damaged("a gang has not as many members as tasks");
  if (options != nullptr && options->is_actor) {
    if (n != 1) detail::throw_damaged("an actor is made by one task");
    const Actor* actor = find_actor(first);
    // One that has a name may have been found by it, and killed, before this came.
    const bool is_new =
        actor == nullptr || actor->state == Actor::State::reserved || actor->state == Actor::State::ended;
    if (!is_new) detail::throw_damaged("an actor is made twice");
  }
  Piece* promise = nullptr;
  if (any_unfinished(m.range)) {
    promise = piece_with(first);
    if (promise == nullptr || !promise->promised) detail::throw_damaged("a rank submits a task twice");
    if (n != 1) detail::throw_damaged("a rank submits what it promised with other tasks");
  }
  auto work = std::make_shared<Work>();
  work->function = m.body.function;
  if (m.body.has_options) work->options = std::make_shared<core::WireOptions>(m.body.options);
  work->args = Buffer(m.body.args);
  work->base = m.range.begin;
  work->varies = !fixed;
  const bool listed = work->varies && (n > 1 || work->is_gang());
  if (listed) work->ends.assign(m.body.ends.begin(), m.body.ends.end());
  work->fixed = fixed ? function.fixed_args : listed ? 0 : static_cast<std::uint32_t>(work->args.size());
  work->dep_mask = m.body.dep_mask;
  work->n_deps = static_cast<std::uint32_t>(m.deps.size());
  work->holds.reserve(m.deps.size() + m.refs.size());
  work->holds.insert(work->holds.end(), m.deps.begin(), m.deps.end());
  work->holds.insert(work->holds.end(), m.refs.begin(), m.refs.end());
  work->nested = m.nested;
  work->unfinished = n;
  if (promise != nullptr) {
    unassign(*promise);
    --unfinished_;
    erase_piece(*promise);
  }
  for (const ObjectId& id : work->holds) hold(id);
  unfinished_ += n;
  queued_bytes_ += work->args.size();
  core::trace(Event::submitted, now_, m.range.span, m.range.begin, m.range.end, from);

  Piece& piece = add_piece(m.range, std::move(work));
  Work& of = *piece.work;
  if (of.options && of.options->is_actor) actor_submitted(piece);
  scheduler_.classify(piece, of.options.get(), piece.nested);
  piece.bytes = static_cast<std::uint32_t>(of.args.size() / n);
  if (of.options && of.options->placement == Placement::Kind::near) {
    RankId worker = kNoRank;
    if (standing(of.options->near, &worker) != Standing::assigned)
      worker = location(of.options->near, find_entry(of.options->near));
    piece.preferred = worker;
  }
  if (of.options && of.options->is_actor && fail_if_killed(piece)) {
    MOBULA_MARK("head: an actor was killed before it was submitted");
    settle();
    return;
  }
  if (m.kept) {
    kept_at(piece, from);
    settle();
    return;
  }
  if (of.options && of.options->placement == Placement::Kind::bundle && !give_pool(piece)) {
    settle();
    return;
  }
  if (auto why = piece.pool == 0 && !scheduler_.can_run(piece) ? scheduler_.why_infeasible(piece) : std::nullopt;
      why || (why = short_of_time(of.options.get()))) {
    fail(piece, make_error(ErrorKind::infeasible, *why, task_name(of), {m.range.span, m.range.begin}, kNoRank, 0));
  } else {
    set_up(piece);
  }
  settle();
}

std::optional<std::string> Head::short_of_time(const core::WireOptions* options) const {
  if (options == nullptr || options->time_request_ns < 0 || time_left_s_ < 0) return std::nullopt;
  const double asked = static_cast<double>(options->time_request_ns) / 1e9;
  if (asked <= time_left_s_) return std::nullopt;
  return "the task asks for " + std::to_string(asked) + " s, and the allocation has only " +
         std::to_string(time_left_s_) + " s left";
}

// The piece waits for the object. REQUIRES: it is not among the object's dependents.
void Head::hook(Piece& piece, ObjectId dep, Standing stands) {
  entry(dep).dependents.push_back(&piece);
  ++piece.missing;
  if (stands != Standing::assigned) ++piece.unplaced;
}

// The rank has the piece, which its own task has submitted: queued, or waiting there for inputs.
void Head::kept_at(Piece& piece, RankId rank) {
  for (const ObjectId& dep : piece.work->deps()) {
    const Standing stands = standing(dep);
    const Entry& of = entry(dep);
    const bool is_there = stands == Standing::ended && (!of.gone || of.error != nullptr);
    if (!is_there && !of.dependents.contains(&piece)) hook(piece, dep, stands);
  }
  if (piece.missing != 0) {
    scheduler_.sent_ahead(piece, rank);
  } else {
    scheduler_.assigned(piece, rank, 0);
  }
  list_assigned(piece);
  placed(piece);
}

// Looks at the dependencies anew, and queues the piece or has it wait. What fails fails at the end of the step.
// REQUIRES: the piece is waiting, and in no list of dependents.
void Head::set_up(Piece& piece) {
  piece.missing = 0;
  piece.unplaced = 0;
  const std::span<const ObjectId> deps = piece.work->deps();
  std::vector<std::pair<RankId, std::uint64_t>> bytes;  // of large inputs, by where they are
  for (std::size_t i = 0; i < deps.size(); ++i) {
    const ObjectId& dep = deps[i];
    if (std::find(deps.begin(), deps.begin() + static_cast<std::ptrdiff_t>(i), dep) !=
        deps.begin() + static_cast<std::ptrdiff_t>(i))
      continue;
    Entry& of = entry(dep);
    if (of.gone) make_again(dep);
    const Standing stands = standing(dep);
    if (stands == Standing::ended && (!of.gone || of.error != nullptr)) {
      if (of.error != nullptr) {
        unhook(piece);  // nobody places it any more
        fail_later(piece, of.error);
        return;
      }
      if (of.size > settings_.inline_limit) {
        bytes.emplace_back(location(dep, &of), of.size);
        add_copies(of, bytes);
      }
      continue;
    }
    hook(piece, dep, stands);
  }
  if (!bytes.empty()) piece.preferred = where_most(bytes);
  consider(piece);
}

// Adds a few ranks that have copies of a large input. Where there are many, each task looks at others, so that they
// spread over all.
void Head::add_copies(const Entry& of, std::vector<std::pair<RankId, std::uint64_t>>& bytes) {
  constexpr std::size_t kLook = 8;
  if (of.copies == nullptr) return;
  const std::size_t few = std::min(kLook, of.copies->size());
  for (std::size_t i = 0; i < few; ++i) {
    const Copy* copy = of.copies->next(next_copy_);
    if (copy->here) bytes.emplace_back(copy->rank, of.size);
    next_copy_ = copy->rank + 1;
  }
}

// A task goes to the node that has most of its bytes, and there to the rank that has most of them, if it may.
RankId Head::where_most(std::span<const std::pair<RankId, std::uint64_t>> bytes) const {
  RankId best = kNoRank;
  std::pair<std::uint64_t, std::uint64_t> most;  // of the node, of the rank
  std::unordered_map<RankId, std::uint64_t> at_rank;
  std::unordered_map<std::uint32_t, std::uint64_t> at_node;
  for (const auto& [rank, part] : bytes) {
    at_rank[rank] += part;
    at_node[ranks_[rank].node] += part;
  }
  for (const auto& [rank, part] : bytes) {
    const std::pair sum(at_node[ranks_[rank].node], at_rank[rank]);
    if (sum > most) {
      most = sum;
      best = rank;
    }
  }
  return best;
}

void Head::consider(Piece& piece) {
  if (is_drained(piece)) {
    fail_later(piece, not_begun(piece));
    return;
  }
  if (piece.missing == 0 && piece.pool != 0) {
    const auto group = groups_.find(piece.work->options->near);
    if (group != groups_.end() && group->second.error != nullptr) {
      fail_later(piece, group->second.error);
      return;
    }
  }
  if (piece.missing == 0 && piece.pool == 0 && !can_run(piece)) {
    fail_later(piece, too_few_ranks(piece));
    return;
  }
  if (piece.missing == 0) {
    core::trace(Event::queued, now_, piece.range.span, piece.range.begin, piece.range.end, 0);
    scheduler_.enqueue(piece, std::exchange(piece.goes_first, false));
  } else if (piece.unplaced == 0) {
    to_place_ahead_.push_back({piece.range.span, piece.range.begin});
  }
}

void Head::drain(const std::string& why) {
  draining_ = why;
  MOBULA_MARK("head: the job is told to end");
  std::vector<Piece*> pieces;
  for (auto& [id, span] : spans_) {
    for (auto& [begin, piece] : span.pieces) {
      // What is left of a broken gang fails when the last member has said how it stands.
      const bool waits = !piece->is_at_rank() && piece->gang == 0;
      if (is_drained(*piece) && !piece->promised && waits) pieces.push_back(piece.get());
    }
  }
  std::sort(pieces.begin(), pieces.end(), [](const Piece* a, const Piece* b) {
    return std::pair(a->range.span, a->range.begin) < std::pair(b->range.span, b->range.begin);
  });
  for (Piece* piece : pieces) fail(*piece, not_begun(*piece));
  settle();
  for (RankId rank = 0; rank < ranks_.size(); ++rank) {
    if (!ranks_[rank].alive || ranks_[rank].slots == 0) continue;
    take_all_back(rank);
    unsaved_.insert(rank);
    transport_.send(rank, core::Drain{false});
  }
}

void Head::save_durable() {
  for (const auto& [id, actor] : actors_) {
    const RankId rank = actor.holding.worker;
    if (actor.traits.durable && rank != kNoRank && ranks_[rank].alive) unsaved_.insert(rank);
  }
  for (const RankId rank : unsaved_) transport_.send(rank, core::Drain{false});
}

bool Head::drained() const {
  const auto none = [](const std::vector<Piece*>& pieces) {
    return std::all_of(pieces.begin(), pieces.end(), [](const Piece* piece) { return piece->promised; });
  };
  return saved() && std::all_of(assigned_.begin(), assigned_.end(), none);
}

ErrorPtr Head::not_begun(const Piece& piece) const {
  return make_error(ErrorKind::cancelled, draining_ + ", and the task had not begun", task_name(*piece.work),
                    {piece.range.span, piece.range.begin}, kNoRank, static_cast<int>(piece.attempt) - 1);
}

// Whether there is a rank that can ever run it, after ranks were lost perhaps in another way. It is not queued.
bool Head::can_run(Piece& piece) {
  if (scheduler_.can_run(piece)) return true;
  scheduler_.classify(piece, piece.work->options.get(), piece.nested);
  return scheduler_.can_run(piece);
}

// After ranks were lost.
void Head::fail_hopeless() {
  for (sched::Piece* const queued : scheduler_.hopeless()) {
    auto& piece = static_cast<Piece&>(*queued);
    scheduler_.dequeue(piece);
    consider(piece);
  }
}

// Ranks were lost since it was submitted.
ErrorPtr Head::too_few_ranks(const Piece& piece) const {
  return make_error(ErrorKind::infeasible, "ranks were lost: " + scheduler_.why_infeasible(piece).value_or(""),
                    task_name(*piece.work), {piece.range.span, piece.range.begin}, kNoRank,
                    static_cast<int>(piece.attempt) - 1);
}

// All inputs that are missing have a rank that makes them: the piece goes to the rank with most of the inputs at once,
// and the ranks pass the values on among themselves.
void Head::place_ahead(Piece& piece) {
  if (piece.klass != nullptr) return;
  struct Place {
    RankId rank = kNoRank;
    std::uint32_t has = 0;        // of the inputs
    Entry* unfollowed = nullptr;  // one that is made there, and that no task has followed
    double load = 0;
  };
  core::Small<Place, 4> places;
  const Inputs inputs = inputs_of(piece);
  for (const Input& input : inputs) {
    const bool is_made = input.stands == Standing::assigned;
    const RankId at = is_made ? input.at : location(input.id, input.entry);
    if (at == kNoRank || !scheduler_.has_worker(at) || ranks_[at].slots == 0) continue;
    auto place = std::find_if(places.begin(), places.end(), [at](const Place& p) { return p.rank == at; });
    if (place == places.end()) {
      places.push_back({at, 0, nullptr, static_cast<double>(scheduler_.outstanding(at)) / ranks_[at].slots});
      place = places.end() - 1;
    }
    ++place->has;
    if (is_made && input.entry != nullptr && !input.entry->followed && place->unfollowed == nullptr)
      place->unfollowed = input.entry;
  }
  if (places.empty()) return;
  // One task follows each input, so that a chain stays where it is, and each step of a graph has as much to do on a
  // rank as the one before.
  auto best = std::max_element(places.begin(), places.end(), [](const Place& a, const Place& b) {
    return std::pair(a.unfollowed != nullptr, a.has) < std::pair(b.unfollowed != nullptr, b.has);
  });
  // Where there was more to do it would stay so, were it not for this: a rank that has some of the inputs and clearly
  // less to do takes the task. Tasks between two parts of a graph move the border so.
  const auto idlest =
      std::min_element(places.begin(), places.end(), [](const Place& a, const Place& b) { return a.load < b.load; });
  if (best->load > idlest->load + 1) MOBULA_MARK("head: a task is sent ahead to a rank with less to do");
  if (best->load > idlest->load + 1) best = idlest;
  // Others have nothing to do, and that rank enough: once the inputs are there, whoever is free takes the task.
  if (best->unfollowed == nullptr && scheduler_.hungry() && best->load > 1) return;
  if (best->unfollowed != nullptr) best->unfollowed->followed = true;
  const RankId worker = best->rank;
  if (!scheduler_.has_room_ahead(worker)) {
    MOBULA_MARK("head: a rank has no room for tasks that wait");
    piece.deferred_to = worker;
    deferred_[worker].push_back(piece);
    return;
  }
  if (set_back(piece, inputs)) return;
  assign(piece, worker, 0, inputs);
}

// Before it is given out: an input that was there, or was coming, may be lost or back in the queue since. On a rank the
// piece would wait for it, and may take the place of what makes it; so it waits here. True if it does.
bool Head::set_back(Piece& piece, const Inputs& inputs) {
  const bool has_all = std::all_of(inputs.begin(), inputs.end(), [](const Input& input) {
    if (input.stands != Standing::ended) return input.stands == Standing::assigned;
    return input.entry == nullptr || !input.entry->gone || input.entry->error != nullptr;
  });
  if (has_all) return false;
  MOBULA_MARK("head: an input of what was placed is to be made again first");
  unhook(piece);
  set_up(piece);
  return true;
}

void Head::assign(Piece& piece, RankId worker, std::uint32_t demand, const Inputs& inputs, core::GangPart part,
                  std::vector<RankId> lenders) {
  const Work& work = *piece.work;
  core::Assign message;
  message.range = piece.range;
  message.attempt = piece.attempt;
  message.estimate_ns = scheduler_.estimate_ns(piece.function);
  message.body.function = work.function;
  message.body.dep_mask = work.dep_mask;
  message.body.args = work.args_of(piece.range.begin, piece.range.end);
  message.gang = std::move(part);
  if (work.is_gang()) {
    message.body.ends.assign(work.ends.begin(), work.ends.end());
  } else if (work.varies && work.ends.empty()) {
    message.body.ends.push_back(work.fixed);
  } else if (work.varies) {
    const std::uint32_t from = piece.range.begin == work.base ? 0 : work.ends[piece.range.begin - work.base - 1];
    message.body.ends.reserve(piece.size());
    for (std::uint32_t i = piece.range.begin; i < piece.range.end; ++i)
      message.body.ends.push_back(work.ends[i - work.base] - from);
  }
  message.body.has_options = work.options != nullptr;
  if (work.options) {
    auto& demands = (message.body.options = *work.options).demands;
    if (demands.size() > 1) demands = {core::WireDemand(demands[demand])};
  }
  message.lenders = lenders;
  if (work.options && work.options->is_actor) {
    if (const Actor* actor = find_actor({piece.range.span, piece.range.begin}))
      message.checkpoint = actor->checkpoint.view();
  }
  core::Small<store::ValuePtr, 4> keep;
  for (const Input& input : inputs) {
    const ObjectId dep = input.id;
    core::DepSource source{dep, core::Where::maker, kNoRank, {}};
    RankId at = input.at;
    if (input.stands == Standing::ended) {
      at = source_for(dep, worker);
      source.where = core::Where::rank;
      source.turn = ++turn_;
      if (at == kHeadRank && worker != kHeadRank) {
        if (const auto* record = objects_.find(dep); record != nullptr && record->ready(dep.index)) {
          if (auto value = objects_.value_of(*record, dep.index);
              value != nullptr && value->size() <= settings_.inline_limit) {
            source.where = core::Where::inlined;
            source.value = value->view();
            keep.push_back(std::move(value));
          }
        }
      }
    }
    if (at != kNoRank && ranks_[at].alive) {
      source.rank = at;
    } else if (source.where != core::Where::inlined) {
      source.where = core::Where::unknown;
    }
    message.deps.push_back(source);
  }
  if (piece.missing != 0) {
    scheduler_.sent_ahead(piece, worker);
  } else {
    scheduler_.assigned(piece, worker, demand, std::move(lenders));
  }
  list_assigned(piece);
  core::trace(Event::assigned, now_, piece.range.span, piece.range.begin, piece.range.end, worker);
  transport_.send(worker, message);
  placed(piece);
}

// Tells those who wait for objects of the piece that a rank will make them.
void Head::placed(const Piece& piece) {
  const RankId worker = piece.worker;
  const SpanId span = piece.range.span;
  for (const std::uint32_t index : watched(piece.range)) {
    Entry* of = find_entry({span, index});
    if (find_actor({span, index}) != nullptr) continue;  // who locates an actor waits until it is made
    for (const RankId locator : of->locators) transport_.send(locator, core::Located{{span, index}, worker, {}});
    of->locators.clear();
    for (Piece* dependent : of->dependents) {
      if (dependent->state != sched::State::waiting || dependent->unplaced == 0 || --dependent->unplaced != 0) continue;
      to_place_ahead_.push_back({dependent->range.span, dependent->range.begin});
    }
  }
}

// Does what has followed from the messages or decisions of this step, until nothing follows any more: fails what
// depends on what failed, sends ahead what waits only for inputs that ranks are making, and frees what nobody holds.
// One thing at a time and by id, since each may take pieces away, and find more to do. To be called at the end of
// whatever may have found some; nobody may keep a Piece or an Entry across it.
void Head::settle() {
  while (true) {
    if (!failing_.empty()) {
      const ObjectId id = failing_.back();
      failing_.pop_back();
      Piece* piece = piece_with(id);
      if (piece == nullptr || piece->range.begin != id.index || piece->failing == nullptr) continue;
      const ErrorPtr error = std::exchange(piece->failing, nullptr);
      if (!piece->is_at_rank()) fail(*piece, error);  // of others their rank finds out
    } else if (!to_place_ahead_.empty()) {
      const ObjectId id = to_place_ahead_.back();
      to_place_ahead_.pop_back();
      Piece* piece = piece_with(id);
      const bool waits = piece != nullptr && piece->state == sched::State::waiting && piece->missing != 0;
      if (waits && piece->unplaced == 0 && piece->gang == 0 && piece->deferred_to == kNoRank) place_ahead(*piece);
    } else if (!to_free_.empty()) {
      free_queued();
    } else {
      return;
    }
  }
}

void Head::fail_later(Piece& piece, const ErrorPtr& error) {
  if (piece.failing != nullptr) return;
  piece.failing = error;
  failing_.push_back({piece.range.span, piece.range.begin});
}

void Head::step(Time now) {
  now_ = now;
  check_nodes();
  forget_recent();
  if (!late_.empty()) make_late_again();
  if (!waiting_groups_.empty()) place_groups();
  if (!leaving_.empty()) let_leave();
  // What follows from a decision may be that something else can run.
  std::size_t queued = 0;
  do {
    while (const auto decision = scheduler_.place(now)) carry_out(*decision);
    queued = scheduler_.queued_tasks();
    settle();
  } while (scheduler_.queued_tasks() > queued);
  if (!waits_.empty()) find_deadlocks();
  // A wide task that ranks were kept free for has had its turn. Taken back while its inputs come, it and the gang that
  // the ranks are kept free for now would take turns for ever.
  for (const RankId rank : scheduler_.take_reserved()) take_all_back(rank, true);
  if (scheduler_.may_rebalance()) {
    while (const auto take = scheduler_.rebalance(now))
      transport_.send(take->worker, core::TakeBack{take->tasks, false});
  }
  for (const RankId rank : to_tell_) {
    core::Ids& ids = frees_[rank].ids;
    if (ranks_[rank].alive) transport_.send(rank, frees_[rank]);
    constexpr std::size_t kMostKept = 64;  // for each of thousands of ranks
    if (ids.capacity() <= kMostKept) {
      ids.clear();
    } else {
      core::Ids().swap(ids);
    }
  }
  to_tell_.clear();
}

void Head::carry_out(const sched::Scheduler::Decision& decision) {
  auto& piece = static_cast<Piece&>(*decision.piece);
  const Inputs inputs = inputs_of(piece);
  if (set_back(piece, inputs)) return;
  if (!decision.members.empty()) {
    scheduler_.dequeue(piece);
    start_gang(piece, decision.members);
  } else if (decision.tasks < piece.size()) {
    // The front goes; the rest stays at the head of its queue.
    Piece& front = add_front(piece, decision.tasks);
    assign(front, decision.worker, decision.demand, inputs, {}, decision.lenders);
  } else {
    scheduler_.dequeue(piece);
    assign(piece, decision.worker, decision.demand, inputs, {}, decision.lenders);
  }
}

void Head::forget_recent() {
  if (now_ - recent_checked_ < kOnTheWay / 2) return;
  recent_checked_ = now_;
  const auto is_old = [this](const Recent& recent) { return now_ - recent.when > kOnTheWay; };
  while (!recent_order_.empty()) {
    const Recents& of = recent_[recent_order_.front()];
    if (of.n_forgotten < of.all.size() && !is_old(of.all[of.n_forgotten])) break;
    forget_oldest_recent();
  }
  for (Recents& of : recent_) {
    for (; of.n_forgotten != 0 && is_old(of.all.front()); --of.n_forgotten) of.all.pop_front();
  }
}

void Head::remember(RankId from, Recent recent) {
  recent_bytes_ += recent.bytes;
  recent_[from].all.push_back(std::move(recent));
  recent_order_.push_back(from);
  while (recent_bytes_ > settings_.recent_limit) forget_oldest_recent();
}

void Head::forget_oldest_recent() {
  Recents& of = recent_[recent_order_.front()];
  recent_order_.pop_front();
  if (of.n_forgotten == of.all.size()) return;  // of a rank that is lost
  Recent& oldest = of.all[of.n_forgotten++];
  recent_bytes_ -= oldest.bytes;
  oldest.work.reset();
}

// Splits n tasks off the front of a queued piece.
Head::Piece& Head::add_front(Piece& piece, std::uint32_t n) {
  const Range whole = piece.range;
  auto& pieces = spans_.find(whole.span)->second.pieces;
  auto node = pieces.extract(whole.begin);
  scheduler_.resized(piece, -static_cast<std::int64_t>(n));
  piece.range.begin = whole.begin + n;
  node.key() = piece.range.begin;
  pieces.insert(std::move(node));
  return add_part(piece, {whole.span, whole.begin, whole.begin + n});
}

// Calls visit(piece) with pieces that the worker was assigned and that together make up the range, cut to fit. Parts
// that it was not assigned are passed over: they are from before it was declared lost, or damaged.
template <class F>
void Head::for_each_part(const Range& range, RankId worker, F&& visit) {
  std::uint32_t at = range.begin;
  while (at < range.end) {
    Piece* piece = piece_with({range.span, at});
    if (piece == nullptr) {
      const auto span = spans_.find(range.span);
      if (span == spans_.end()) return;
      const auto next = span->second.pieces.lower_bound(at);
      if (next == span->second.pieces.end()) return;
      at = next->first;
      continue;
    }
    const std::uint32_t end = std::min(piece->range.end, range.end);
    if (piece->is_at_rank() && piece->worker == worker) {
      if (piece->range.begin < at) piece = &split(*piece, at);
      if (piece->range.end > end) split(*piece, end);
      visit(*piece);
    }
    at = end;
  }
}

void Head::handle(RankId from, const core::Done& m) {
  ++messages_;
  if (m.range.end <= m.range.begin) detail::throw_damaged("no task is done");
  for (const core::Hold& held : m.refs) check_ids({&held.object, 1});
  std::unordered_map<std::uint32_t, const ErrorRecord*> errors;
  for (const auto& e : m.errors) errors.emplace(e.index, &e.error);
  std::shared_ptr<Work> work;
  std::size_t bytes = 0;
  const RankId owner = m.range.span.owner();
  for_each_part(m.range, from, [&](Piece& piece) {
    const Range range = piece.range;
    const auto& options = piece.work->options;
    const bool may_retry = options && options->retry_exceptions && static_cast<int>(piece.attempt) <= options->retries;
    const bool runs_again = !errors.empty() && may_retry && m.overtime == 0;
    if (runs_again && piece.size() != 1) detail::throw_damaged("tasks that retry exceptions end one by one");
    if (piece.gang != 0 && gangs_.contains(piece.gang))
      detail::throw_damaged("a member is done before its gang is over");
    if (options && options->is_actor && errors.empty()) {
      actor_made(piece);
    } else if (m.overtime != 0) {
      goes_on(piece, m.overtime);
    } else {
      unassign(piece);
    }
    if (runs_again) {
      // The worker leaves the decision to us; an error that came with an input is not the task's own.
      const ErrorRecord& error = *errors.begin()->second;
      if (error.failure.id == core::to_string({range.span, range.begin})) {
        MOBULA_MARK("head: a task that threw runs again");
        ++piece.attempt;
        ++retried_;
        set_up(piece);
      } else {
        MOBULA_MARK("head: an error of an input is not tried again");
        fail(piece, std::make_shared<ErrorRecord>(error));
      }
      return;
    }
    if (options && options->is_actor && !errors.empty()) {
      actor_failed({range.span, range.begin}, std::make_shared<ErrorRecord>(*errors.begin()->second));
    }
    work = piece.work;
    bytes += std::size_t{piece.bytes} * piece.size();
    for (const auto& stored : m.stored) {
      if (stored.index < range.begin || stored.index >= range.end) continue;
      Entry& of = entry({range.span, stored.index});
      // It was made again with others of its gang: readers may be looking at the first one.
      if (of.stored && !of.gone && of.at != from) {
        MOBULA_MARK("head: a value is made again that is there");
        if (of.copy_at(from) == nullptr) free_at(from, {range.span, stored.index});
        continue;
      }
      of.stored = true;
      of.gone = false;
      of.at = from;
      of.size = stored.size;
      keep_maker(of, work);
      to_free_.push_back({range.span, stored.index});
    }
    if (!ranks_[owner].alive && errors.empty()) {  // small results have gone nowhere
      for (const std::uint32_t index : watched(range)) keep_maker(*find_entry({range.span, index}), work);
    }
    // Before the piece goes, and with it perhaps the span, which knows whether its owner has let go of it.
    for (const auto& held : m.refs) {
      if (held.index < range.begin || held.index >= range.end) continue;
      hold(held.object);
      entry({range.span, held.index}).contains.push_back(held.object);
      to_free_.push_back({range.span, held.index});
    }
    finish_tasks(piece, piece.size());
    erase_piece(piece);
    const bool orphan = !ranks_[owner].alive || spans_.find(range.span) == spans_.end();
    if (orphan) {
      for (std::uint32_t i = range.begin; i < range.end; ++i) to_free_.push_back({range.span, i});
    }
    if (errors.empty()) {
      elements_ended(range, nullptr);
    } else {
      for (std::uint32_t i = range.begin; i < range.end; ++i) {
        const auto error = errors.find(i);
        elements_ended({range.span, i, i + 1},
                       error != errors.end() ? std::make_shared<ErrorRecord>(*error->second) : nullptr);
      }
    }
  });
  // On the way to this rank a result comes before its Done; on the way to others either may be first.
  if (work != nullptr && owner != from && owner != kHeadRank) {
    bytes += sizeof(Work) + work->holds.size() * sizeof(ObjectId) + work->ends.size() * sizeof(std::uint32_t);
    remember(from, {m.range, now_, bytes, work});
  }
  if (work != nullptr && m.elapsed_ns != 0) {
    scheduler_.measured(last_function_, m.elapsed_ns, m.range.end - m.range.begin);
  }
  sched::Queue& deferred = deferred_[from];
  for (std::size_t room = scheduler_.room_ahead(from); room != 0 && !deferred.empty(); --room) {
    auto& piece = static_cast<Piece&>(*deferred.front());
    MOBULA_MARK("head: a rank has room again for tasks that wait");
    undefer(piece);
    to_place_ahead_.push_back({piece.range.span, piece.range.begin});
  }
  settle();
}

// Tasks of an assigned piece, or of one that fails, will not run again.
void Head::finish_tasks(Piece& piece, std::uint32_t n) {
  Work& work = *piece.work;
  last_function_ = work.function;
  work.unfinished -= n;
  unfinished_ -= n;
  ended_ += n;
  // An actor that may have to be made again keeps what it was made of.
  const Actor* actor =
      work.options && work.options->is_actor ? find_actor({piece.range.span, piece.range.begin}) : nullptr;
  if (work.unfinished == 0 && (actor == nullptr || actor->work == nullptr)) release_work(work);
}

// Elements of the range that have an Entry.
Head::Indices Head::watched(const Range& range) const {
  Indices indices;
  const auto span = spans_.find(range.span);
  if (span == spans_.end()) return indices;
  const auto& entries = span->second.entries;
  for (auto it = entries.lower_bound(range.begin); it != entries.end() && *it < range.end; ++it) {
    indices.push_back(*it);
  }
  return indices;
}

// The elements have their final state: wakes those who wait for them.
void Head::elements_ended(const Range& range, const ErrorPtr& error) {
  for (const std::uint32_t index : watched(range)) {
    const ObjectId id{range.span, index};
    Entry* of = find_entry(id);
    if (of == nullptr) continue;
    of->error = error;
    if (error == nullptr && went_nowhere(id, *of)) {
      result_lost(id, *of);
      continue;
    }
    if (error == nullptr && std::exchange(of->gone, false)) settle_again(id, *of);
    const auto dependents = std::exchange(of->dependents, {});
    for (const RankId locator : std::exchange(of->locators, {})) {
      if (error != nullptr) {
        transport_.send(locator, core::Located{id, kNoRank, *error});
      } else {
        transport_.send(locator, core::Located{id, source_for(id, locator), {}, ++turn_});
      }
    }
    for (Piece* dependent : dependents) {
      if (error != nullptr) {
        fail_later(*dependent, error);
      } else if (--dependent->missing == 0 && dependent->state == sched::State::ahead) {
        scheduler_.inputs_came(*dependent);
      } else if (dependent->missing == 0 && dependent->state == sched::State::waiting) {
        undefer(*dependent);
        set_up(*dependent);
      } else if (dependent->unplaced != 0 && dependent->state == sched::State::waiting) {
        MOBULA_MARK("head: an input has ended that had no place");
        // It ended without the head having placed it, or its place was not told: count it as placed.
        std::uint32_t unplaced = 0;
        for (const ObjectId& dep : dependent->work->deps()) {
          const Standing stands = standing(dep);
          if (stands != Standing::ended && stands != Standing::assigned) ++unplaced;
        }
        dependent->unplaced = unplaced;
        if (unplaced == 0) to_place_ahead_.push_back({dependent->range.span, dependent->range.begin});
      }
    }
    maybe_free(id);
  }
}

// The piece ends with the error. Erases it, and no other: what depends on it fails at the end of the step.
// REQUIRES: no rank has it.
void Head::fail(Piece& piece, const ErrorPtr& error) {
  unhook(piece);
  const Range range = piece.range;
  core::trace(Event::failed, now_, range.span, range.begin, range.end, 0);
  if (piece.work->options && piece.work->options->is_actor) actor_failed({range.span, range.begin}, error);
  finish_tasks(piece, piece.size());
  erase_piece(piece);
  send_error(range, error);
  elements_ended(range, error);
  if (!ranks_[range.span.owner()].alive) {
    for (std::uint32_t i = range.begin; i < range.end; ++i) to_free_.push_back({range.span, i});
  }
}

void Head::send_error(const Range& range, const ErrorPtr& error) {
  const RankId owner = range.span.owner();
  if (!ranks_[owner].alive) return;
  core::Result result;
  result.range = range;
  result.fixed = kVariable;
  result.ends.assign(range.end - range.begin, 0);
  for (std::uint32_t i = range.begin; i < range.end; ++i) result.errors.push_back({i, *error});
  transport_.send(owner, result);
}

void Head::handle(RankId from, const core::GaveBack& m) {
  ++messages_;
  std::uint32_t tasks = 0;  // that any rank can run; others may come back to this one
  for (const Range& range : m.ranges) {
    for_each_part(range, from, [&](Piece& piece) {
      if (piece.promised || piece.gang != 0) detail::throw_damaged("a rank gives back what it was not given to keep");
      if (piece.klass == nullptr) tasks += piece.size();
      unassign(piece);
      if (fail_if_killed(piece)) return;
      piece.goes_first = true;
      set_up(piece);
      piece.preferred = kNoRank;  // it was taken for others that have nothing to do
    });
  }
  scheduler_.gave_back(from, tasks, now_);
  settle();
}

// ---- objects -----------------------------------------------------------------------------------------------------

Head::Entry* Head::find_entry(ObjectId id) {
  const auto found = entries_.find(id);
  return found != entries_.end() ? &found->second : nullptr;
}

Head::Entry& Head::entry(ObjectId id) {
  const auto [found, fresh] = entries_.try_emplace(id);
  if (fresh) {
    Span& span = spans_[id.span];
    span.entries.insert(id.index);
    const RankId owner = id.span.owner();
    if (owner < ranks_.size() && ranks_[owner].alive && !span.owner_gone) found->second.ranks.emplace_back(owner, 1);
  }
  return found->second;
}

// What a message names is of ranks that there are. To be called before anything of the message is done.
void Head::check_ids(std::span<const ObjectId> ids) const {
  for (const ObjectId& id : ids) {
    if (id.span.owner() >= ranks_.size()) detail::throw_damaged("a ref names a rank that does not exist");
  }
}

void Head::hold(ObjectId id) { ++entry(id).inner; }

void Head::unhold(ObjectId id) {
  Entry* of = find_entry(id);
  if (of == nullptr) return;
  --of->inner;
  to_free_.push_back(id);
}

void Head::change(ObjectId id, RankId rank, std::int32_t by) {
  Entry& of = entry(id);
  const auto holder = std::find_if(of.ranks.begin(), of.ranks.end(), [rank](const auto& h) { return h.first == rank; });
  if (holder == of.ranks.end()) {
    of.ranks.emplace_back(rank, by);
  } else if ((holder->second += by) == 0) {
    of.ranks.erase(holder);
  }
  to_free_.push_back(id);
}

void Head::handle(RankId from, const core::Holds& m) {
  ++messages_;
  check_ids(m.holds);
  check_ids(m.drops);
  for (const SpanId& id : m.spans) {
    if (id.owner() != from) detail::throw_damaged("a rank drops a span of another");
  }
  for (const ObjectId& id : m.holds) change(id, from, 1);
  // Also where there was no entry: the owner is to be told that it may free the value.
  for (const ObjectId& id : m.drops) change(id, from, -1);
  for (const SpanId& id : m.spans) owner_dropped(id);
  free_queued();
}

void Head::owner_dropped(SpanId id) {
  const auto span = spans_.find(id);
  if (span == spans_.end() || span->second.owner_gone) return;
  span->second.owner_gone = true;
  for (const std::uint32_t index : span->second.entries) {
    Entry* of = find_entry({id, index});
    core::erase_if(of->ranks, [owner = id.owner()](const auto& holder) { return holder.first == owner; });
    to_free_.push_back({id, index});
  }
  if (span->second.pieces.empty() && span->second.entries.empty()) spans_.erase(span);
}

void Head::maybe_free(ObjectId id) { to_free_.push_back(id); }

core::ErrorRecord Head::was_freed(ObjectId id) {
  return *make_error(ErrorKind::object_lost, "object " + core::to_string(id) + " was freed", "", id, id.span.owner(),
                     0);
}

// Frees what nobody holds. A queue, since freeing a value lets go of what it holds.
void Head::free_queued() {
  if (freeing_) return;
  freeing_ = true;
  while (!to_free_.empty()) {
    const ObjectId id = to_free_.back();
    to_free_.pop_back();
    Entry* of = find_entry(id);
    if (of == nullptr || of->held() || !of->dependents.empty() || standing(id) != Standing::ended) continue;
    const RankId owner = id.span.owner();
    core::Small<RankId, 4> to;
    if (of->copies != nullptr) {
      for (const auto& [rank, copy] : *of->copies) {
        if (copy.here) to.push_back(rank);
      }
    }
    if (of->lineage != 0 && of->gone && of->gone_with == kNoRank) continue;  // was freed already
    if (of->stored) to.push_back(of->at);
    for (const auto& [rank, leaving] : leaving_) {
      if (const auto heir = leaving.moving.find(id); heir != leaving.moving.end()) to.push_back(heir->second);
    }
    if (std::find(to.begin(), to.end(), owner) == to.end()) to.push_back(owner);
    for (const RankId rank : to) free_at(rank, id);
    for (const RankId locator : of->locators) {
      transport_.send(locator, core::Located{id, kNoRank, was_freed(id)});
    }
    const std::vector<ObjectId> contains = std::exchange(of->contains, {});
    if (of->lineage != 0) {
      MOBULA_MARK("head: a value is freed, and what made it kept");
      for (const ObjectId& held : contains) unhold(held);
      of->locators.clear();
      if (of->error == nullptr) forget_value(*of);
      continue;
    }
    forget_maker(*of);
    if (find_actor(id) != nullptr) actor_forgotten(id);
    if (groups_.contains(id)) group_forgotten(id);
    entries_.erase(id);
    core::trace(Event::freed, now_, id.span, id.index, id.index + 1, owner);
    const auto span = spans_.find(id.span);
    span->second.entries.erase(id.index);
    if (span->second.owner_gone && span->second.pieces.empty() && span->second.entries.empty()) spans_.erase(span);
    for (const ObjectId& held : contains) unhold(held);
  }
  freeing_ = false;
}

void Head::free_at(RankId rank, ObjectId id) {
  auto& ids = frees_[rank].ids;
  if (ids.empty()) to_tell_.push_back(rank);
  ids.push_back(id);
}

RankId Head::location(ObjectId id, const Entry* entry) const {
  return entry != nullptr && entry->stored ? entry->at : id.span.owner();
}

void Head::Entry::add_copy(const Copy& copy) {
  if (copies == nullptr) copies = std::make_unique<Copies>();
  copies->add(copy);
}

void Head::Entry::erase_copy(RankId rank) {
  if (copies == nullptr) return;
  copies->erase(rank);
  if (copies->empty()) copies.reset();
}

// A transfer has ended, or will not happen.
void Head::fetched(Entry& of, const Copy& copy) {
  const auto ended = [](auto& source) { source.serving -= source.serving != 0 ? 1 : 0; };
  if (of.copy_at(copy.from) != nullptr) {
    of.copies->change(copy.from, ended);
  } else if (copy.from == of.at) {
    ended(of);
  }
}

// Which rank should give `to` an ended object. One on the same node, if there is any: the ranks of a node read it there
// in place, and who is still getting it passes it on. Otherwise the one that can have sent it first, where each sends
// to one after the other: so that many nodes get it along a tree.
RankId Head::source_for(ObjectId id, RankId to, RankId not_at) {
  Entry* of = find_entry(id);
  const RankId at = location(id, of);
  if (of == nullptr || of->size <= settings_.inline_limit || to == at || at >= ranks_.size()) return at;
  if (const Copy* gone = of->copy_at(not_at); gone != nullptr && !gone->here) {
    constexpr std::uint32_t kMisses = 4;
    of->copies->change(not_at, [](Copy& copy) { ++copy.misses; });
    if (gone->misses < kMisses) return not_at;  // what it was told may not have come there yet
    fetched(*of, *gone);
    MOBULA_MARK("head: a rank does not get the copy that others were sent to");
    of->erase_copy(not_at);
  }
  const std::uint32_t node = ranks_[to].node;
  if (ranks_[at].node == node && at != not_at) return at;
  const Copy* mine = of->copy_at(to);
  const Copy* beside = of->copies != nullptr ? of->copies->on_node(node, mine != nullptr, to, not_at) : nullptr;
  if (beside != nullptr) return beside->rank;
  if (mine != nullptr) {
    if (!mine->here) {  // what it was told before did not work out
      MOBULA_MARK("head: what a rank was told to fetch has not come");
      fetched(*of, *mine);
      of->erase_copy(to);
    }
    return at;
  }
  const Copy* best = of->copies != nullptr ? of->copies->soonest(not_at) : nullptr;
  if (best != nullptr && best->cost() >= of->serving && at != not_at) best = nullptr;
  const RankId source = best != nullptr ? best->rank : at;
  const std::uint32_t cost = best != nullptr ? best->cost() : of->serving;
  if (best != nullptr) {
    of->copies->change(source, [](Copy& copy) { ++copy.serving; });
  } else {
    ++of->serving;
  }
  of->add_copy({to, node, false, source, cost + 1, 0, 0});
  return source;
}

void Head::handle(RankId from, const core::Made& m) {
  ++messages_;
  if (m.id.span.owner() != from) detail::throw_damaged("a rank made an object of another");
  if (m.at != kNoRank && m.at >= ranks_.size()) detail::throw_damaged("an object is at a rank that does not exist");
  check_ids(m.refs);
  Entry& of = entry(m.id);
  of.stored = true;
  of.at = m.at != kNoRank ? m.at : from;
  of.size = m.size;
  if (!ranks_[of.at].alive) value_gone(m.id, of, of.at);
  for (const ObjectId& id : m.refs) {
    hold(id);
    entry(m.id).contains.push_back(id);
  }
}

void Head::handle(RankId from, const core::Locate& m) {
  ++messages_;
  RankId worker = kNoRank;
  const Standing stands = standing(m.id, &worker);
  Entry* of = find_entry(m.id);
  if (const Actor* actor = find_actor(m.id)) {
    locate_actor(from, m.id, *actor);
  } else if (stands == Standing::assigned) {
    transport_.send(from, core::Located{m.id, worker, {}});
  } else if (const auto group = groups_.find(m.id); group != groups_.end() && !group->second.ready) {
    entry(m.id).locators.push_back(from);
  } else if (stands != Standing::ended && of == nullptr) {
    // Its result will go to its owner.
    if (from != m.id.span.owner()) transport_.send(from, core::Located{m.id, m.id.span.owner(), {}});
  } else if (stands != Standing::ended) {
    of->locators.push_back(from);
    MOBULA_MARK("head: somebody asks for what has no place yet");
    if (m.for_task) take_all_back(from);
  } else if (of != nullptr && of->gone && of->error == nullptr) {
    MOBULA_MARK("head: somebody asks for a lost value");
    make_again(m.id);
    if (of->error == nullptr) {
      of->locators.push_back(from);
      if (m.for_task) take_all_back(from);
    } else {
      transport_.send(from, core::Located{m.id, kNoRank, *of->error});
    }
    settle();
  } else if (of != nullptr && of->error != nullptr) {
    transport_.send(from, core::Located{m.id, kNoRank, *of->error});
  } else if (of == nullptr && m.forgotten) {
    MOBULA_MARK("head: somebody asks for what its owner has forgotten");
    transport_.send(from, core::Located{m.id, kNoRank, was_freed(m.id)});
  } else if (const RankId at = source_for(m.id, from, m.not_at); at < ranks_.size() && ranks_[at].alive) {
    transport_.send(from, core::Located{m.id, at, {}, ++turn_});
  } else {
    transport_.send(from, core::Located{m.id, kNoRank,
                                        *make_error(ErrorKind::object_lost,
                                                    "the value of object " + core::to_string(m.id) +
                                                        " was on a rank that is gone, and there is no copy",
                                                    "", m.id, at, 0)});
  }
}

void Head::handle(RankId from, const core::Copied& m) {
  ++messages_;
  Entry* of = find_entry(m.id);
  if (of == nullptr) {
    MOBULA_MARK("head: a copy comes of what was freed");
    free_at(from, m.id);  // freed while it was on its way
    return;
  }
  if (of->copy_at(from) == nullptr) of->add_copy({from, ranks_[from].node});
  if (const Copy& copy = *of->copy_at(from); !copy.here) fetched(*of, copy);
  of->copies->change(from, [](Copy& copy) { copy.here = true; });
  for (auto& [rank, leaving] : leaving_) {
    if (m.adopted && leaving.moving.erase(m.id) != 0) leaving.moved[m.id] = from;
  }
  if (of->gone && standing(m.id) == Standing::ended) {  // it came there just before
    MOBULA_MARK("head: a copy of a lost value came just before");
    of->gone = false;
    value_gone(m.id, *of, of->gone_with);
    to_free_.push_back(m.id);
  }
}

void Head::handle(RankId from, const core::Uncopied& m) {
  ++messages_;
  for (const ObjectId& id : m.ids) {
    Entry* of = find_entry(id);
    if (of == nullptr) continue;
    of->erase_copy(from);
    // It was taken for the value itself since, and the word of that is still on its way.
    if (of->stored && of->at == from) MOBULA_MARK("head: a copy was dropped as it became the value");
    if (of->stored && of->at == from) value_gone(id, *of, from);
  }
}

// ---- questions ---------------------------------------------------------------------------------------------------

void Head::answer(RankId to, std::uint64_t token, bool yes, std::string text) {
  transport_.send(to, core::Answer{token, yes, std::move(text)});
}

void Head::handle(RankId from, const core::Ask& m) {
  ++messages_;
  switch (m.question) {
    case core::Question::explain: answer(from, m.token, true, explain(m.id)); return;
    case core::Question::cluster: answer(from, m.token, true, cluster_bytes()); return;
    case core::Question::feasible: {
      core::check_demands(m.options.demands);
      const auto why = why_infeasible(m.options);
      answer(from, m.token, !why, why.value_or(""));
      return;
    }
    case core::Question::store: survey(from, m.token, m.id.index); return;
    case core::Question::cancel: cancel(from, m.token, m.id); return;
    case core::Question::reserve: reserve(from, m); return;
    case core::Question::find: find(from, m); return;
    case core::Question::kill: kill(from, m.token, m.id); return;
    case core::Question::bundles: reserve_bundles(from, m); return;
  }
}

void Head::survey(RankId from, std::uint64_t token, std::uint32_t largest) {
  const std::uint64_t key = next_token_++;
  Survey& of = surveys_[key];
  of = {from, token, largest, {}, {}};
  for (RankId rank = 0; rank < ranks_.size(); ++rank) {
    if (!ranks_[rank].alive) continue;
    of.missing.insert(rank);
    transport_.send(rank, core::AskStore{key, largest});
  }
}

void Head::handle(RankId from, const core::StoreReport& m) {
  ++messages_;
  const auto found = surveys_.find(m.token);
  if (found == surveys_.end() || found->second.missing.erase(from) == 0) return;
  Survey& of = found->second;
  StoreStats part = core::decode_stats(m.stats);
  for (StoreUse& use : part.ranks) of.stats.ranks.push_back(std::move(use));
  for (StoredObject& object : part.largest) of.stats.largest.push_back(std::move(object));
  if (finish_survey(of)) surveys_.erase(found);
}

// Answers once all ranks have said their part.
bool Head::finish_survey(Survey& of) {
  if (!of.missing.empty()) return false;
  StoreStats& stats = of.stats;
  std::sort(stats.ranks.begin(), stats.ranks.end(), [](const auto& a, const auto& b) { return a.rank < b.rank; });
  std::sort(stats.largest.begin(), stats.largest.end(), [](const auto& a, const auto& b) {
    return std::tie(b.size, a.id, a.rank) < std::tie(a.size, b.id, b.rank);
  });
  if (stats.largest.size() > of.largest) stats.largest.resize(of.largest);
  for (StoredObject& object : stats.largest) {
    const auto id = core::parse_id(object.id);
    const Entry* entry = id ? find_entry(*id) : nullptr;
    if (entry == nullptr) {
      if (id) object.holders = {id->span.owner()};
      continue;
    }
    for (const auto& [rank, n] : entry->ranks) {
      if (n > 0) object.holders.push_back(rank);
    }
    object.inner_holders = static_cast<std::size_t>(std::max(entry->inner, 0));
  }
  if (ranks_[of.from].alive) answer(of.from, of.token, true, core::encode_stats(stats));
  return true;
}

void Head::cancel(RankId from, std::uint64_t token, ObjectId id) {
  Piece* piece = piece_with(id);
  if (piece == nullptr) {
    answer(from, token, false);
    return;
  }
  if (piece->gang != 0 || piece->again) {
    answer(from, token, false);
    return;
  }
  if (piece->is_at_rank()) {
    MOBULA_MARK("head: what is to be cancelled is at a rank");
    cancels_.emplace(next_token_, Asked{from, token, id, piece->worker});
    transport_.send(piece->worker, core::CancelTask{next_token_++, id});
    return;
  }
  if (!piece->work->is_gang()) {
    if (piece->range.begin != id.index) piece = &split(*piece, id.index);
    if (piece->size() > 1) split(*piece, id.index + 1);
  }
  fail(*piece, make_error(ErrorKind::cancelled, "the task was cancelled", task_name(*piece->work), id, kNoRank,
                          static_cast<int>(piece->attempt) - 1));
  settle();
  answer(from, token, true);
}

void Head::handle(RankId from, const core::CancelResult& m) {
  ++messages_;
  const auto asked = cancels_.find(m.token);
  if (asked == cancels_.end() || asked->second.worker != from || asked->second.id != m.id) return;
  const Piece* const there = piece_with(m.id);
  if (!m.cancelled && there != nullptr && there->worker != from) {
    MOBULA_MARK("head: what is to be cancelled was given back meanwhile");
    const Asked of = asked->second;
    cancels_.erase(asked);
    cancel(of.from, of.token, of.id);
    return;
  }
  if (m.cancelled) {
    MOBULA_MARK("head: a rank has cancelled a task");
    for_each_part({m.id.span, m.id.index, m.id.index + 1}, from, [&](Piece& piece) {
      unassign(piece);
      fail(piece, make_error(ErrorKind::cancelled, "the task was cancelled", task_name(*piece.work), m.id, from,
                             static_cast<int>(piece.attempt) - 1));
    });
    settle();
  }
  answer(asked->second.from, asked->second.token, m.cancelled);
  cancels_.erase(asked);
}

std::string Head::task_name(const Work& work) const {
  return work.options && !work.options->name.empty() ? work.options->name
                                                     : std::string(core::function_name(work.function));
}

std::optional<std::string> Head::why_infeasible(const core::WireOptions& options) {
  sched::Holding holding;
  scheduler_.classify(holding, &options);
  std::optional<std::string> why;
  if (options.placement == Placement::Kind::bundle) {
    const auto group = groups_.find(options.near);
    if (group == groups_.end() || options.place_index >= group->second.bundles.size()) {
      return "there is no such bundle";
    }
    why = scheduler_.why_infeasible(holding, group->second.bundles[options.place_index]);
  } else {
    why = scheduler_.why_infeasible(holding);
  }
  return why ? why : short_of_time(&options);
}

std::string Head::explain(ObjectId id) const {
  const Piece* piece = piece_with(id);
  if (piece == nullptr) {
    const auto found = entries_.find(id);
    if (found != entries_.end() && found->second.error != nullptr) return "it failed: " + found->second.error->message;
    return "it is there: the task has run, or the value was put";
  }
  const std::string name = "task " + task_name(*piece->work) + " (" + core::to_string(id) + ", attempt " +
                           std::to_string(piece->attempt) + ") ";
  switch (piece->state) {
    case sched::State::ahead:
    case sched::State::assigned:
      if (piece->missing != 0) {
        return name + "lies at rank " + std::to_string(piece->worker) + " on " + ranks_[piece->worker].host +
               ", and waits there for " + inputs_text(*piece);
      }
      return name + "is at rank " + std::to_string(piece->worker) + " on " + ranks_[piece->worker].host +
             ", which has " + std::to_string(scheduler_.outstanding(piece->worker)) + " tasks and " +
             std::to_string(ranks_[piece->worker].slots) + " slots: it runs, or waits there for a slot or an input";
    case sched::State::queued: return name + "waits for a rank: " + scheduler_.describe(*piece);
    case sched::State::waiting: break;
  }
  return name + "waits for " + inputs_text(*piece);
}

// What the piece waits for, for people.
std::string Head::inputs_text(const Piece& piece) const {
  std::string text = std::to_string(piece.missing) + " inputs:";
  int shown = 0;
  for (const ObjectId& dep : piece.work->deps()) {
    const Piece* of = piece_with(dep);
    if (of == nullptr) continue;
    if (++shown > 5) {
      text += " …";
      break;
    }
    text += (shown == 1 ? " " : ", ") + core::to_string(dep) + " (" + task_name(*of->work) + ", " +
            (of->is_at_rank()                    ? "at rank " + std::to_string(of->worker)
             : of->state == sched::State::queued ? "queued"
                                                 : "waits itself") +
            ")";
  }
  return text;
}

std::string Head::cluster_bytes() const {
  ClusterInfo info;
  std::map<std::uint32_t, NodeInfo> nodes;
  for (RankId rank = 0; rank < ranks_.size(); ++rank) {
    const RankState& r = ranks_[rank];
    const std::string name = r.slots == 0 ? "head" : "worker " + std::to_string(rank);
    info.ranks.push_back({rank, r.node, r.host, rank == 0 && r.slots != 0 ? "head and worker" : name,
                          static_cast<int>(r.slots), r.alive});
    NodeInfo& node = nodes[r.node];
    node.node = r.node;
    if (node.host.empty()) node.host = r.host;
    node.ranks.push_back(rank);
    if (r.alive) info.slots += static_cast<int>(r.slots);
  }
  for (auto& [index, node] : nodes) info.nodes.push_back(std::move(node));
  const auto list = [](const core::WireDemand& d) {
    std::map<std::string, double> all = d.resources;
    all["cpus"] = d.cpus;
    all["gpus"] = d.gpus;
    all["memory"] = static_cast<double>(d.memory);
    return all;
  };
  info.total = list(scheduler_.total());
  info.free = list(scheduler_.free());
  return core::encode_cluster(info);
}

std::string Head::describe_entries() const {
  std::string text;
  for (const auto& [id, of] : entries_) {
    text += core::to_string(id) + ": " + std::to_string(of.inner) + " inner, ranks";
    for (const auto& [rank, n] : of.ranks) text += " " + std::to_string(rank) + "x" + std::to_string(n);
    text += ", " + std::to_string(of.dependents.size()) + " dependents, " + std::to_string(of.contains.size()) +
            " contained" + (of.stored ? ", at " + std::to_string(of.at) : "") + (of.gone ? ", gone" : "") +
            (of.error ? ", failed" : "") + (standing(id) == Standing::ended ? "" : ", unfinished") +
            (actors_.contains(id) ? ", an actor" : "") + "; ";
  }
  return text;
}

std::map<std::uint32_t, Head::Tally> Head::tally() const {
  std::map<std::uint32_t, Tally> all;
  for (const auto& [id, span] : spans_) {
    for (const auto& [begin, piece] : span.pieces) {
      Tally& of = all[piece->work->function];
      (piece->missing != 0                    ? of.waiting
       : piece->state == sched::State::queued ? of.queued
                                              : of.assigned) += piece->size();
    }
  }
  return all;
}

std::uint64_t Head::assigned_to(RankId rank) const {
  std::uint64_t tasks = 0;
  for (const Piece* piece : assigned_[rank]) tasks += piece->size();
  return tasks;
}

std::string Head::describe_pieces() const {
  std::string text;
  for (const auto& [id, span] : spans_) {
    for (const auto& [begin, piece] : span.pieces) {
      text += std::to_string(piece->size()) + " tasks: " + explain({id, begin}) + "\n";
    }
  }
  return text;
}

void Head::check_invariants() const {
  scheduler_.check_invariants();
  std::uint64_t unfinished = 0;
  for (const auto& [id, span] : spans_) {
    std::uint32_t end = 0;
    for (const auto& [begin, piece] : span.pieces) {
      MOBULA_CHECK(begin == piece->range.begin && begin < piece->range.end && begin >= end, "pieces do not overlap");
      end = piece->range.end;
      unfinished += piece->size();
      const bool at_worker = piece->worker != kNoRank && piece->assigned_at < assigned_[piece->worker].size() &&
                             assigned_[piece->worker][piece->assigned_at] == piece.get();
      MOBULA_CHECK(at_worker == piece->is_at_rank(), "what is at a rank is listed");
      MOBULA_CHECK(piece->state != sched::State::waiting || piece->missing != 0,
                   "a piece that waits, waits for something");
    }
    for (const std::uint32_t index : span.entries)
      MOBULA_CHECK(entries_.contains({id, index}), "a span lists its entries");
  }
  MOBULA_CHECK(unfinished == unfinished_, "unfinished tasks are counted");
  std::uint64_t ties = 0;
  for (const Work* work : lineage_) {
    MOBULA_CHECK(work->makes != 0 && work->unfinished == 0, "lineage is of what may be made again");
    ties += static_cast<std::uint64_t>(std::count(work->ties.begin(), work->ties.end(), Tie::way));
  }
  for (const auto& entry : entries_) ties -= entry.second.lineage;
  MOBULA_CHECK(ties == 0, "what lineage needs is counted");
}

}  // namespace mobula::head
