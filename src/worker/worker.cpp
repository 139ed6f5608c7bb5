#include "worker/worker.hpp"

#include <algorithm>
#include <cmath>
#include <cstring>

#include "core/cluster.hpp"
#include "core/functions.hpp"

namespace mobula::worker {

using core::ErrorKind;
using core::ErrorRecord;
using core::Event;
using detail::kHeadRank;
using detail::kNoRank;
using detail::kVariable;

namespace {

constexpr Time kRunTarget = 200'000;                // ns that one run should take
constexpr Time kRunLimit = 2'000'000;               // ns after which a run of several tasks is asked to end early
constexpr Time kAnnounceAfter = 50'000;             // ns that a kept task may stay unknown to the head
constexpr std::size_t kInlineData = 24 << 10;       // bytes of a value that goes inline in a Data message
constexpr std::size_t kRetained = 1024;             // results
constexpr std::size_t kBorrowed = ~std::size_t{0};  // the demand of a run that uses its waiter's cpus
constexpr std::size_t kLevels = 8;                  // priorities that keep their queues
constexpr int kScan = 16;                           // queued pieces looked at for one that fits

std::uint64_t elapsed_per_task(Time elapsed, std::uint32_t n) {
  return static_cast<std::uint64_t>(std::max<Time>(elapsed / std::max<std::uint32_t>(n, 1), 1));
}

}  // namespace

ByteView Body::args_of(std::uint32_t begin, std::uint32_t end) const {
  if (ends.empty()) {
    const std::size_t size = function->fixed_args == kVariable || dep_mask != 0 ? 0 : function->fixed_args;
    return args.view().subspan((begin - base) * size, (end - begin) * size);
  }
  const std::size_t from = begin == base ? 0 : ends[begin - base - 1];
  return args.view().subspan(from, ends[end - base - 1] - from);
}

Worker::Worker(transport::Transport& transport, store::ObjectTable& objects, Settings settings)
    : transport_(transport),
      objects_(objects),
      store_(objects.store()),
      settings_(std::move(settings)),
      free_(settings_.offers),
      estimates_(core::function_count(), 0) {
  free_.cpus = settings_.slots;
  for (int slot = static_cast<int>(settings_.slots) - 1; slot >= 0; --slot) free_slots_.push_back(slot);
}

Worker::~Worker() = default;

// ---- client ------------------------------------------------------------------------------------------------------

std::shared_ptr<const core::WireOptions> Worker::wire_options(const TaskOptions* options) {
  if (options == nullptr) return nullptr;
  if (options_wire_ != nullptr && options_copy_ == *options) return options_wire_;
  auto wire = std::make_shared<core::WireOptions>();
  wire->demands.push_back({options->cpus, options->gpus, options->memory, options->resources});
  for (const Demand& d : options->alternatives) wire->demands.push_back({d.cpus, d.gpus, d.memory, d.resources});
  for (const auto& d : wire->demands) {
    bool sound = std::isfinite(d.cpus) && d.cpus >= 0 && std::isfinite(d.gpus) && d.gpus >= 0;
    for (const auto& [name, amount] : d.resources) sound = sound && std::isfinite(amount) && amount >= 0;
    if (!sound)
      throw std::invalid_argument("mobula: TaskOptions: cpus, gpus and resources must be finite and not negative");
  }
  if (options->retries < 0) throw std::invalid_argument("mobula: TaskOptions::retries must not be negative");
  wire->retries = options->retries;
  wire->retry_exceptions = options->retry_exceptions;
  wire->priority = options->priority;
  wire->name = options->name;
  wire->timeout_ns = options->timeout.nanoseconds;
  wire->time_request_ns = options->time_request.nanoseconds;
  wire->placement = options->placement.kind;
  wire->place_index = options->placement.index;
  if (options->placement.object) {
    wire->near = options->placement.object.id();
    if (open_.count != 0) close_open();
    pass_on(options->placement.object);
    return wire;  // not kept: it would keep the object
  }
  options_copy_ = *options;
  options_wire_ = wire;
  return wire;
}

// Tasks that this rank may run by itself: an ordinary demand, and no wish about the place.
bool Worker::keeps(const core::WireOptions* options) const {
  if (settings_.slots == 0) return false;
  if (options == nullptr) return true;
  const auto& d = options->demands.front();
  return options->placement == Placement::Kind::any && options->demands.size() == 1 && d.cpus <= settings_.slots &&
         d.gpus == 0 && d.memory == 0 && d.resources.empty() && options->time_request_ns < 0;
}

Handle Worker::submit(const FunctionInfo& function, const TaskOptions* options, detail::Draft::State& draft,
                      bool in_task, Time now) {
  auto wire = wire_options(options);
  const bool simple = draft.dep_mask == 0 && draft.args.refs.empty();
  if (in_task && keeps(wire.get())) {
    Handle handle = objects_.mint();
    const ObjectId id = handle.id();
    auto body = std::make_shared<Body>();
    body->function = &function;
    body->options = std::move(wire);
    body->args = Buffer(draft.args.buffer.view());
    body->base = id.index;
    if (function.fixed_args == kVariable || draft.dep_mask != 0) {
      body->ends.push_back(static_cast<std::uint32_t>(draft.args.buffer.size()));
    }
    body->dep_mask = draft.dep_mask;
    for (const Handle& dep : draft.deps) body->deps.push_back(dep.id());
    body->keep = draft.deps;
    body->keep.insert(body->keep.end(), draft.args.refs.begin(), draft.args.refs.end());
    keep_piece({id.span, id.index, id.index + 1}, std::move(body), now);
    return handle;
  }
  if (simple) {
    const bool fits = open_.count != 0 && open_.function == &function && open_.options == wire;
    if (!fits && open_.count != 0) close_open();
    Handle handle = objects_.mint();
    const ObjectId id = handle.id();
    if (open_.count != 0 && id.span != open_.range.span) close_open();
    if (open_.count == 0) {
      open_.function = &function;
      open_.options = std::move(wire);
      open_.range = {id.span, id.index, id.index};
    }
    open_.args.append(draft.args.buffer.data(), draft.args.buffer.size());
    if (function.fixed_args == kVariable) open_.ends.push_back(static_cast<std::uint32_t>(open_.args.size()));
    ++open_.count;
    open_.range.end = id.index + 1;
    objects_.know(*handle.record());
    if (open_.args.size() > kInlineData) close_open();
    return handle;
  }
  if (open_.count != 0) close_open();
  std::vector<ObjectId> deps = pass_on_all(draft.deps);
  std::vector<ObjectId> refs = pass_on_all(draft.args.refs);
  Handle handle = objects_.mint();
  const ObjectId id = handle.id();
  objects_.know(*handle.record());
  std::vector<std::uint32_t> ends;
  if (function.fixed_args == kVariable || draft.dep_mask != 0) {
    ends.push_back(static_cast<std::uint32_t>(draft.args.buffer.size()));
  }
  send_submit({id.span, id.index, id.index + 1}, false, function, wire.get(), draft.dep_mask, draft.args.buffer.view(),
              ends, std::move(deps), std::move(refs));
  return handle;
}

void Worker::submit_items(Record& batch, std::uint32_t begin, std::uint32_t n, const FunctionInfo& function,
                          const TaskOptions* options, std::uint64_t shared_mask, std::span<const Handle> shared,
                          detail::Draft::State& draft, std::vector<std::uint32_t>& ends, bool in_task, Time now) {
  auto wire = wire_options(options);
  if (open_.count != 0) close_open();
  objects_.append(batch, n);
  objects_.know(batch);
  // Dependencies go in the order of their arguments.
  std::vector<Handle> deps;
  const std::uint64_t mask = shared_mask | draft.dep_mask;
  std::size_t from_shared = 0;
  std::size_t from_item = 0;
  for (std::uint64_t bits = mask; bits != 0; bits &= bits - 1) {
    const std::uint64_t bit = bits & (~bits + 1);
    deps.push_back((shared_mask & bit) != 0 ? shared[from_shared++] : draft.deps[from_item++]);
  }
  const Range range{batch.id, begin, begin + n};
  if (in_task && keeps(wire.get())) {
    auto body = std::make_shared<Body>();
    body->function = &function;
    body->options = std::move(wire);
    body->args = Buffer(draft.args.buffer.view());
    body->ends = ends;
    body->base = begin;
    body->dep_mask = mask;
    for (const Handle& dep : deps) body->deps.push_back(dep.id());
    body->keep = std::move(deps);
    body->keep.insert(body->keep.end(), draft.args.refs.begin(), draft.args.refs.end());
    keep_piece(range, std::move(body), now);
    announce_all();  // pieces of several tasks are for others to take
    return;
  }
  std::vector<ObjectId> dep_ids = pass_on_all(deps);
  send_submit(range, false, function, wire.get(), mask, draft.args.buffer.view(), ends, std::move(dep_ids),
              pass_on_all(draft.args.refs));
}

Handle Worker::put(detail::Encoder&& value) {
  if (open_.count != 0 && open_.count == store::ObjectTable::kSingles) close_open();
  Handle handle = objects_.mint();
  auto block = std::make_shared<Buffer>(std::move(value.buffer));
  const std::size_t size = block->size();
  if (size > settings_.inline_limit) {
    objects_.set_large(*handle.record(), handle.index(), objects_.rank());
    store_.add(handle.id(), std::move(block), Store::Role::own);
  } else {
    objects_.set_block(*handle.record(), handle.index(), std::move(block));
  }
  objects_.set_secret(*handle.record(), handle.index());
  // Ids of one piece are consecutive; this one lies between.
  if (open_.count != 0) close_open();
  if (!value.refs.empty()) {
    core::Made made{handle.id(), size, pass_on_all(value.refs)};
    objects_.take_secret(*handle.record(), handle.index());
    objects_.track(*handle.record(), handle.index());
    transport_.send(kHeadRank, made);
  }
  return handle;
}

void Worker::close_open() {
  Open open = std::move(open_);
  open_ = Open();
  send_submit(open.range, false, *open.function, open.options.get(), 0, open.args.view(), open.ends, {}, {});
}

void Worker::send_submit(const Range& range, bool kept, const FunctionInfo& function, const core::WireOptions* options,
                         std::uint64_t mask, ByteView args, const std::vector<std::uint32_t>& ends,
                         std::vector<ObjectId> deps, std::vector<ObjectId> refs) {
  core::Submit submit;
  submit.range = range;
  submit.kept = kept;
  submit.body.function = function.index;
  submit.body.dep_mask = mask;
  submit.body.args = args;
  submit.body.ends = ends;
  submit.body.has_options = options != nullptr;
  if (options != nullptr) submit.body.options = *options;
  submit.deps = std::move(deps);
  submit.refs = std::move(refs);
  transport_.send(kHeadRank, submit);
}

// The object is about to be named in a message: from now on the head counts it.
void Worker::pass_on(const Handle& handle) {
  Record& record = *handle.record();
  const ObjectId id = handle.id();
  if (!record.mine || objects_.is_tracked(record, id.index)) return;
  if (open_.count != 0 && open_.range.span == id.span) close_open();
  if (objects_.take_secret(record, id.index)) {
    objects_.track(record, id.index);
    std::optional<std::size_t> size = store_.size_of(id);
    if (!size) {
      const ValuePtr value = objects_.value_of(record, id.index);
      size = value != nullptr ? value->size() : 0;
    }
    transport_.send(kHeadRank, core::Made{id, *size, {}});
    return;
  }
  if (Piece* piece = piece_with(id); piece != nullptr && !piece->announced) announce(*piece);
  for (Run* run : running_) {
    if (!run->announced && run->range.span == id.span && run->range.begin <= id.index && id.index < run->range.end) {
      announce_run(*run);
    }
  }
  objects_.track(record, id.index);
}

std::vector<ObjectId> Worker::pass_on_all(std::span<const Handle> handles) {
  std::vector<ObjectId> ids;
  ids.reserve(handles.size());
  for (const Handle& handle : handles) {
    pass_on(handle);
    ids.push_back(handle.id());
  }
  return ids;
}

void Worker::keep_piece(const Range& range, std::shared_ptr<Body> body, Time now) {
  Piece& piece = add_piece(range, std::move(body));
  piece.kept = true;
  piece.announced = false;
  piece.submitted = now;
  piece.unannounced_at = unannounced_.size();
  unannounced_.push_back(&piece);
  const std::size_t deps = piece.body->deps.size();
  piece.missing = static_cast<std::uint32_t>(deps) + 1;  // one more, so that it isn't queued half-way
  piece.body->values.resize(deps);
  set_up(piece, {});
}

// Sees to the piece's dependencies, and queues it if all are here. It may be gone afterwards, with one that failed.
void Worker::set_up(Piece& piece, std::span<const core::DepSource> sources) {
  const bool outermost = !std::exchange(failing_now_, true);
  for (std::size_t i = 0; i < piece.body->deps.size(); ++i) resolve(piece, i, sources.empty() ? nullptr : &sources[i]);
  dep_ready(piece, {}, nullptr);
  if (outermost) failing_now_ = false;
  fail_pieces();
}

void Worker::announce(Piece& piece) {
  if (piece.announced) return;
  piece.announced = true;
  unannounced_[piece.unannounced_at] = unannounced_.back();
  unannounced_[piece.unannounced_at]->unannounced_at = piece.unannounced_at;
  unannounced_.pop_back();
  announce_body(piece.range, *piece.body);
}

void Worker::announce_run(Run& run) {
  run.announced = true;
  announce_body(run.range, *run.body);
}

void Worker::announce_body(const Range& range, const Body& body) {
  if (Record* record = objects_.find({range.span, range.begin})) objects_.know(*record);
  const std::span<const Handle> keep = body.keep;
  std::vector<ObjectId> deps = pass_on_all(keep.first(body.deps.size()));
  std::vector<ObjectId> refs = pass_on_all(keep.subspan(body.deps.size()));
  send_submit(range, true, *body.function, body.options.get(), body.dep_mask, body.args_of(range.begin, range.end),
              body.ends, std::move(deps), std::move(refs));
}

void Worker::announce_all() {
  // Oldest first, so that the head hands out the largest parts of a recursion.
  std::vector<Piece*> pieces = unannounced_;
  std::sort(pieces.begin(), pieces.end(), [](const Piece* a, const Piece* b) { return a->submitted < b->submitted; });
  for (Piece* piece : pieces) announce(*piece);
}

void Worker::request(const Handle& handle) {
  Record& record = *handle.record();
  const std::uint32_t index = handle.index();
  if (!record.ready(index)) {
    if (!record.mine) ask_for(handle.id(), kNoRank);
    return;
  }
  if (!objects_.is_here(record, index)) ask_for(handle.id(), where_large(*record.slot(index)), true);
}

std::uint64_t Worker::ask(core::Question question, ObjectId id, const TaskOptions* options) {
  core::Ask ask{next_token_++, question, id, {}};
  if (options != nullptr) ask.options = *wire_options(options);
  if (open_.count != 0) close_open();
  const std::uint64_t token = ask.token;
  transport_.send(kHeadRank, ask);
  return token;
}

std::optional<core::Answer> Worker::take_answer(std::uint64_t token) {
  const auto found = answers_.find(token);
  if (found == answers_.end()) return std::nullopt;
  core::Answer answer = std::move(found->second);
  answers_.erase(found);
  return answer;
}

// ---- pieces ------------------------------------------------------------------------------------------------------

Piece& Worker::add_piece(const Range& range, std::shared_ptr<Body> body) {
  auto piece = std::make_unique<Piece>();
  piece->range = range;
  piece->body = std::move(body);
  Piece& added = *piece;
  const bool fresh = pieces_[range.span].emplace(range.begin, std::move(piece)).second;
  MOBULA_CHECK(fresh, "a task was given to the same rank twice");
  return added;
}

Piece* Worker::piece_with(ObjectId id) {
  const auto span = pieces_.find(id.span);
  if (span == pieces_.end()) return nullptr;
  auto after = span->second.upper_bound(id.index);
  if (after == span->second.begin()) return nullptr;
  Piece* piece = std::prev(after)->second.get();
  return id.index < piece->range.end ? piece : nullptr;
}

// The object will be made here, by a task that is queued or runs.
bool Worker::will_come(ObjectId id) const {
  if (const_cast<Worker*>(this)->piece_with(id) != nullptr) return true;
  return std::any_of(running_.begin(), running_.end(), [id](const Run* run) {
    return run->range.span == id.span && run->range.begin <= id.index && id.index < run->range.end;
  });
}

void Worker::enqueue(Piece& piece, bool front) {
  piece.queued = true;
  queued_tasks_ += piece.range.end - piece.range.begin;
  auto& queue = ready_[piece.body->priority()];
  if (front) {
    queue.push_front(&piece);
  } else {
    queue.push_back(&piece);
  }
}

void Worker::dequeue(Piece& piece) {
  if (!piece.queued) return;
  piece.queued = false;
  queued_tasks_ -= piece.range.end - piece.range.begin;
  const auto level = ready_.find(piece.body->priority());
  auto& queue = level->second;
  // Pieces leave at the ends but for claims and cancels; a claim is of a recent one, at the front.
  const auto at = std::find(queue.begin(), queue.end(), &piece);
  queue.erase(at);
  if (queue.empty() && ready_.size() > kLevels) ready_.erase(level);  // most levels are filled again at once
}

void Worker::erase_piece(Piece& piece) {
  dequeue(piece);
  if (!piece.announced) {
    unannounced_[piece.unannounced_at] = unannounced_.back();
    unannounced_[piece.unannounced_at]->unannounced_at = piece.unannounced_at;
    unannounced_.pop_back();
  }
  if (piece.missing != 0) {
    for (const ObjectId& dep : piece.body->deps) {
      if (const auto found = interests_.find(dep); found != interests_.end()) std::erase(found->second.pieces, &piece);
    }
  }
  const auto span = pieces_.find(piece.range.span);
  span->second.erase(piece.range.begin);
  if (span->second.empty()) pieces_.erase(span);
}

void Worker::resolve(Piece& piece, std::size_t dep, const core::DepSource* source) {
  const ObjectId id = piece.body->deps[dep];
  if (source != nullptr && source->where == core::Where::inlined) {
    piece.body->values[dep] = std::make_shared<Buffer>(source->value);
    --piece.missing;
    return;
  }
  if (ValuePtr value = value_here(id)) {
    piece.body->values[dep] = std::move(value);
    --piece.missing;
    return;
  }
  auto& pieces = interests_[id].pieces;
  if (pieces.empty() || pieces.back() != &piece) pieces.push_back(&piece);
  const bool named = source != nullptr && source->where != core::Where::unknown;
  ask_for(id, named ? source->rank : kNoRank, named && source->where == core::Where::rank);
}

// A dependency of the piece has come; with no value: the piece is set up. Queues it when it was the last.
void Worker::dep_ready(Piece& piece, ObjectId id, const ValuePtr& value) {
  if (value == nullptr) {
    --piece.missing;
  } else {
    for (std::size_t i = 0; i < piece.body->deps.size(); ++i) {
      if (piece.body->deps[i] == id && piece.body->values[i] == nullptr) {
        piece.body->values[i] = value;
        --piece.missing;
      }
    }
  }
  if (piece.missing != 0) return;
  for (const ValuePtr& v : piece.body->values) piece.body->views.push_back(v->view());
  enqueue(piece, piece.kept);
}

void Worker::fail_piece(Piece& piece, const ErrorPtr& error) {
  const Range range = piece.range;
  const bool announced = piece.announced;
  const bool kept = piece.kept;
  std::vector<core::IndexedError> errors;
  for (std::uint32_t i = range.begin; i < range.end; ++i) errors.push_back({i, *error});
  erase_piece(piece);
  Report report;
  report.range = range;
  report.announced = announced;
  report.kept = kept;
  report.values = std::make_shared<Buffer>();
  report.ends.assign(range.end - range.begin, 0);
  report.fixed = kVariable;
  report.errors = std::move(errors);
  send_report(std::move(report));
}

// ---- objects -----------------------------------------------------------------------------------------------------

ValuePtr Worker::value_here(ObjectId id) {
  if (ValuePtr value = store_.find(id)) return value;
  if (Record* record = objects_.find(id)) {
    if (ValuePtr value = objects_.value_of(*record, id.index)) return value;
  }
  if (const auto found = retained_.find(id); found != retained_.end()) return found->second;
  return nullptr;
}

// Where to ask for a large value of an object that this rank owns. Of another node only the head knows who has a copy
// nearer by, or is getting one.
RankId Worker::where_large(const store::Slot& slot) const {
  return slot.at != objects_.rank() && store_.shares_with(slot.at) ? slot.at : kNoRank;
}

// Sees to it that an object comes that is not here. `hint`: a rank that has it (`exists`) or will make it.
void Worker::ask_for(ObjectId id, RankId hint, bool exists) {
  if (store_.has(id)) {
    if (const ValuePtr value = store_.find(id)) {
      arrived(id, value);
    } else {
      store_.want(id);
    }
    return;
  }
  Interest& in = interests_[id];
  if (in.asked != kNoRank || in.receiving) return;
  if (hint == objects_.rank() || hint == kNoRank) {
    if (will_come(id)) return;
    if (Record* record = objects_.find(id); record != nullptr && record->mine) {
      if (record->ready(id.index)) {
        const store::Slot* slot = record->slot(id.index);
        if (slot != nullptr && slot->kind == store::Slot::Kind::error) {
          const ErrorPtr error = *slot->error;
          deliver(id, nullptr, error, kNoRank);
          return;
        }
        if (slot != nullptr && slot->kind == store::Slot::Kind::large) {
          hint = where_large(*slot);
          exists = true;
        }
      } else if (hint == kNoRank) {
        return;  // its result will be brought here
      }
    }
  }
  if (hint == kNoRank || hint == objects_.rank() || lost_.contains(hint)) {
    locate(id, kNoRank);
  } else {
    in.asked = hint;
    in.exists = exists;
    ++fetches_;
    transport_.send(hint, core::Fetch{id});
  }
}

// The object is known to be here as a value, to have failed, or to stay at another rank.
void Worker::deliver(ObjectId id, const ValuePtr& value, const ErrorPtr& error, RankId at) {
  const auto found = interests_.find(id);
  if (found == interests_.end()) return;
  if (value == nullptr && error == nullptr) {
    for (const RankId rank : found->second.ranks) transport_.send(rank, core::Located{id, at, {}});
    found->second.ranks.clear();
    if (found->second.pieces.empty()) {
      interests_.erase(found);
    } else {
      found->second.asked = kNoRank;
      ask_for(id, store_.shares_with(at) ? at : kNoRank, true);
    }
    return;
  }
  const Interest in = std::move(found->second);
  interests_.erase(found);
  for (const RankId rank : in.ranks) {
    if (error != nullptr) {
      core::Data data;
      data.id = id;
      data.failed = true;
      data.error = *error;
      transport_.send(rank, data);
    } else {
      answer_fetch(rank, id, value);
    }
  }
  for (Piece* piece : in.pieces) {
    if (error != nullptr) {
      failing_.emplace_back(ObjectId{piece->range.span, piece->range.begin}, error);
    } else {
      dep_ready(*piece, id, value);
    }
  }
  fail_pieces();
}

// Fails what was found to depend on what failed. One at a time: the failure of one piece may find others.
void Worker::fail_pieces() {
  if (failing_now_) return;
  failing_now_ = true;
  while (!failing_.empty()) {
    const auto [first, error] = std::move(failing_.back());
    failing_.pop_back();
    Piece* piece = piece_with(first);
    if (piece != nullptr && piece->range.begin == first.index && piece->missing != 0) fail_piece(*piece, error);
  }
  failing_now_ = false;
}

void Worker::answer_fetch(RankId to, ObjectId id, const ValuePtr& value) {
  core::Data data;
  data.id = id;
  if (value->size() <= settings_.inline_limit) {
    data.value = value->view();
  } else if (store_.shares_with(to) && to != objects_.rank() && store_.contains(value->data()) && store_.has(id)) {
    data.mapped = true;
    data.size = value->size();
    data.offset = store_.offset_of(*value);
    store_.pin(id, to);
  } else if (value->size() <= kInlineData) {
    data.value = value->view();
  } else {
    data.size = value->size();
    data.block = transport_.send_block(to, value->view(), value);
  }
  transport_.send(to, data);
}

// Keeps a small result that went to another rank for a while, for those who were told that it would be here. Without it
// they would find it at its owner, over the head.
void Worker::retain(ObjectId id, ValuePtr value) {
  if (!retained_.emplace(id, std::move(value)).second) return;
  if (retained_order_.size() < kRetained) {
    retained_order_.push_back(id);
    return;
  }
  retained_.erase(retained_order_[retained_next_]);
  retained_order_[retained_next_] = id;
  retained_next_ = (retained_next_ + 1) % kRetained;
}

// ---- results -----------------------------------------------------------------------------------------------------

// Results of tasks that ended here go to the owner of their span, to those who wait for them, and, as Done, to the
// head.
void Worker::send_report(Report report) {
  const Range range = report.range;
  const RankId owner = range.span.owner();
  const auto value_at = [&report, range](std::uint32_t index) {
    const std::uint32_t i = index - range.begin;
    if (report.fixed != kVariable) {
      return report.values->view().subspan(std::size_t{i} * report.fixed, report.fixed);
    }
    const std::size_t from = i == 0 ? 0 : report.ends[i - 1];
    return report.values->view().subspan(from, report.ends[i] - from);
  };
  std::vector<std::uint32_t> odd;
  for (const auto& e : report.errors) odd.push_back(e.index);
  for (const auto& s : report.stored) odd.push_back(s.first);
  std::sort(odd.begin(), odd.end());
  const auto is_odd = [&odd](std::uint32_t index) { return std::binary_search(odd.begin(), odd.end(), index); };

  if (lost_.contains(owner)) {
    // Nobody is there to take small results: they stay here, for those who were given the refs.
    for (std::uint32_t i = range.begin; i < range.end; ++i) {
      if (!is_odd(i)) report.stored.emplace_back(i, std::make_shared<Buffer>(value_at(i)));
    }
  }

  core::Done done;
  done.range = range;
  done.elapsed_ns = report.elapsed_ns;
  if (!report.refs.empty()) {
    MOBULA_CHECK(report.announced, "a result that holds refs is known to the head");
    for (const auto& [index, handles] : report.refs) {
      for (const ObjectId& id : pass_on_all(handles)) done.refs.push_back({index, id});
    }
  }
  for (const auto& [index, value] : report.stored) done.stored.push_back({index, value->size()});

  if (owner == objects_.rank()) {
    if (Record* record = objects_.find({range.span, range.begin})) {
      if (odd.empty() && record->packed != kVariable && record->packed == report.fixed) {
        objects_.set_packed(*record, range.begin, range.end - range.begin, report.values->data());
      } else {
        for (std::uint32_t i = range.begin; i < range.end; ++i) {
          if (!is_odd(i)) objects_.set_value(*record, i, value_at(i));
        }
      }
      for (const auto& e : report.errors) objects_.set_error(*record, e.index, std::make_shared<ErrorRecord>(e.error));
      for (const auto& [index, value] : report.stored) {
        if (report.announced) objects_.track_made(*record, index);
        const bool wanted = objects_.set_large(*record, index, objects_.rank());
        if (wanted || report.announced) store_.add({range.span, index}, value, Store::Role::own);
      }
      if (report.announced) {
        for (const auto& hold : report.refs) objects_.track_made(*record, hold.first);
      } else {
        for (std::uint32_t i = range.begin; i < range.end; ++i) objects_.set_secret(*record, i);
      }
    } else if (report.announced) {
      for (const auto& [index, value] : report.stored) store_.add({range.span, index}, value, Store::Role::own);
    }
  } else {
    for (const auto& [index, value] : report.stored) store_.add({range.span, index}, value, Store::Role::own);
    if (!lost_.contains(owner)) {
      core::Result result;
      result.range = range;
      result.fixed = report.fixed;
      result.values = report.values->view();
      result.ends = report.ends;
      result.errors = report.errors;
      for (const auto& s : report.stored) result.stored.push_back(s.first);
      for (const auto& hold : report.refs) result.holding.push_back(hold.first);
      result.rank = objects_.rank();
      transport_.send(owner, result);
    }
  }
  if (report.announced) {
    done.errors = report.errors;
    send_done(done);
  }
  if (!interests_.empty()) {
    for (const ObjectId& id : interested_in(range)) {
      const auto error =
          std::find_if(report.errors.begin(), report.errors.end(), [id](const auto& e) { return e.index == id.index; });
      const auto stored =
          std::find_if(report.stored.begin(), report.stored.end(), [id](const auto& s) { return s.first == id.index; });
      if (error != report.errors.end()) {
        deliver(id, nullptr, std::make_shared<ErrorRecord>(error->error), kNoRank);
      } else if (stored != report.stored.end()) {
        deliver(id, stored->second, nullptr, kNoRank);
      } else {
        deliver(id, std::make_shared<Buffer>(value_at(id.index)), nullptr, kNoRank);
      }
    }
  }
  if (owner != objects_.rank() && range.end - range.begin == 1 && odd.empty() && !report.values->empty()) {
    retain({range.span, range.begin}, std::move(report.values));
  }
}

// The end of a task ends its hold on what it was given: what this rank holds of that must be known before.
void Worker::send_done(const core::Done& done) {
  if (objects_.has_holds()) tell_holds();
  transport_.send(kHeadRank, done);
}

void Worker::tell_holds() {
  core::Holds holds;
  objects_.drain(holds);
  if (!holds.holds.empty() || !holds.drops.empty() || !holds.spans.empty()) transport_.send(kHeadRank, holds);
}

// Objects of the range that someone here waits for.
std::vector<ObjectId> Worker::interested_in(const Range& range) const {
  std::vector<ObjectId> ids;
  if (range.end - range.begin <= interests_.size()) {
    for (std::uint32_t i = range.begin; i < range.end; ++i) {
      if (interests_.contains({range.span, i})) ids.push_back({range.span, i});
    }
  } else {
    for (const auto& entry : interests_) {
      const ObjectId id = entry.first;
      if (id.span == range.span && range.begin <= id.index && id.index < range.end) ids.push_back(id);
    }
  }
  return ids;
}

// ---- messages ----------------------------------------------------------------------------------------------------

void Worker::handle(RankId, const core::Assign& m) {
  const FunctionInfo* function = core::function_at(m.body.function);
  if (function == nullptr || m.range.begin >= m.range.end) detail::throw_damaged("it assigns no task of this program");
  const std::uint32_t n = m.range.end - m.range.begin;
  const bool fixed = function->fixed_args != kVariable && m.body.dep_mask == 0;
  if (fixed ? m.body.args.size() != std::size_t{function->fixed_args} * n
            : m.body.ends.size() != n || m.body.ends.back() != m.body.args.size() ||
                  !std::is_sorted(m.body.ends.begin(), m.body.ends.end())) {
    detail::throw_damaged("a task's arguments are not of its function's size");
  }
  if (m.deps.size() != static_cast<std::size_t>(std::popcount(m.body.dep_mask))) {
    detail::throw_damaged("a task's dependencies are not those of its arguments");
  }
  auto body = std::make_shared<Body>();
  body->function = function;
  if (m.body.has_options) {
    if (m.body.options.demands.empty()) detail::throw_damaged("a task has no demand");
    body->options = std::make_shared<core::WireOptions>(m.body.options);
  }
  body->args = Buffer(m.body.args);
  if (!fixed) body->ends = m.body.ends;
  body->base = m.range.begin;
  body->dep_mask = m.body.dep_mask;
  body->attempt = m.attempt;
  for (const auto& dep : m.deps) body->deps.push_back(dep.id);
  body->values.resize(m.deps.size());
  if (estimates_[function->index] == 0) estimates_[function->index] = m.estimate_ns;

  Piece& piece = add_piece(m.range, std::move(body));
  piece.missing = static_cast<std::uint32_t>(m.deps.size()) + 1;
  set_up(piece, m.deps);
}

void Worker::handle(RankId, const core::TakeBack& m) {
  core::GaveBack back;
  std::uint32_t left = m.tasks;
  // From the far end: what would run last.
  for (auto level = ready_.rbegin(); level != ready_.rend() && left != 0;) {
    auto& queue = level->second;
    bool gave = false;
    for (std::size_t i = 0; i < queue.size() && left != 0; ++i) {
      // Kept pieces are queued newest first, and the oldest are the largest: the far end for both.
      Piece& piece = *queue[queue.size() - 1 - i];
      // Others are kept where the head found room for what they ask.
      if (!piece.announced || !core::is_plain(piece.body->options.get())) continue;
      const std::uint32_t n = piece.range.end - piece.range.begin;
      if (n > left) {
        back.ranges.push_back({piece.range.span, piece.range.end - left, piece.range.end});
        piece.range.end -= left;
        queued_tasks_ -= left;
        left = 0;
      } else {
        back.ranges.push_back(piece.range);
        left -= n;
        erase_piece(piece);
        gave = true;
        break;  // the queue changed, or is gone
      }
    }
    if (gave) {
      level = ready_.rbegin();
    } else {
      ++level;
    }
  }
  if (back.ranges.empty()) {
    for (Run* run : running_) {
      if (run->range.end - run->range.begin > 1) run->task.stop.store(true, std::memory_order_relaxed);
    }
  }
  for (const Range& range : back.ranges) {
    for (const ObjectId& id : interested_in(range)) redirect(id);
  }
  transport_.send(kHeadRank, back);
}

void Worker::handle(RankId, const core::CancelTask& m) {
  Piece* piece = piece_with(m.id);
  if (piece == nullptr) {
    transport_.send(kHeadRank, core::CancelResult{m.token, m.id, false});
    return;
  }
  split_off(*piece, m.id.index);
  Piece& one = *piece_with(m.id);
  const ObjectId id = m.id;
  erase_piece(one);
  transport_.send(kHeadRank, core::CancelResult{m.token, id, true});
  // The head fails the task, and tells its owner; who waits here asks there.
  redirect(id);
}

// The object will not be made here after all: who waits for it here asks the head.
void Worker::redirect(ObjectId id) {
  const auto found = interests_.find(id);
  if (found == interests_.end()) return;
  for (const RankId rank : found->second.ranks) transport_.send(rank, core::NotHere{id});
  found->second.ranks.clear();
  if (found->second.pieces.empty()) {
    interests_.erase(found);
  } else {
    ask_for(id, kNoRank);
  }
}

// Makes the task of this index a piece of its own.
void Worker::split_off(Piece& piece, std::uint32_t index) {
  const Range whole = piece.range;
  const bool queued = piece.queued;
  const auto cut = [&](std::uint32_t begin, std::uint32_t end) {
    Piece& part = add_piece({whole.span, begin, end}, piece.body);
    part.kept = piece.kept;
    part.missing = piece.missing;
    part.submitted = piece.submitted;
    if (queued) {
      enqueue(part, false);
    } else {
      for (const ObjectId& dep : piece.body->deps) {
        if (const auto found = interests_.find(dep); found != interests_.end()) {
          auto& pieces = found->second.pieces;
          if (std::find(pieces.begin(), pieces.end(), &piece) != pieces.end()) pieces.push_back(&part);
        }
      }
    }
  };
  if (whole.end - whole.begin == 1) return;
  if (queued) queued_tasks_ -= whole.end - whole.begin;
  const std::uint32_t keep_to = index == whole.begin ? index + 1 : index;
  piece.range.end = keep_to;
  if (queued) queued_tasks_ += piece.range.end - piece.range.begin;
  if (index != whole.begin) cut(index, index + 1);
  if (index + 1 < whole.end) cut(index + 1, whole.end);
}

void Worker::handle(RankId, const core::AskStore& m) {
  const Store::Stats now = store_.stats();
  StoreStats stats;
  StoreUse& use = stats.ranks.emplace_back();
  use.rank = objects_.rank();
  use.node = settings_.node;
  use.host = settings_.host;
  use.capacity = now.capacity;
  use.used = now.used;
  use.touched = now.touched;
  use.pinned = now.pinned;
  use.spilled = now.spilled;
  use.largest_free = now.largest_free;
  use.objects = now.objects;
  use.copies = now.copies;
  use.fetches = fetches_;
  use.evictions = now.evictions;
  use.spills = now.spills;
  use.restores = now.restores;
  for (const Store::Item& item : store_.largest(m.largest)) {
    stats.largest.push_back(
        {core::to_string(item.id), item.size, objects_.rank(), item.in_memory, item.in_use, item.pins, {}, 0});
  }
  transport_.send(kHeadRank, core::StoreReport{m.token, core::encode_stats(stats)});
}

void Worker::handle(RankId, const core::Located& m) {
  const auto found = interests_.find(m.id);
  if (found == interests_.end() && objects_.find(m.id) == nullptr) return;
  if (m.rank == kNoRank) {
    const auto error = std::make_shared<ErrorRecord>(m.error);
    if (Record* record = objects_.find(m.id)) objects_.set_error(*record, m.id.index, error);
    deliver(m.id, nullptr, error, kNoRank);
    return;
  }
  if (found != interests_.end()) {
    found->second.asked = kNoRank;
    if (forget_if_unwanted(m.id)) return;
  }
  if (m.rank == objects_.rank()) {
    if (const ValuePtr value = value_here(m.id)) {
      arrived(m.id, value);
      return;
    }
  }
  if (Record* record = objects_.find(m.id); record != nullptr && record->mine && record->ready(m.id.index)) {
    objects_.set_large(*record, m.id.index, m.rank);
  }
  ask_for(m.id, m.rank, m.exists);
}

std::string Worker::describe() const {
  std::string text;
  for (const auto& [id, in] : interests_) {
    text += core::to_string(id) + " for " + std::to_string(in.pieces.size()) + " pieces and " +
            std::to_string(in.ranks.size()) + " ranks, ";
    text += in.asked == kNoRank ? "asked of nobody" : "asked of rank " + std::to_string(in.asked);
    text += in.receiving ? ", on its way; " : "; ";
  }
  for (const Incoming& in : incoming_) {
    text += core::to_string(in.id) + " from rank " + std::to_string(in.from) + " waits for room; ";
  }
  for (const Run* run : running_) {
    text += task_name(*run->body) + " " + core::to_string({run->range.span, run->task.next}) + " runs" +
            (run->lends ? " and waits; " : "; ");
  }
  return text + std::to_string(preparing_.size()) + " wait for pages, " + std::to_string(receiving_.size()) +
         " come, " + std::to_string(queued_tasks_) + " tasks queued, " + std::to_string(running_.size()) + " run";
}

// What was asked for on behalf of tasks that have gone elsewhere since is not chased: it may be freed by now.
bool Worker::forget_if_unwanted(ObjectId id) {
  const auto found = interests_.find(id);
  if (!found->second.pieces.empty() || !found->second.ranks.empty()) return false;
  if (Record* record = objects_.find(id)) {
    if (!record->ready(id.index)) return false;
    if (!objects_.is_here(*record, id.index)) return false;
  }
  interests_.erase(found);
  return true;
}

// A value that was asked for is here.
void Worker::arrived(ObjectId id, const ValuePtr& value) {
  if (Record* record = objects_.find(id)) {
    if (store_.has(id)) {
      objects_.set_large(*record, id.index, objects_.rank());
    } else {
      objects_.set_block(*record, id.index, value);
    }
  }
  deliver(id, value, nullptr, kNoRank);
}

void Worker::handle(RankId, const core::Keep& m) { store_.keep(m.id); }

void Worker::handle(RankId, const core::Free& m) {
  for (const ObjectId& id : m.ids) {
    objects_.free(id);
  }
}

void Worker::handle(RankId, const core::RankLost& m) {
  lost_.insert(m.rank);
  transport_.abandon(m.rank);
  store_.rank_lost(m.rank);
  std::erase_if(incoming_, [&m](const Incoming& in) { return in.from == m.rank; });
  std::erase(receiving_, m.rank);
  std::vector<ObjectId> again;
  for (auto it = interests_.begin(); it != interests_.end();) {
    std::erase(it->second.ranks, m.rank);
    if (it->second.asked == m.rank) {
      it->second.asked = kNoRank;
      it->second.receiving = false;
      again.push_back(it->first);
    }
    ++it;
  }
  for (const ObjectId& id : again) ask_for(id, kNoRank);
  for (const Range& range : m.ended) {
    Record* record = objects_.find({range.span, range.begin});
    if (record == nullptr || !record->mine || range.end > record->count()) continue;
    for (std::uint32_t i = range.begin; i < range.end; ++i) {
      if (record->ready(i)) continue;
      const ObjectId id{range.span, i};
      auto error = std::make_shared<ErrorRecord>();
      error->kind = ErrorKind::object_lost;
      error->message = "the value of object " + core::to_string(id) + " was on its way here when rank " +
                       std::to_string(m.rank) + " was lost";
      error->failure = {"", core::to_string(id), m.rank, "", 0};
      objects_.set_error(*record, i, error);
      deliver(id, nullptr, error, kNoRank);
    }
  }
}

void Worker::handle(RankId, const core::Answer& m) { answers_[m.token] = m; }

void Worker::handle(RankId, const core::Result& m) {
  const std::uint32_t n = m.range.end - m.range.begin;
  if (m.range.end <= m.range.begin) detail::throw_damaged("results of no task");
  if (m.fixed != kVariable ? m.values.size() != std::size_t{m.fixed} * n
                           : m.ends.size() != n || (n != 0 && m.ends.back() > m.values.size()) ||
                                 !std::is_sorted(m.ends.begin(), m.ends.end())) {
    detail::throw_damaged("results are not of their function's size");
  }
  Record* record = objects_.find({m.range.span, m.range.begin});
  if (record == nullptr || !record->mine) return;
  if (m.range.end > record->count()) detail::throw_damaged("results of tasks that don't exist");
  if (m.errors.empty() && m.stored.empty() && m.fixed != kVariable && m.fixed == record->packed) {
    objects_.set_packed(*record, m.range.begin, n, m.values.data());
  } else {
    std::vector<std::uint32_t> odd = m.stored;
    for (const auto& e : m.errors) odd.push_back(e.index);
    std::sort(odd.begin(), odd.end());
    auto next = odd.begin();
    for (std::uint32_t i = 0; i < n; ++i) {
      const std::uint32_t index = m.range.begin + i;
      if (next != odd.end() && *next == index) {
        ++next;
        continue;
      }
      const std::size_t from = m.fixed != kVariable ? std::size_t{i} * m.fixed : i == 0 ? 0 : m.ends[i - 1];
      const std::size_t to = m.fixed != kVariable ? from + m.fixed : m.ends[i];
      objects_.set_value(*record, index, m.values.subspan(from, to - from));
    }
    for (const auto& e : m.errors) {
      if (e.index < m.range.begin || e.index >= m.range.end) detail::throw_damaged("an error of another task");
      objects_.set_error(*record, e.index, std::make_shared<ErrorRecord>(e.error));
    }
    for (const std::uint32_t index : m.stored) {
      if (index < m.range.begin || index >= m.range.end) detail::throw_damaged("a result of another task");
      objects_.track_made(*record, index);
      objects_.set_large(*record, index, m.rank);
    }
  }
  for (const std::uint32_t index : m.holding) objects_.track_made(*record, index);
  if (interests_.empty()) return;
  for (const ObjectId& id : interested_in(m.range)) {
    const store::Slot* slot = record->slot(id.index);
    if (slot != nullptr && slot->kind == store::Slot::Kind::error) {
      const ErrorPtr error = *slot->error;
      deliver(id, nullptr, error, kNoRank);
    } else if (slot != nullptr && slot->kind == store::Slot::Kind::large && !store_.has(id)) {
      deliver(id, nullptr, nullptr, slot->at);
    } else if (const ValuePtr value = objects_.value_of(*record, id.index)) {
      deliver(id, value, nullptr, kNoRank);
    }
  }
}

void Worker::handle(RankId from, const core::Fetch& m) {
  if (const ValuePtr value = value_here(m.id)) {
    answer_fetch(from, m.id, value);
    return;
  }
  if (store_.has(m.id)) {
    interests_[m.id].ranks.push_back(from);
    store_.want(m.id);
    return;
  }
  Record* record = objects_.find(m.id);
  const store::Slot* slot = record != nullptr && record->ready(m.id.index) ? record->slot(m.id.index) : nullptr;
  if (slot != nullptr && record->mine) {
    if (slot->kind == store::Slot::Kind::error) {
      core::Data data;
      data.id = m.id;
      data.failed = true;
      data.error = **slot->error;
      transport_.send(from, data);
      return;
    }
    if (slot->kind == store::Slot::Kind::large && slot->at != objects_.rank()) {
      transport_.send(from, core::Located{m.id, slot->at, {}});
      return;
    }
  }
  // Made here, brought here, or on its way here: one fetch serves all who ask. On its way only from a rank that has it
  // for sure: ranks that wait for each other's guesses might go round in a circle.
  const auto wanted = interests_.find(m.id);
  const bool coming = wanted != interests_.end() && wanted->second.exists;
  if (coming || will_come(m.id) || (record != nullptr && record->mine && !record->ready(m.id.index))) {
    interests_[m.id].ranks.push_back(from);
    return;
  }
  transport_.send(from, core::NotHere{m.id});
}

void Worker::handle(RankId from, const core::Data& m) {
  const auto found = interests_.find(m.id);
  if (m.failed) {
    const auto error = std::make_shared<ErrorRecord>(m.error);
    if (Record* record = objects_.find(m.id); record != nullptr && !record->ready(m.id.index)) {
      objects_.set_error(*record, m.id.index, error);
    }
    deliver(m.id, nullptr, error, kNoRank);
    return;
  }
  if (m.mapped) {
    if (!store_.shares_with(from)) detail::throw_damaged("a rank of another node gives its memory to read");
    store_.add_mapped(m.id, from, m.offset, m.size);
    arrived(m.id, store_.find(m.id));
    return;
  }
  if (m.block == 0 && m.value.size() <= settings_.inline_limit) {
    arrived(m.id, std::make_shared<Buffer>(m.value));
    return;
  }
  if (m.block == 0) {
    Store::Room room;
    if (store_.take(m.value.size(), room) == Store::Verdict::given && !room.cold.empty()) {
      if (store_.commit()(room.cold)) {
        store_.committed(room.cold);
      } else {
        store_.refused(std::exchange(room, {}));
      }
    }
    room.buffer.append(m.value.data(), m.value.size());
    came(m.id, std::make_shared<Buffer>(std::move(room.buffer)));
    return;
  }
  if (found != interests_.end()) found->second.receiving = true;
  Incoming in{from, m.id, m.block, m.size, {}};
  const Record* record = objects_.find(m.id);
  if (record != nullptr && store::ObjectTable::has_waiter(*record)) {
    incoming_.push_front(std::move(in));
  } else {
    incoming_.push_back(std::move(in));
  }
  admit();
}

// A copy of a value of another node is complete.
void Worker::came(ObjectId id, const ValuePtr& value) {
  if (store_.has_news()) tell_store_news();  // an earlier copy that was dropped is told of before this one
  store_.add(id, value, Store::Role::copy);
  transport_.send(kHeadRank, core::Copied{id});
  arrived(id, store_.find(id));
}

// Lets those blocks come for which there is room, in the order in which they were announced.
void Worker::admit() {
  while (!incoming_.empty()) {
    Incoming& next = incoming_.front();
    const Store::Verdict verdict = store_.take(next.size, next.room);
    // Where everything is in use, values that tasks wait for are better beside the segment than never here; but one
    // after the other, since others may become free meanwhile.
    if (verdict == Store::Verdict::later || (verdict == Store::Verdict::never && !receiving_.empty())) return;
    Incoming in = std::move(next);
    incoming_.pop_front();
    receiving_.push_back(in.from);
    if (in.room.cold.empty()) {
      receive(std::move(in));
    } else {
      const std::uint64_t token = next_token_++;
      store_.prepare(token, in.room.cold);
      preparing_.emplace(token, std::move(in));
    }
  }
}

void Worker::prepared(std::uint64_t token, bool good) {
  auto node = preparing_.extract(token);
  Incoming& in = node.mapped();
  if (good) {
    store_.committed(in.room.cold);
  } else {
    store_.refused(std::exchange(in.room, {}));
  }
  if (!lost_.contains(in.from)) receive(std::move(in));
}

void Worker::receive(Incoming in) {
  auto buffer = std::make_shared<Buffer>(std::move(in.room.buffer));
  buffer->extend(in.size);
  transport_.receive_block(in.from, in.block, {buffer->data(), buffer->size()},
                           [this, id = in.id, from = in.from, buffer] {
                             receiving_.erase(std::find(receiving_.begin(), receiving_.end(), from));
                             came(id, buffer);
                             admit();
                           });
}

void Worker::handle(RankId from, const core::Unpin& m) { store_.unpin(m.id, from); }

void Worker::handle(RankId, const core::Recall& m) { store_.let_go(m.id); }

// What the store has to say to others, and to those who wait here.
void Worker::tell_store_news() {
  while (store_.has_news()) {
    const Store::News news = store_.take_news();
    for (const auto& [rank, id] : news.unpins) {
      if (!lost_.contains(rank)) transport_.send(rank, core::Unpin{id});
    }
    for (const auto& [rank, id] : news.recalls) transport_.send(rank, core::Recall{id});
    if (!news.dropped_copies.empty()) transport_.send(kHeadRank, core::Uncopied{news.dropped_copies});
    for (const ObjectId& id : news.restored) {
      if (const ValuePtr value = store_.find(id)) arrived(id, value);
    }
    for (const auto& [id, what] : news.broken) {
      auto error = std::make_shared<ErrorRecord>();
      error->kind = ErrorKind::object_lost;
      error->message = "the value of object " + core::to_string(id) + " was in a file of rank " +
                       std::to_string(objects_.rank()) + ", which can't be read back: " + what;
      error->failure = {"", core::to_string(id), objects_.rank(), settings_.host, 0};
      store_.erase(id);
      if (Record* record = objects_.find(id)) objects_.set_error(*record, id.index, error);
      deliver(id, nullptr, error, kNoRank);
    }
  }
}

void Worker::handle(RankId from, const core::NotHere& m) {
  const auto found = interests_.find(m.id);
  if (found == interests_.end()) return;
  found->second.asked = kNoRank;
  if (forget_if_unwanted(m.id)) return;
  if (const ValuePtr value = value_here(m.id)) {
    arrived(m.id, value);
    return;
  }
  locate(m.id, from);
}

void Worker::locate(ObjectId id, RankId not_at) {
  Interest& in = interests_[id];
  in.asked = kHeadRank;
  in.exists = false;
  MOBULA_CHECK(++in.tries < 100'000, "object " + core::to_string(id) + " can't be found");
  transport_.send(kHeadRank, core::Locate{id, not_at});
}

// ---- execution ---------------------------------------------------------------------------------------------------

std::optional<std::size_t> Worker::fitting_demand(const Body& body) const {
  constexpr double kSlack = 1e-9;
  if (!body.options) return free_.cpus >= 1 - kSlack ? std::optional<std::size_t>(0) : std::nullopt;
  const auto& demands = body.options->demands;
  for (std::size_t i = 0; i < demands.size(); ++i) {
    const auto& d = demands[i];
    bool fits = d.cpus <= free_.cpus + kSlack && d.gpus <= free_.gpus + kSlack && d.memory <= free_.memory;
    for (const auto& [name, amount] : d.resources) {
      const auto found = free_.resources.find(name);
      fits = fits && found != free_.resources.end() && amount <= found->second + kSlack;
    }
    if (fits) return i;
  }
  return std::nullopt;
}

void Worker::take(const Body& body, std::size_t demand, double sign) {
  if (demand == kBorrowed) return;
  if (!body.options) {
    free_.cpus -= sign;
    return;
  }
  const auto& d = body.options->demands[demand];
  free_.cpus -= sign * d.cpus;
  free_.gpus -= sign * d.gpus;
  if (sign > 0) free_.memory -= d.memory;
  if (sign < 0) free_.memory += d.memory;
  for (const auto& [name, amount] : d.resources) free_.resources[name] -= sign * amount;
}

bool Worker::has_runnable() const {
  if (queued_tasks_ == 0 || resuming_ > 0) return false;
  for (const auto& [priority, queue] : ready_) {
    int looked = 0;
    for (const Piece* piece : queue) {
      if (fitting_demand(*piece->body)) return true;
      if (++looked == kScan) break;
    }
  }
  return false;
}

std::unique_ptr<Run> Worker::next_run(Time now) {
  if (queued_tasks_ == 0 || resuming_ > 0) return nullptr;
  for (auto& [priority, queue] : ready_) {
    int looked = 0;
    for (Piece* piece : queue) {
      if (const auto demand = fitting_demand(*piece->body)) {
        const Body& body = *piece->body;
        const std::uint32_t size = piece->range.end - piece->range.begin;
        std::uint32_t n = 1;
        const bool one_by_one = body.options && (body.options->timeout_ns >= 0 || body.options->retry_exceptions);
        const std::uint64_t estimate = estimates_[body.function->index];
        if (size > 1 && !one_by_one && estimate != 0) {
          n = static_cast<std::uint32_t>(std::clamp<std::uint64_t>(kRunTarget / estimate, 1, size));
          // Other slots that are free take their share.
          const auto share = static_cast<std::uint32_t>(std::max<std::size_t>(free_slots_.size(), 1));
          n = std::max<std::uint32_t>(1, std::min(n, (size + share - 1) / share));
        }
        return carve(*piece, {piece->range.span, piece->range.begin, piece->range.begin + n}, *demand, now);
      }
      if (++looked == kScan) break;
    }
  }
  return nullptr;
}

std::unique_ptr<Run> Worker::claim(const Handle& handle, Run& waiter, Time now) {
  Run& lender = waiter.lender != nullptr ? *waiter.lender : waiter;
  Piece* piece = piece_with(handle.id());
  if (piece == nullptr || !piece->queued || piece->body->cpus() > waiter.body->cpus() || lender.lends) return nullptr;
  if (piece->body->options) {
    const auto& d = piece->body->options->demands.front();
    if (d.gpus != 0 || d.memory != 0 || !d.resources.empty()) return nullptr;
  }
  split_off(*piece, handle.index());
  piece = piece_with(handle.id());
  auto run = carve(*piece, piece->range, kBorrowed, now);
  run->slot = waiter.slot;
  run->lender = &lender;
  return run;
}

// Takes the range, which is the front of the piece, out as a run.
std::unique_ptr<Run> Worker::carve(Piece& piece, Range range, std::size_t demand, Time now) {
  auto run = std::make_unique<Run>();
  run->range = range;
  run->body = piece.body;
  run->announced = piece.announced;
  run->kept = piece.kept;
  run->demand = demand;
  run->started = now;
  const Body& body = *run->body;
  if (demand != kBorrowed) {
    take(body, demand, 1);
    const double cpus = body.options ? body.options->demands[demand].cpus : 1;
    for (int i = 0; i < static_cast<int>(cpus) && !free_slots_.empty(); ++i) {
      run->slots.push_back(free_slots_.back());
      free_slots_.pop_back();
    }
    run->slot = !run->slots.empty() ? run->slots.front() : 0;
  }
  if (body.options && body.options->timeout_ns >= 0) run->deadline = now + body.options->timeout_ns;
  run->task.next = range.begin;
  run->task.end = range.end;
  run->task.fixed_result = body.function->fixed_result;
  run->task.inline_limit = settings_.inline_limit;
  run->task.args = detail::Decoder(body.args_of(range.begin, range.end));
  run->task.dep_mask = body.dep_mask;
  run->task.deps = body.views;
  if (body.function->fixed_result != kVariable) {
    run->task.out.buffer.reserve(std::size_t{range.end - range.begin} * body.function->fixed_result);
  }
  run->running_at = running_.size();
  running_.push_back(run.get());

  const std::uint32_t n = range.end - range.begin;
  if (range.end == piece.range.end) {
    erase_piece(piece);
  } else {
    queued_tasks_ -= n;
    auto& of_span = pieces_[range.span];
    auto node = of_span.extract(range.begin);
    node.key() = range.end;
    node.mapped()->range.begin = range.end;
    of_span.insert(std::move(node));
  }
  core::trace(Event::started, now, range.span, range.begin, range.end, body.function->index);
  return run;
}

Failure Worker::where(const Run& run, std::uint32_t index) const {
  return {task_name(*run.body), core::to_string({run.range.span, index}), objects_.rank(), settings_.host,
          static_cast<int>(run.body->attempt)};
}

std::string Worker::task_name(const Body& body) const {
  return body.options && !body.options->name.empty() ? body.options->name : body.function->name;
}

void Worker::release(Run& run) {
  if (run.demand == kBorrowed) return;
  take(*run.body, run.demand, -1);
  if (run.lends) {  // its cpus are free already
    const double cpus = run.body->options ? run.body->options->demands[run.demand].cpus : 1;
    free_.cpus -= cpus;
    lent_ -= cpus;
    lent_changed_ = true;
  }
  free_slots_.insert(free_slots_.end(), run.slots.begin(), run.slots.end());
  run.slots.clear();
}

void Worker::finish(std::unique_ptr<Run> run, Time now) {
  running_.back()->running_at = run->running_at;
  running_[run->running_at] = running_.back();
  running_.pop_back();
  release(*run);
  detail::TaskRun& task = run->task;
  const Range ran{run->range.span, run->range.begin, task.next};
  const std::uint32_t n = ran.end - ran.begin;
  core::trace(Event::finished, now, ran.span, ran.begin, ran.end, run->body->function->index);
  if (task.next != run->range.end) {
    Piece& rest = add_piece({ran.span, task.next, run->range.end}, run->body);
    rest.kept = run->kept;
    if (!run->announced) {
      rest.announced = false;
      rest.submitted = run->started;
      rest.unannounced_at = unannounced_.size();
      unannounced_.push_back(&rest);
    }
    enqueue(rest, true);
  }
  if (n == 0 || run->expired) return;
  tasks_run_ += n;
  const Time elapsed = now - run->started;
  std::uint64_t& estimate = estimates_[run->body->function->index];
  estimate = estimate == 0 ? elapsed_per_task(elapsed, n) : (estimate * 3 + elapsed_per_task(elapsed, n)) / 4;
  if (estimate == 0) estimate = 1;

  Report report;
  report.range = ran;
  report.kept = run->kept;
  report.elapsed_ns = static_cast<std::uint64_t>(elapsed);
  report.fixed = task.fixed_result;
  for (auto& oddity : task.oddities) {
    if (oddity.error) {
      report.errors.push_back({oddity.index, core::capture(oddity.error, where(*run, oddity.index))});
    } else if (oddity.is_stored) {
      report.stored.emplace_back(oddity.index, std::make_shared<Buffer>(std::move(oddity.stored)));
    }
    if (!oddity.refs.empty()) report.refs.emplace_back(oddity.index, std::move(oddity.refs));
  }
  const bool retry = !report.errors.empty() && run->body->options && run->body->options->retry_exceptions &&
                     static_cast<int>(run->body->attempt) <= run->body->options->retries;
  if (!run->announced && (retry || !report.refs.empty())) announce_run(*run);
  report.announced = run->announced;
  // Kept tasks of one that ends must be known before its end is: the rank may be gone the moment after.
  if (report.announced && !unannounced_.empty()) announce_all();
  if (retry) {
    core::Done done;
    done.range = ran;
    done.elapsed_ns = report.elapsed_ns;
    done.errors = std::move(report.errors);
    send_done(done);
    return;
  }
  report.values = std::make_shared<Buffer>(std::move(task.out.buffer));
  report.ends = std::move(task.ends);
  send_report(std::move(report));
}

void Worker::lend(Run& of) {
  Run& run = of.lender != nullptr ? *of.lender : of;
  if (run.lends) return;
  const double cpus = run.body->options ? run.body->options->demands[run.demand].cpus : 1;
  run.lends = true;
  free_.cpus += cpus;
  free_slots_.insert(free_slots_.end(), run.slots.begin(), run.slots.end());
  run.lent_slots = run.slots.size();
  run.slots.clear();
  lent_ += cpus;
  lent_changed_ = true;
}

bool Worker::resume(Run& of) {
  Run& run = of.lender != nullptr ? *of.lender : of;
  if (!run.lends) return true;
  const double cpus = run.body->options ? run.body->options->demands[run.demand].cpus : 1;
  if (free_.cpus + 1e-9 < cpus || free_slots_.size() < run.lent_slots) return false;
  run.lends = false;
  free_.cpus -= cpus;
  lent_ -= cpus;
  lent_changed_ = true;
  for (std::size_t i = 0; i < run.lent_slots; ++i) {
    run.slots.push_back(free_slots_.back());
    free_slots_.pop_back();
  }
  if (!run.slots.empty()) run.slot = run.slots.front();
  return true;
}

// ---- progress ----------------------------------------------------------------------------------------------------

void Worker::tick(Time now) {
  store_.step();
  admit();
  for (Run* run : running_) {
    if (now - run->started > kRunLimit && run->range.end - run->range.begin > 1) {
      run->task.stop.store(true, std::memory_order_relaxed);
    }
    if (run->deadline != 0 && now >= run->deadline && !run->expired) {
      run->expired = true;
      if (!run->announced) announce_run(*run);
      Report report;
      report.range = run->range;
      report.kept = run->kept;
      report.announced = true;
      report.fixed = kVariable;
      report.values = std::make_shared<Buffer>();
      report.ends.assign(run->range.end - run->range.begin, 0);
      ErrorRecord error;
      error.kind = ErrorKind::timed_out;
      error.failure = where(*run, run->range.begin);
      error.message = "the task ran longer than its timeout of " +
                      std::to_string(static_cast<double>(run->body->options->timeout_ns) / 1e9) +
                      " s; it goes on without a reader, since a task in a rank's process can't be stopped";
      report.errors.push_back({run->range.begin, std::move(error)});
      send_report(std::move(report));
    }
  }
}

void Worker::flush(Time now) {
  if (open_.count != 0) close_open();
  if (!unannounced_.empty() && now - last_announced_ >= kAnnounceAfter) {
    announce_all();
    last_announced_ = now;
  }
  if (objects_.has_drops()) tell_holds();
  if (store_.has_news()) tell_store_news();
  if (lent_changed_) {
    lent_changed_ = false;
    if (settings_.slots != 0 && std::abs(lent_ - told_lent_) > 0.5) {
      told_lent_ = lent_;
      transport_.send(kHeadRank, core::Lending{lent_});
    }
  }
}

}  // namespace mobula::worker
