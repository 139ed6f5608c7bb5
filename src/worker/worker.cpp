#include "worker/worker.hpp"

#include <algorithm>
#include <cmath>
#include <cstring>

#include "core/cluster.hpp"
#include "core/functions.hpp"
#include "core/mark.hpp"
#include "programs/container.hpp"

// GCC takes the move of a small vector that lies in itself for one of any length.
#if defined(__GNUC__) && !defined(__clang__)
#pragma GCC diagnostic ignored "-Wstringop-overread"
#endif

namespace mobula::worker {

using core::ErrorKind;
using core::ErrorRecord;
using detail::kHeadRank;
using detail::kNoRank;
using detail::kVariable;

namespace {

constexpr Time kAnnounceAfter = 50'000;       // ns that a kept task may stay unknown to the head
constexpr std::size_t kOpenBytes = 24 << 10;  // of arguments that gather before they are sent

}  // namespace

Worker::Worker(transport::Transport& transport, store::ObjectTable& objects, Settings settings)
    : transport_(transport),
      objects_(objects),
      store_(objects.store()),
      settings_(std::move(settings)),
      free_(settings_.offers),
      waits_in_threads_(core::function_count(), false),
      estimates_(core::function_count(), 0) {
  free_.cpus = settings_.slots;
  for (int slot = static_cast<int>(settings_.slots) - 1; slot >= 0; --slot) free_slots_.push_back(slot);
  free_gpus_.assign(static_cast<std::size_t>(std::ceil(settings_.offers.gpus)), 1);
}

Worker::~Worker() = default;

// ---- client ------------------------------------------------------------------------------------------------------

void Worker::set_placement(core::WireOptions& wire, const Placement& placement) {
  wire.placement = placement.kind;
  wire.place_index = placement.index;
  if (!placement.object) return;
  wire.near = placement.object.id();
  if (open_.count != 0) close_open();
  pass_on(placement.object);
}

void Worker::set_isolation(core::WireOptions& wire, const Isolation& isolation, std::size_t memory) {
  if (std::holds_alternative<InProcess>(isolation)) return;
  wire.is_sandboxed = true;
  const auto entries = [](const std::map<std::string, std::string>& env) {
    std::vector<std::string> all;
    all.reserve(env.size());
    for (const auto& [name, value] : env) all.push_back(name + "=" + value);
    return all;
  };
  if (const auto* box = std::get_if<sandbox>(&isolation)) {
    wire.sandbox = {
        box->memory != 0 ? box->memory : memory, box->time.nanoseconds, box->cwd, entries(box->env), box->reuse, {}};
    return;
  }
  const auto& image = std::get<container>(isolation);
  if (image.image.empty()) throw std::invalid_argument("mobula: TaskOptions: the container has no image");
  if (!programs::is_runtime(image.runtime)) {
    throw std::invalid_argument("mobula: there is no container runtime named '" + image.runtime +
                                "': apptainer, charliecloud, podman and docker are known");
  }
  wire.sandbox.memory = memory;
  wire.sandbox.reuse = image.reuse;
  wire.sandbox.image = {image.image, image.binds, entries(image.env), image.gpus, image.runtime, image.reuse};
  wire.needs = core::runtime_feature(image.runtime);
}

std::shared_ptr<const core::WireOptions> Worker::wire_options(const TaskOptions* options) {
  if (options == nullptr) return nullptr;
  if (options_wire_ != nullptr && options_copy_ == *options) return options_wire_;
  auto wire = std::make_shared<core::WireOptions>();
  wire->demands.push_back(core::checked({options->cpus, options->gpus, options->memory, options->resources}));
  for (const Demand& d : options->alternatives)
    wire->demands.push_back(core::checked({d.cpus, d.gpus, d.memory, d.resources}));
  if (options->retries < 0) throw std::invalid_argument("mobula: TaskOptions::retries must not be negative");
  wire->retries = options->retries;
  wire->retry_exceptions = options->retry_exceptions;
  wire->priority = options->priority;
  wire->name = options->name;
  wire->timeout_ns = options->timeout.nanoseconds;
  wire->time_request_ns = options->time_request.nanoseconds;
  wire->durable = options->durable;
  wire->version = options->version;
  set_isolation(*wire, options->isolation, options->memory);
  set_placement(*wire, options->placement);
  if (options->placement.object) return wire;  // not kept: it would keep the object
  options_copy_ = *options;
  options_wire_ = wire;
  return wire;
}

std::shared_ptr<const core::WireOptions> Worker::actor_options(const ActorOptions& options,
                                                               const FunctionInfo& constructor) {
  auto wire = std::make_shared<core::WireOptions>();
  wire->demands.push_back(core::checked({options.cpus, options.gpus, options.memory, options.resources}));
  if (options.restarts < 0 || options.call_retries < 0 || options.concurrency == 0) {
    throw std::invalid_argument(
        "mobula: ActorOptions: restarts and call_retries must not be negative, and concurrency is at least 1");
  }
  if (!std::holds_alternative<InProcess>(options.isolation) && options.concurrency != 1) {
    throw std::invalid_argument("mobula: ActorOptions: an actor in a process of its own has concurrency 1");
  }
  if (options.checkpoint_every != 0 && ((options.restarts == 0 && !options.durable) || options.concurrency != 1)) {
    throw std::invalid_argument(
        "mobula: ActorOptions: checkpoint_every needs restarts or durable, and concurrency = 1");
  }
  if (options.durable && (options.name.empty() || options.checkpoint_every == 0)) {
    throw std::invalid_argument("mobula: ActorOptions: durable needs a name and checkpoint_every");
  }
  if (options.durable && core::has_twin(*constructor.klass)) {
    throw std::invalid_argument(
        "mobula: ActorOptions: durable needs a class with a name of its own, and there are two " +
        constructor.klass->name);
  }
  if (options.checkpoint_every != 0 && constructor.klass->save == nullptr) {
    throw std::invalid_argument("mobula: ActorOptions: checkpoint_every needs a class with a serialize, and " +
                                constructor.klass->name + " has none");
  }
  wire->is_actor = true;
  wire->actor = {options.name,
                 options.get_if_exists,
                 options.detached,
                 options.restarts,
                 options.concurrency,
                 {options.max_pending, options.call_retries, options.checkpoint_every != 0 ? 1U : 0U},
                 constructor.klass->index,
                 options.checkpoint_every,
                 options.durable};
  set_isolation(*wire, options.isolation, options.memory);
  set_placement(*wire, options.placement);
  return wire;
}

std::shared_ptr<const core::WireOptions> Worker::gang_options(const TaskOptions* options, std::uint32_t members) {
  const TaskOptions ordinary;
  auto wire = std::make_shared<core::WireOptions>(*wire_options(options != nullptr ? options : &ordinary));
  if (wire->is_sandboxed)
    throw std::invalid_argument(
        "mobula: a gang can't run in a sandbox or a container of its own, where there is no MPI");
  if (wire->durable) throw std::invalid_argument("mobula: a gang can't be durable; keep what it gives");
  if (wire->placement == Placement::Kind::bundle) {
    throw std::invalid_argument("mobula: a gang can't run in a bundle, which is on one rank");
  }
  wire->gang = members;
  return wire;
}

// In another job it must be found again.
void Worker::check_durable(const FunctionInfo& function, const core::WireOptions* options,
                           const detail::Draft::State& draft) {
  if (options == nullptr || !options->durable) return;
  if (core::has_twin(function)) {
    throw std::invalid_argument(
        "mobula: a durable task is found again by its function's name, and the program has two " +
        std::string(function.signature) + ": make it a function with a name of its own");
  }
  if (draft.args.refs.empty()) return;
  throw std::invalid_argument(
      "mobula: a durable task is found again by its arguments, so they can't hold Refs; one for the argument itself "
      "may "
      "be a Ref");
}

// Tasks that this rank may run by itself: an ordinary demand, and no wish about the place.
bool Worker::keeps(const core::WireOptions* options) const {
  if (settings_.slots == 0) return false;
  if (options == nullptr) return true;
  const auto& d = options->demands.front();
  return !options->is_actor && options->placement == Placement::Kind::any && options->demands.size() == 1 &&
         options->needs.empty() && d.cpus <= settings_.slots && d.gpus == 0 && d.memory == 0 && d.resources.empty() &&
         options->time_request_ns < 0;
}

Handle Worker::submit(const FunctionInfo& function, const TaskOptions* options, detail::Draft::State& draft,
                      bool in_task, Time now) {
  auto wire = wire_options(options);
  check_durable(function, wire.get(), draft);
  const bool simple = draft.dep_mask == 0 && draft.args.refs.empty();
  const By by = submitted_by(in_task, wire.get());
  has_sent_last_ = by != By::keeper;
  if (by == By::keeper) {
    Handle handle = objects_.mint();
    const ObjectId id = handle.id();
    auto body = std::make_shared<Body>();
    body->function = &function;
    body->options = std::move(wire);
    body->args = Buffer(draft.args.buffer.view());
    body->base = id.index;
    body->ends = ends_of(function, draft);
    body->dep_mask = draft.dep_mask;
    for (const Handle& dep : draft.deps) body->deps.push_back(dep.id());
    body->keep = draft.deps;
    body->keep.insert(body->keep.end(), draft.args.refs.begin(), draft.args.refs.end());
    keep_piece({id.span, id.index, id.index + 1}, std::move(body), now);
    return handle;
  }
  if (simple) {
    const bool fits = open_.count != 0 && !open_.is_call && open_.function == &function && open_.options == wire;
    if (!fits && open_.count != 0) close_open();
    Handle handle = objects_.mint();
    const ObjectId id = handle.id();
    close_open_unless_before(id);
    if (open_.count == 0) {
      open_.function = &function;
      open_.options = std::move(wire);
      open_.range = {id.span, id.index, id.index};
    }
    open_.in_task = open_.in_task || in_task;
    objects_.know(*handle.record());
    add_to_open(id, draft);
    return handle;
  }
  if (open_.count != 0) close_open();
  Handle handle = objects_.mint();
  submit_alone(handle, function, wire.get(), draft, in_task);
  return handle;
}

// What is open goes on with the object only if it is the next: ids of one piece are consecutive.
void Worker::close_open_unless_before(ObjectId id) {
  if (open_.count != 0 && (id.span != open_.range.span || id.index != open_.range.end)) close_open();
}

void Worker::add_to_open(ObjectId id, const detail::Draft::State& draft) {
  open_.args.append(draft.args.buffer.data(), draft.args.buffer.size());
  if (open_.function->fixed_args == kVariable) open_.ends.push_back(static_cast<std::uint32_t>(open_.args.size()));
  ++open_.count;
  open_.range.end = id.index + 1;
  if (open_.args.size() > kOpenBytes) close_open();
}

// Where the one task's arguments end, if its function's are not of one size.
core::Ends Worker::ends_of(const FunctionInfo& function, const detail::Draft::State& draft) {
  if (function.fixed_args != kVariable && draft.dep_mask == 0) return {};
  return {static_cast<std::uint32_t>(draft.args.buffer.size())};
}

void Worker::submit_alone(const Handle& handle, const FunctionInfo& function, const core::WireOptions* options,
                          const detail::Draft::State& draft, bool in_task) {
  core::Ids deps = pass_on_all(draft.deps);
  core::Ids refs = pass_on_all(draft.args.refs);
  const ObjectId id = handle.id();
  objects_.know(*handle.record());
  send_submit({id.span, id.index, id.index + 1}, in_task ? By::task : By::driver, function, options, draft.dep_mask,
              draft.args.buffer.view(), ends_of(function, draft), std::move(deps), std::move(refs));
}

void Worker::submit_items(Record& batch, std::uint32_t begin, std::uint32_t n, const FunctionInfo& function,
                          const TaskOptions* options, std::uint64_t shared_mask, std::span<const Handle> shared,
                          detail::Draft::State& draft, std::vector<std::uint32_t>& ends, bool in_task, Time now) {
  auto wire = wire_options(options);
  check_durable(function, wire.get(), draft);
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
  const By by = submitted_by(in_task, wire.get());
  has_sent_last_ = by != By::keeper;
  submit_stretch({batch.id, begin, begin + n}, function, std::move(wire), mask, std::move(deps), draft.args.refs,
                 draft.args.buffer.view(), ends, by, now);
}

// `mask`: the arguments that are dependencies, `deps` in their order; `refs`: what the others hold. By a keeper: this
// rank runs the tasks unless others take them.
void Worker::submit_stretch(const Range& range, const FunctionInfo& function,
                            std::shared_ptr<const core::WireOptions> options, std::uint64_t mask,
                            std::vector<Handle> deps, std::span<const Handle> refs, ByteView args,
                            std::span<const std::uint32_t> ends, By by, Time now) {
  if (by == By::keeper) {
    auto body = std::make_shared<Body>();
    body->function = &function;
    body->options = std::move(options);
    body->args = Buffer(args);
    body->ends.assign(ends.begin(), ends.end());
    body->base = range.begin;
    body->dep_mask = mask;
    for (const Handle& dep : deps) body->deps.push_back(dep.id());
    body->keep = std::move(deps);
    body->keep.insert(body->keep.end(), refs.begin(), refs.end());
    keep_piece(range, std::move(body), now);
    announce_all();  // pieces of several tasks are for others to take
    return;
  }
  core::Ids dep_ids = pass_on_all(deps);
  send_submit(range, by, function, options.get(), mask, args, ends, std::move(dep_ids), pass_on_all(refs));
}

Handle Worker::reduce(const FunctionInfo& fold, FoldValues values, const TaskOptions* options, bool in_task) {
  auto wire = wire_options(options);
  check_durable(fold, wire.get(), {});
  return folds_.start({&fold, std::move(wire), options != nullptr ? options->placement.object : Handle(), in_task},
                      std::move(values));
}

// What the head waits for is told to it at once: it has no other word of how that ends.
void Worker::submit_folds(const FoldKind& kind, FoldTasks tasks) {
  if (open_.count != 0) close_open();
  Record& record = *objects_.find({tasks.results.span, tasks.results.begin});
  objects_.know(record);
  By by = submitted_by(kind.in_task, kind.options.get());
  if (by == By::keeper && objects_.is_tracked(record, tasks.results.begin)) by = By::task;
  submit_stretch(tasks.results, *kind.function, kind.options, tasks.dep_mask, std::move(tasks.deps), {},
                 tasks.args.view(), tasks.ends, by, now_);
}

void Worker::fail_own(ObjectId id, bool promised, const ErrorPtr& error) {
  if (Record* record = objects_.find(id)) objects_.set_error(*record, id.index, error);
  if (promised) send_done({{id.span, id.index, id.index + 1}, 0, {{id.index, *error}}, {}, {}});
  deliver(id, nullptr, error, kNoRank);
}

void Worker::submit_gang(Record& batch, std::uint32_t members, const FunctionInfo& function, const TaskOptions* options,
                         const detail::Draft::State& draft, bool in_task) {
  const auto wire = gang_options(options, members);
  has_sent_last_ = true;
  if (open_.count != 0) close_open();
  objects_.append(batch, members);
  objects_.know(batch);
  core::Ids deps = pass_on_all(draft.deps);
  send_submit({batch.id, 0, members}, in_task ? By::task : By::driver, function, wire.get(), draft.dep_mask,
              draft.args.buffer.view(), ends_of(function, draft), std::move(deps), pass_on_all(draft.args.refs));
}

Handle Worker::put(detail::Encoder&& value) {
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
  if (open.is_call) {
    const auto call = find_call({open.range.span, open.range.begin});
    call->second.range.end = open.range.end;
    call->second.left = open.count;
    dispatch_call(call->second, open.args.view(), open.ends);
    return;
  }
  send_submit(open.range, open.in_task ? By::task : By::driver, *open.function, open.options.get(), 0, open.args.view(),
              open.ends, {}, {});
}

void Worker::send_submit(const Range& range, By by, const FunctionInfo& function, const core::WireOptions* options,
                         std::uint64_t mask, ByteView args, std::span<const std::uint32_t> ends, core::Ids deps,
                         core::Ids refs) {
  core::Submit submit;
  submit.range = range;
  submit.kept = by == By::keeper;
  submit.nested = by != By::driver;
  submit.body.function = function.index;
  submit.body.dep_mask = mask;
  submit.body.args = args;
  submit.body.ends.assign(ends.begin(), ends.end());
  submit.body.has_options = options != nullptr;
  if (options != nullptr) submit.body.options = *options;
  submit.deps = std::move(deps);
  submit.refs = std::move(refs);
  if (options != nullptr && options->placement == Placement::Kind::bundle) submit.refs.push_back(options->near);
  // What the driver submits waits for room at the head by itself.
  if (by == By::task || (by == By::driver && objects_.rank() != kHeadRank)) sent_.add(range, args.size());
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
  if (const auto call = find_call(id); call != calls_.end()) {
    announce_call(call->second, id.index);
    objects_.track(record, id.index);
    return;
  }
  if (const FunctionInfo* fold = folds_.promise(id)) {
    transport_.send(kHeadRank, core::Promised{id, fold->index});
    objects_.track(record, id.index);
    return;
  }
  if (Piece* piece = piece_with(id); piece != nullptr && !piece->announced) announce(*piece);
  running_.any_with(id, [this](Run& run) {
    if (!run.announced) announce_run(run);
    return false;
  });
  objects_.track(record, id.index);
}

core::Ids Worker::pass_on_all(std::span<const Handle> handles) {
  core::Ids ids;
  ids.reserve(handles.size());
  for (const Handle& handle : handles) {
    pass_on(handle);
    ids.push_back(handle.id());
  }
  return ids;
}

void Worker::keep_piece(const Range& range, std::shared_ptr<Body> body, Time now) {
  constexpr std::size_t kBooks = sizeof(Piece) + sizeof(Body) + 128;  // bytes that a piece takes beside its arguments
  body->share.all = &kept_bytes_;
  body->share.bytes = body->args.size() + kBooks;
  kept_bytes_ += body->share.bytes;
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
  fail_after([&] {
    for (std::size_t i = 0; i < piece.body->deps.size(); ++i) {
      resolve(piece, i, sources.empty() ? nullptr : &sources[i]);
    }
    dep_ready(piece, {}, nullptr);
  });
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
  count_cpus(run);
  MOBULA_MARK("worker: a task is announced while it runs");
  announce_body(run.range, *run.body);
}

// To name what the tasks were given may close what is open, and a call that is sent so late may fail, and with it
// pieces that depend on it: these are erased only afterwards.
void Worker::announce_body(const Range& range, const Body& body) {
  if (Record* record = objects_.find({range.span, range.begin})) objects_.know(*record);
  const std::span<const Handle> keep = body.keep;
  fail_after([&] {
    core::Ids deps = pass_on_all(keep.first(body.deps.size()));
    send_submit(range, By::keeper, *body.function, body.options.get(), body.dep_mask,
                body.args_of(range.begin, range.end), body.ends, std::move(deps),
                pass_on_all(keep.subspan(body.deps.size())));
  });
}

void Worker::announce_all() {
  // Oldest first, so that the head hands out the largest parts of a recursion.
  std::vector<Piece*> pieces = unannounced_;
  std::sort(pieces.begin(), pieces.end(), [](const Piece* a, const Piece* b) { return a->submitted < b->submitted; });
  fail_after([&] {
    for (Piece* piece : pieces) announce(*piece);
  });
}

std::uint64_t Worker::ask(core::Question question, ObjectId id, core::WireOptions options, bool in_task) {
  core::Ask ask{next_token_++, question, id, std::move(options), in_task};
  if (open_.count != 0) close_open();
  // What was let go of before is gone when the head answers: names, places, groups, resources.
  if (objects_.has_drops()) tell_holds();
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

// ---- messages ----------------------------------------------------------------------------------------------------

// What a message says of tasks. Throws ProtocolError.
std::shared_ptr<Body> Worker::body_of(const core::TaskBody& sent, const Range& range,
                                      std::span<const core::DepSource> deps, FunctionInfo::Kind kind) {
  const auto [function, fixed] = core::check_tasks(sent, range, deps.size(), kind);
  auto body = std::make_shared<Body>();
  body->function = &function;
  if (sent.has_options) body->options = std::make_shared<core::WireOptions>(sent.options);
  body->args = Buffer(sent.args);
  if (!fixed) body->ends = sent.ends;
  body->base = range.begin;
  body->dep_mask = sent.dep_mask;
  for (const auto& dep : deps) body->deps.push_back(dep.id);
  body->values.resize(deps.size());
  return body;
}

void Worker::handle(RankId, const core::Assign& m) {
  auto body = body_of(m.body, m.range, m.deps, core::kind_of(m.body));
  body->attempt = m.attempt;
  body->lenders = m.lenders;
  body->checkpoint = Buffer(m.checkpoint);
  if (body->options && body->options->gang != 0) {
    if (m.range.end - m.range.begin != 1) detail::throw_damaged("a rank is to be two members of a gang");
    body->gang = std::make_unique<core::GangPart>(m.gang);
    const auto [member, is_first] = members_.try_emplace(m.gang.gang);
    if (!is_first) detail::throw_damaged("a rank is to be two members of a gang");
    member->second.range = m.range;
    member->second.place = m.gang.place;
  }
  if (estimates_[m.body.function] == 0) estimates_[m.body.function] = m.estimate_ns;

  Piece& piece = add_piece(m.range, std::move(body));
  piece.missing = static_cast<std::uint32_t>(m.deps.size()) + 1;
  set_up(piece, m.deps);
}

void Worker::handle(RankId, const core::TakeBack& m) {
  constexpr int kLook = 64;  // pieces at a far end that can't be given, before that level is left
  unpark();
  core::GaveBack back;
  const auto give = [&](const Range& range, const Piece& piece) {
    back.ranges.push_back(range);
    if (piece.kept) sent_.add(range, piece.body->args_of(range.begin, range.end).size());
  };
  std::uint32_t left = m.tasks;
  std::vector<Piece*> whole;
  // From the far end: what would run last. Kept pieces are queued newest first, and the oldest are the largest: the far
  // end for both.
  for (auto level = ready_.rbegin(); level != ready_.rend() && left != 0; ++level) {
    int looked = 0;
    for (Piece* piece = level->second.back(); piece != nullptr && left != 0 && looked != kLook; piece = piece->before) {
      // Others were given to this rank since it had room for what they ask: cpus that a task lent, perhaps, which has
      // gone on since and may compute, or wait inside MPI, for long.
      const core::WireOptions* options = piece->body->options.get();
      const bool may_go = piece->kept || core::is_plain(options) || cpus_of(*piece->body) > free_.cpus + 1e-9;
      if (!piece->may_go_back() || !may_go) {
        ++looked;
        continue;
      }
      const std::uint32_t n = piece->range.end - piece->range.begin;
      if (n <= left) {
        whole.push_back(piece);
        left -= n;
        continue;
      }
      give({piece->range.span, piece->range.end - left, piece->range.end}, *piece);
      piece->range.end -= left;
      queued_tasks_ -= left;
      left = 0;
    }
  }
  if (m.waiting) {
    for (const auto& [id, in] : interests_) {
      for (Piece* piece : in.pieces) {
        const bool stays = m.keeps_wide && !piece->body->lenders.empty();
        if (piece->may_go_back() && !stays) whole.push_back(piece);
      }
    }
    // In a fixed order, so that a simulated run repeats exactly; each once.
    const auto first = [](const Piece* piece) { return std::pair(piece->range.span, piece->range.begin); };
    std::sort(whole.begin(), whole.end(), [&](const Piece* a, const Piece* b) { return first(a) < first(b); });
    whole.erase(std::unique(whole.begin(), whole.end()), whole.end());
  }
  for (Piece* piece : whole) {
    give(piece->range, *piece);
    const bool waits = piece->missing != 0;
    const core::Ids deps = waits ? piece->body->deps : core::Ids();
    erase_piece(*piece);
    for (const ObjectId& id : deps) {
      const auto in = interests_.find(id);
      if (in != interests_.end() && in->second.asked == kNoRank && !in->second.receiving) forget_if_unwanted(id);
    }
  }
  if (back.ranges.empty()) {
    for (Run* run : running_.all()) {
      if (run->range.end - run->range.begin > 1) run->task.stop.store(true, std::memory_order_relaxed);
    }
  }
  for (const Range& range : back.ranges) {
    for (const ObjectId& id : interested_in(range)) redirect(id);
  }
  transport_.send(kHeadRank, back);
}

void Worker::stop_running() {
  for (Run* run : running_.all()) {
    if (run->body->stops()) run->task.stop.store(true, std::memory_order_relaxed);
  }
}

void Worker::handle(RankId, const core::CancelTask& m) {
  unpark();  // what is taken apart is not parked
  // The head fails what was promised to it, and tells this rank as the owner.
  if (const bool folds = folds_.cancel(m.id); folds || find_call(m.id) != calls_.end()) {
    transport_.send(kHeadRank, core::CancelResult{m.token, m.id, folds});
    return;
  }
  Piece* piece = piece_with(m.id);
  const bool stopped = running_.any_with(m.id, [](Run& run) {
    if (run.range.end - run.range.begin != 1 || !run.body->stops() || run.expired) return false;
    run.task.stop.store(true, std::memory_order_relaxed);
    run.expired = true;
    return true;
  });
  if (stopped) {
    transport_.send(kHeadRank, core::CancelResult{m.token, m.id, true});
    redirect(m.id);
    return;
  }
  if (piece == nullptr || piece->body->actor != nullptr) {
    transport_.send(kHeadRank, core::CancelResult{m.token, m.id, false});
    return;
  }
  split_off(*piece, m.id.index);
  Piece& one = *piece_with(m.id);
  MOBULA_MARK("worker: a task is cancelled before it begins");
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
  send_away(id, found->second);
  if (found->second.pieces.empty() && !is_awaited(id)) {
    interests_.erase(found);
  } else {
    ask_for(id, kNoRank);
  }
}

void Worker::send_away(ObjectId id, Interest& in) {
  if (!in.ranks.empty()) MOBULA_MARK("worker: ranks that wait for a value are sent on");
  for (const Asker& asker : in.ranks) transport_.send(asker.rank, core::NotHere{id});
  in.ranks.clear();
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
  for (const Run* run : running_.all()) {
    text += task_name(*run->body) + " " + core::to_string({run->range.span, run->task.next}) + " runs" +
            (run->lends ? " and waits; " : "; ");
  }
  return text + std::to_string(preparing_.size()) + " wait for pages, " + std::to_string(receiving_.size()) +
         " come, " + std::to_string(queued_tasks_) + " tasks queued, " + std::to_string(running_.size()) + " run";
}

void Worker::handle(RankId, const core::RankLost& m) {
  constexpr Time kPatience = 2'000'000'000;
  if (m.left && transport_.is_behind(m.rank, m.frames)) {
    MOBULA_MARK("worker: a rank has left, and its last words are on their way");
    late_losses_.push_back({m, now_ + kPatience});
  } else {
    rank_lost(m);
  }
}

void Worker::see_to_late_losses(Time now) {
  for (LateLoss& late : std::exchange(late_losses_, {})) {
    if (now < late.until && transport_.is_behind(late.message.rank, late.message.frames)) {
      late_losses_.push_back(std::move(late));
      continue;
    }
    // Where it said more than has come, it is a loss like others.
    late.message.left = !transport_.is_behind(late.message.rank, late.message.frames);
    rank_lost(late.message);
  }
}

void Worker::leave(Time grace) { transport_.send(kHeadRank, core::Leave{grace}); }

void Worker::rank_lost(const core::RankLost& m) {
  lost_.insert(m.rank);
  transport_.abandon(m.rank);
  store_.rank_lost(m.rank);
  std::erase_if(incoming_, [&m](const Incoming& in) { return in.from == m.rank; });
  std::erase(receiving_, m.rank);
  // What it was to hand over is lost with it, and made again where somebody asks for it.
  std::erase_if(adopting_, [&m](const auto& adopted) { return adopted.second == m.rank; });
  std::vector<ObjectId> again;
  for (auto it = interests_.begin(); it != interests_.end();) {
    std::erase_if(it->second.ranks, [&m](const Asker& asker) { return asker.rank == m.rank; });
    const bool was_asked = it->second.asked == m.rank;
    if (was_asked) {
      it->second.asked = kNoRank;
      it->second.receiving = false;
    }
    // Only the lost rank may have asked for what is made here, or is this one's, and nobody here waits for it.
    const bool is_wanted = !it->second.pieces.empty() || !it->second.ranks.empty() || it->second.asked != kNoRank ||
                           it->second.receiving || it->second.value || adopting_.contains(it->first) ||
                           is_awaited(it->first);
    if (was_asked && is_wanted) again.push_back(it->first);
    it = is_wanted ? std::next(it) : interests_.erase(it);
  }
  for (const ObjectId& id : again) ask_for(id, kNoRank);
  callers_lost(m.rank);
  actors_lost(m.rank, m.left);
  if (m.ended.empty()) return;
  core::Unheard unheard{m.rank, {}};
  for (const Range& range : m.ended) {
    sent_.ended(range);
    Record* record = objects_.find({range.span, range.begin});
    if (record == nullptr || !record->mine || range.end > record->count()) continue;
    for (std::uint32_t i = range.begin; i < range.end; ++i) {
      const ObjectId id{range.span, i};
      if (record->ready(i) || (!objects_.is_held(id) && !objects_.is_tracked(*record, i))) continue;
      objects_.track(*record, i);
      MOBULA_MARK("worker: a lost rank has not sent all that it had made");
      unheard.ids.push_back(id);
    }
  }
  transport_.send(kHeadRank, unheard);
}

void Worker::handle(RankId, const core::Answer& m) { answers_[m.token] = m; }

void Worker::handle(RankId sender, const core::Result& m) {
  const std::uint32_t n = m.range.end - m.range.begin;
  if (m.range.end <= m.range.begin) detail::throw_damaged("results of no task");
  // What of these is wrong would be told to the head in this rank's name.
  const auto check = [&m](std::uint32_t index) {
    if (index < m.range.begin || index >= m.range.end) detail::throw_damaged("a result of another task");
  };
  for (const auto& error : m.errors) check(error.index);
  for (const auto& stored : m.stored) check(stored.index);
  for (const std::uint32_t index : m.holding) check(index);
  for (const core::Hold& held : m.refs) {
    check(held.index);
    if (!is_rank(held.object.span.owner())) detail::throw_damaged("a ref names a rank that does not exist");
  }
  const bool names_place = !m.stored.empty() || !m.refs.empty();
  if (names_place && m.rank != sender) detail::throw_damaged("results are to lie at another rank than their sender");
  if (m.fixed != kVariable ? m.values.size() != std::size_t{m.fixed} * n
                           : m.ends.size() != n || (n != 0 && m.ends.back() > m.values.size()) ||
                                 !std::is_sorted(m.ends.begin(), m.ends.end())) {
    detail::throw_damaged("results are not of their function's size");
  }
  if (m.range.span.owner() == objects_.rank()) sent_.ended(m.range);
  Record* record = objects_.find({m.range.span, m.range.begin});
  if (record == nullptr || !record->mine) {
    MOBULA_MARK("worker: results come that nobody holds");
    for (const ObjectId& id : interested_in(m.range)) redirect(id);
    return;
  }
  if (m.range.end > record->count()) detail::throw_damaged("results of tasks that don't exist");
  if (m.errors.empty() && m.stored.empty() && m.fixed != kVariable && m.fixed == record->packed) {
    objects_.set_packed(*record, m.range.begin, n, m.values.data());
  } else {
    std::vector<std::uint32_t> odd;
    for (const auto& stored : m.stored) odd.push_back(stored.index);
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
    for (const auto& e : m.errors) objects_.set_error(*record, e.index, std::make_shared<ErrorRecord>(e.error));
    for (const auto& [index, size] : m.stored) {
      objects_.track_made(*record, index);
      objects_.set_large(*record, index, m.rank);
    }
  }
  for (const std::uint32_t index : m.holding) objects_.track_made(*record, index);
  if (!calls_.empty()) call_results(m);
  if (!remotes_.empty()) actors_made(m.range);
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
    } else {
      redirect(id);  // nobody holds it any more, so those who asked have no use for it either
    }
  }
}

// ---- progress ----------------------------------------------------------------------------------------------------

// The run ends after the task that it is at, and others may have those behind that.
void Worker::end_early(Run& run) {
  if (run.range.end - run.task.next <= 1) return;
  run.task.stop.store(true, std::memory_order_relaxed);
  // A thread moves on before it looks whether it is to stop. So after the barrier it is at the task that it shows, or
  // has ended that one and sees that it is to stop before the next. It may do so at any moment: one look is all.
  if (run.body->actor != nullptr || !settings_.fence()) return;
  const std::uint32_t next = run.task.next;
  if (run.range.end - next > 1) give_back_rest(run, next + 1);
}

// A run that takes long. Returns when to look at it again; 0: never.
Time Worker::look_at(Run& run, Time now) {
  Time next = 0;
  const auto again = [&next](Time time) { next = next == 0 ? time : std::min(next, time); };
  if (now - run.started <= Runs::kRunLimit) {
    again(run.started + Runs::kRunLimit + 1);
  } else if (!run.is_long) {
    run.is_long = true;
    if (!run.announced) announce_run(run);
    MOBULA_MARK("worker: a run takes long");
    end_early(run);
  }
  if (run.deadline != 0 && !run.expired) {
    if (now >= run.deadline) {
      time_out(run);
    } else {
      again(run.deadline);
    }
  }
  if (run.body->actor != nullptr) {
    if (run.waiting != 0) tell_blocked(run, now);
    again(now + kBlockedAfter);
  }
  return next;
}

void Worker::time_out(Run& run) {
  MOBULA_MARK("worker: a task has timed out");
  run.expired = true;
  if (!run.announced) announce_run(run);
  ErrorRecord error;
  error.kind = ErrorKind::timed_out;
  error.failure = where(run, run.range.begin);
  error.message =
      "the task ran longer than its timeout of " +
      std::to_string(static_cast<double>(run.body->options->timeout_ns) / 1e9) +
      (run.body->stops() ? " s" : " s; it goes on without a reader, since a task in a rank's process can't be stopped");
  if (run.body->stops()) run.task.stop.store(true, std::memory_order_relaxed);
  if (const auto& part = run.body->gang) {
    tell_member(members_.at(part->gang), part->gang, core::MemberState::timed_out, error);
  } else {
    run.overtime = ++overtimes_;
    Report report = failed(run.range, error);  // tasks with a timeout run one by one
    report.overtime = run.overtime;
    send_report(std::move(report));
  }
}

void Worker::tick(Time now) {
  now_ = now;
  if (!late_losses_.empty()) see_to_late_losses(now);
  if (leaves_) tell_saved();
  store_.step();
  admit();
  running_.for_each_due(now, [&](Run& run) { return look_at(run, now); });
  if (!members_.empty()) check_members(now);
}

void Worker::flush(Time now) {
  if (open_.count != 0) close_open();
  if (!unannounced_.empty() && now - last_announced_ >= kAnnounceAfter) {
    announce_all();
    last_announced_ = now;
  }
  if (objects_.has_drops()) tell_holds();
  if (folds_.has_work()) {
    now_ = now;
    folds_.step();
    if (objects_.has_drops()) tell_holds();  // of what has been folded
  }
  if (store_.has_news()) tell_store_news();
  if (lent_changed_) tell_lent();
}

// What is lent no more is to be known before the end of whoever lent it.
void Worker::tell_less_lent() {
  if (unused_ < told_.cpus || unused_of_members_ < told_.of_members || beside_ < told_.beside) tell_lent();
}

void Worker::tell_lent() {
  lent_changed_ = false;
  const core::Lending news{unused_, unused_of_members_, beside_};
  if (settings_.slots == 0 || news == told_) return;
  told_ = news;
  transport_.send(kHeadRank, news);
}

}  // namespace mobula::worker
