// The type-erased core of the public API, on the engine of this process.
#include "mobula/detail/core.hpp"

#include <algorithm>

#include "api/runtime.hpp"
#include "core/cluster.hpp"
#include "core/functions.hpp"
#include "nursery/nursery.hpp"

namespace mobula::detail {

using exec::Engine;
using Lock = exec::Engine::Lock;

namespace {

core::Time deadline_of(Duration timeout) {
  return timeout.is_none() ? Engine::kNever : core::now() + timeout.nanoseconds;
}

std::string seconds(Duration d) { return std::to_string(static_cast<double>(d.nanoseconds) / 1e9) + " s"; }

core::Answer ask(core::Question question, ObjectId id, core::WireOptions options = {}) {
  return api::engine().ask(question, id, std::move(options));
}

// Demands that are not the ordinary one are checked where they are submitted, once each.
void check_feasible(const TaskOptions* options) {
  if (options == nullptr) return;
  const bool ordinary =
      options->cpus <= 1 && options->gpus == 0 && options->memory == 0 && options->resources.empty() &&
      options->time_request.is_none() && !std::holds_alternative<container>(options->isolation) &&
      options->placement.kind != Placement::Kind::on_node && options->placement.kind != Placement::Kind::bundle &&
      options->placement.kind != Placement::Kind::on_rank;
  if (ordinary) return;
  thread_local TaskOptions feasible;  // the last that was found so
  if (options->time_request.is_none() && feasible == *options) return;
  std::shared_ptr<const core::WireOptions> wire;
  {
    Engine& engine = api::engine();
    const Lock lock(engine);
    wire = engine.worker().wire_options(options);
  }
  api::require_feasible(*wire);
  feasible = *options;
  feasible.placement.object = {};
}

}  // namespace

}  // namespace mobula::detail

namespace mobula::api {

void require_feasible(const core::WireOptions& options) {
  const core::Answer answer = detail::ask(core::Question::feasible, {}, options);
  if (!answer.yes) throw Infeasible("mobula: " + answer.text);
}

}  // namespace mobula::api

namespace mobula::detail {

// ---- submission --------------------------------------------------------------------------------------------------

namespace {
thread_local std::vector<std::unique_ptr<Draft::State>> t_drafts;
}

void throw_empty_argument() {
  throw std::invalid_argument("mobula: an argument is an empty Ref, which refers to nothing");
}

Draft::Draft() {
  if (t_drafts.empty()) {
    state_ = new State;
  } else {
    state_ = t_drafts.back().release();
    t_drafts.pop_back();
  }
}

Draft::~Draft() {
  state_->args.buffer.clear();
  state_->args.refs.clear();
  state_->dep_mask = 0;
  state_->deps.clear();
  t_drafts.emplace_back(state_);
}

// For each argument: whether the job is still open is looked at when the task is submitted.
std::size_t inline_limit() {
  const Engine* const engine = api::engine_or_null();
  return (engine != nullptr ? *engine : api::engine()).settings().worker.inline_limit;
}

Handle submit(const FunctionInfo& function, const TaskOptions* options, Draft::State& draft) {
  Engine& engine = api::engine();
  check_feasible(options);
  Lock lock(engine);
  const bool in_task = engine.callers_run() != nullptr;
  Handle handle = engine.worker().submit(function, options, draft, in_task, in_task ? core::now() : 0);
  engine.submitted(lock, 1);
  engine.wait_for_room(lock);
  return handle;
}

namespace {

// What a task that would hold as much asks for.
TaskOptions as_task(const ActorOptions& options) {
  TaskOptions task;
  task.cpus = options.cpus;
  task.gpus = options.gpus;
  task.memory = options.memory;
  task.resources = options.resources;
  task.placement = options.placement;
  task.isolation = options.isolation;
  return task;
}

core::FoundActor decode_found(const std::string& text) {
  core::FoundActor found;
  core::WireReader in(ByteView(reinterpret_cast<const std::byte*>(text.data()), text.size()));
  found.fields(in);
  return found;
}

ActorBase adopt(Engine& engine, const std::string& text) {
  const core::FoundActor found = decode_found(text);
  const Lock lock(engine);
  return {engine.worker().adopt(found.id), found.limits};
}

}  // namespace

ActorBase create_actor(const FunctionInfo& constructor, const ActorOptions* given, Draft::State& draft) {
  Engine& engine = api::engine();
  const ActorOptions ordinary;
  const ActorOptions& options = given != nullptr ? *given : ordinary;
  if (options.get_if_exists && options.name.empty()) {
    throw std::invalid_argument("mobula: ActorOptions::get_if_exists needs a name");
  }
  if (given != nullptr) {
    const TaskOptions task = as_task(options);
    check_feasible(&task);
  }
  Handle handle;
  std::shared_ptr<const core::WireOptions> wire;
  {
    const Lock lock(engine);
    wire = engine.worker().actor_options(options, constructor);
    handle = engine.worker().mint_actor();
  }
  if (!options.name.empty()) {
    const core::Answer answer = ask(core::Question::reserve, handle.id(), *wire);
    if (!answer.yes) throw Error("mobula: " + answer.text);
    if (!answer.text.empty()) return adopt(engine, answer.text);
  }
  Lock lock(engine);
  engine.worker().create(handle, constructor, *wire, draft, engine.callers_run() != nullptr);
  engine.submitted(lock, 1);
  engine.wait_for_room(lock);
  return {std::move(handle), wire->actor.limits};
}

ActorBase find_actor(const std::string& name, const FunctionInfo& klass) {
  core::WireOptions options;
  options.demands.emplace_back();
  options.is_actor = true;
  options.actor.name = name;
  options.actor.klass = klass.index;
  const core::Answer answer = ask(core::Question::find, {}, options);
  if (!answer.yes) throw NoSuchActor("mobula: " + answer.text);
  return adopt(api::engine(), answer.text);
}

Handle call(const ActorBase& actor, const FunctionInfo& method, Draft::State& draft) {
  if (!actor.handle()) throw std::invalid_argument("mobula: the Actor is empty; it refers to nothing");
  Engine& engine = api::engine();
  Lock lock(engine);
  const worker::Run* run = engine.callers_run();
  const ObjectId caller = run != nullptr ? engine.worker().current_caller(*run) : ObjectId{};
  Handle handle = engine.worker().call(actor, method, draft, caller);
  engine.submitted(lock, 1);
  engine.wait_for_room(lock);
  return handle;
}

void kill(const Handle& actor) {
  if (!actor) throw std::invalid_argument("mobula::kill: the Actor is empty; it refers to nothing");
  const Engine* const engine = api::engine_or_null();
  if (engine != nullptr && engine->is_over()) return;  // it ends with the job, as all do: destructors may rely on that
  ask(core::Question::kill, actor.id());
}

}  // namespace mobula::detail

namespace mobula {

PlacementGroup placement_group(const std::vector<Demand>& bundles, Strategy strategy) {
  if (bundles.empty()) throw std::invalid_argument("mobula::placement_group: there are no bundles");
  exec::Engine& engine = api::engine();
  core::WireOptions options;
  for (const Demand& d : bundles) options.demands.push_back(core::checked({d.cpus, d.gpus, d.memory, d.resources}));
  options.place_index = static_cast<std::uint32_t>(strategy);
  detail::Handle handle;
  {
    const exec::Engine::Lock lock(engine);
    handle = engine.worker().mint_actor();
  }
  const core::Answer answer = detail::ask(core::Question::bundles, handle.id(), std::move(options));
  if (!answer.yes) throw Infeasible("mobula: " + answer.text);
  return {std::move(handle), static_cast<std::uint32_t>(bundles.size())};
}

}  // namespace mobula

namespace mobula::detail {

BatchWriter::BatchWriter(const FunctionInfo& function, const TaskOptions* options)
    : function_(function), options_(options), variable_(function.fixed_args == kVariable) {
  Engine& engine = api::engine();
  check_feasible(options);
  const Lock lock(engine);
  batch_ = BatchHandle(engine.objects().new_batch(function.fixed_result), 0);
}

BatchWriter::~BatchWriter() {
  if (batch_.record() == nullptr) return;
  if (exec::Engine* engine = api::engine_or_null()) {  // a range threw: what was submitted runs
    const Lock lock(*engine);
    engine->objects().close(*batch_.record());
  }
}

void BatchWriter::share(std::size_t i, Handle handle) {
  shared_mask_ |= std::uint64_t{1} << i;
  shared_.push_back(std::move(handle));
  variable_ = true;
}

void BatchWriter::flush() {
  if (count_ == 0) return;
  Engine& engine = api::engine();
  const bool alone = draft_.dep_mask != 0 || !draft_.args.refs.empty();
  Lock lock(engine);
  const bool in_task = engine.callers_run() != nullptr;
  const core::Time now = core::now();
  // An item with dependencies of its own is a piece of its own; those before it have none.
  if (alone && count_ > 1) {
    const std::size_t before = alone_from_;
    Draft::State front;
    front.args.bytes(draft_.args.buffer.data(), before);
    std::vector<std::uint32_t> ends(ends_.begin(), ends_.empty() ? ends_.end() : ends_.end() - 1);
    engine.worker().submit_items(*batch_.record(), total_, count_ - 1, function_, options_, shared_mask_, shared_,
                                 front, ends, in_task, now);
    total_ += count_ - 1;
    Draft::State item;
    item.args.bytes(draft_.args.buffer.data() + before, draft_.args.buffer.size() - before);
    item.args.refs = std::move(draft_.args.refs);
    item.dep_mask = draft_.dep_mask;
    item.deps = std::move(draft_.deps);
    draft_ = std::move(item);
    ends_.clear();
    count_ = 1;
  }
  if (alone) ends_.assign({static_cast<std::uint32_t>(draft_.args.buffer.size())});
  const bool no_ends = !variable_ && draft_.dep_mask == 0;
  if (no_ends) ends_.clear();
  engine.worker().submit_items(*batch_.record(), total_, count_, function_, options_, shared_mask_, shared_, draft_,
                               ends_, in_task, now);
  total_ += count_;
  engine.submitted(lock, count_);
  engine.wait_for_room(lock);
  count_ = 0;
  ends_.clear();
  draft_.args.buffer.clear();
  draft_.args.refs.clear();
  draft_.dep_mask = 0;
  draft_.deps.clear();
  alone_from_ = 0;
}

BatchHandle BatchWriter::finish() {
  flush();
  Engine& engine = api::engine();
  Lock lock(engine);
  engine.objects().close(*batch_.record());
  engine.step();
  Record* record = batch_.record();
  record->batches.fetch_add(1, std::memory_order_relaxed);
  const BatchHandle done = std::move(batch_);
  return BatchHandle(record, total_);
}

namespace {

Handle reduce(const FunctionInfo& fold, worker::FoldValues values, const TaskOptions& options) {
  Engine& engine = api::engine();
  static const TaskOptions ordinary;
  const TaskOptions* const given = options == ordinary ? nullptr : &options;
  check_feasible(given);
  Lock lock(engine);
  Handle handle = engine.worker().reduce(fold, std::move(values), given, Engine::current_run() != nullptr);
  engine.submitted(lock, 1);
  return handle;
}

}  // namespace

Handle reduce(const FunctionInfo& fold, const BatchHandle& batch, const TaskOptions& options) {
  worker::FoldValues values{batch, {}};
  // Values that may be large are let go of as they are folded.
  if (fold.fixed_result == kVariable) {
    values.elements.reserve(batch.count());
    for (std::uint32_t i = 0; i != batch.count(); ++i) values.elements.push_back(batch.element(i));
  }
  return reduce(fold, std::move(values), options);
}

Handle reduce(const FunctionInfo& fold, std::vector<Handle> values, const TaskOptions& options) {
  for (const Handle& value : values) {
    if (!value) throw std::invalid_argument("mobula::reduce: the range holds an empty Ref; it refers to nothing");
  }
  return reduce(fold, worker::FoldValues{{}, std::move(values)}, options);
}

Buffer room_for(std::size_t n) {
  if (nursery::context() != nullptr) {
    Buffer buffer;
    buffer.reserve(n);
    return buffer;
  }
  Engine& engine = api::engine();
  if (n > engine.settings().worker.inline_limit) return engine.room(n);
  Buffer buffer;
  buffer.reserve(n);
  return buffer;
}

Handle put(Encoder&& value) {
  Engine& engine = api::engine();
  const std::size_t size = value.buffer.size();
  if (size > engine.settings().worker.inline_limit && !engine.store().contains(value.buffer.data())) {
    Buffer stays = engine.room(size);  // its size was not known before
    stays.append(value.buffer.data(), size);
    value.buffer = std::move(stays);
  }
  const Lock lock(engine);
  return engine.worker().put(std::move(value));
}

// ---- waiting -----------------------------------------------------------------------------------------------------

Value await(const Handle& handle, Duration timeout) {
  if (!handle) throw std::invalid_argument("mobula::get: the Ref is empty; it refers to nothing");
  Record& record = *handle.record();
  if (record.ready(handle.index())) {
    if (const auto bytes = record.value(handle.index())) return {*bytes, nullptr};
  }
  Engine& engine = api::engine();
  Lock lock(engine);
  store::ValuePtr large;
  const bool met = engine.wait_for(lock, handle, deadline_of(timeout), large);
  if (!met)
    throw TimedOut("mobula::get: object " + core::to_string(handle.id()) + " was not ready within " + seconds(timeout));
  if (large != nullptr) return {large->view(), large};
  return {record.value(handle.index()).value(), nullptr};
}

void request_all(std::span<const Handle> handles) {
  if (handles.size() < 2) return;
  Engine& engine = api::engine();
  const Lock lock(engine);
  for (const Handle& handle : handles) {
    if (handle && !engine.objects().is_here(*handle.record(), handle.index())) engine.worker().request(handle);
  }
}

Value aligned(Value&& value, std::size_t offset, std::size_t align) {
  value.bytes = value.bytes.subspan(offset);
  if (reinterpret_cast<std::uintptr_t>(value.bytes.data()) % align == 0) return std::move(value);
  const std::size_t size = value.bytes.size();
  auto* const copy = static_cast<std::byte*>(::operator new (size, std::align_val_t{align}));
  std::copy(value.bytes.begin(), value.bytes.end(), copy);
  return {{copy, size}, {copy, [align](std::byte* at) { ::operator delete (at, std::align_val_t{align}); }}};
}

void await_all(const BatchHandle& batch) {
  if (batch.record() == nullptr) return;
  Record& record = *batch.record();
  if (record.ready_count.load(std::memory_order_acquire) == batch.count()) return;
  Engine& engine = api::engine();
  Lock lock(engine);
  if (engine.callers_run() != nullptr) {
    engine.wait_for_each(lock, batch);  // tasks of the batch that are queued here run on this thread
    return;
  }
  exec::Waiter waiter;
  store::Watch watch(record, Record::kWhole, waiter);
  watch.again();
  engine.wait_lending(
      lock, waiter, [&] { return record.ready_count.load(std::memory_order_relaxed) == batch.count(); },
      Engine::kNever);
}

void copy_packed(const BatchHandle& batch, std::uint32_t size, std::byte* to) {
  if (batch.count() == 0) return;
  if (batch.record()->packed != size) throw_damaged("a batch's results are of another size");
  batch.record()->copy_packed(batch.count(), to);
}

struct Completions::State final : store::Watcher {
  explicit State(Engine& engine) : engine(engine) {}
  void ready(std::size_t position) override {
    done.push_back(position);
    if (waiter != nullptr) waiter->signal();
  }

  // Of one that was watched.
  bool timed_out(std::size_t position) const {
    const auto place = std::lower_bound(watched.begin(), watched.end(), position,
                                        [](const auto& one, std::size_t p) { return one.second < p; });
    if (place == watched.end() || place->second != position) return false;
    return store::ObjectTable::timed_out(*place->first.record(), place->first.index());
  }

  Engine& engine;
  exec::Waiter* waiter = nullptr;
  std::vector<std::pair<Handle, std::size_t>> watched;  // by position, which grows
  std::deque<std::size_t> done;
  std::size_t left = 0;  // added and not yet returned
};

Completions::Completions() : state_(std::make_unique<State>(api::engine())) {}

Completions::~Completions() {
  if (api::engine_or_null() == nullptr) return;
  const Lock lock(state_->engine);
  for (const auto& [handle, position] : state_->watched) {
    store::ObjectTable::unwatch(*handle.record(), handle.index(), *state_);
  }
}

void Completions::add(const Handle& handle, std::size_t position) {
  if (!handle) throw std::invalid_argument("mobula: the range holds an empty Ref; it refers to nothing");
  const Lock lock(state_->engine);
  ++state_->left;
  if (handle.record()->ready(handle.index())) {
    state_->done.push_back(position);
    return;
  }
  store::ObjectTable::watch(*handle.record(), handle.index(), *state_, position);
  state_->engine.worker().hear_of(handle);
  state_->watched.emplace_back(handle, position);
}

std::optional<std::size_t> Completions::next(Duration timeout) {
  State& state = *state_;
  if (state.left == 0) return std::nullopt;
  Lock lock(state.engine);
  if (state.done.empty()) {
    exec::Waiter waiter;
    struct Waits {
      Waits(State& state, exec::Waiter& waiter) : state(state) { state.waiter = &waiter; }
      ~Waits() { state.waiter = nullptr; }
      State& state;
    };
    const Waits waits(state, waiter);
    state.engine.wait_lending(
        lock, waiter, [&state] { return !state.done.empty(); }, deadline_of(timeout),
        [&state] { return !state.done.empty() && state.timed_out(state.done.front()); });
    if (state.done.empty()) return std::nullopt;
  }
  const std::size_t position = state.done.front();
  state.done.pop_front();
  --state.left;
  return position;
}

void wait_for(std::span<const Handle> handles, std::size_t count, Duration timeout, std::vector<std::size_t>& ready,
              std::vector<std::size_t>& pending) {
  if (std::any_of(handles.begin(), handles.end(), [](const Handle& handle) { return !handle; }))
    throw std::invalid_argument("mobula: the range holds an empty Ref; it refers to nothing");
  const auto is_ready = [handles](std::size_t i) { return handles[i].record()->ready(handles[i].index()); };
  struct Counts final : exec::Waiter {
    Counts(std::span<const Handle> handles, std::size_t missing) : handles(handles), missing(missing) {}
    ~Counts() override {
      for (; watched != 0; --watched) {
        const Handle& handle = handles[watched - 1];
        if (!handle.record()->ready(handle.index()))
          store::ObjectTable::unwatch(*handle.record(), handle.index(), *this);
      }
    }
    void ready(std::size_t position) override {
      if (missing == 0 || --missing != 0) return;
      const Handle& handle = handles[position];
      is_late = store::ObjectTable::timed_out(*handle.record(), handle.index());
      signal();
    }
    std::span<const Handle> handles;
    std::size_t missing;      // so many must become ready
    std::size_t watched = 0;  // of the first so many handles, those are that are not ready
    bool is_late = false;     // the last of those has timed out
  };
  {
    Engine& engine = api::engine();
    Lock lock(engine);
    Counts counts(handles, std::min(count, handles.size()));
    for (std::size_t i = 0; i < handles.size() && counts.missing != 0; ++i) {
      if (is_ready(i)) --counts.missing;
    }
    if (counts.missing != 0) {
      for (; counts.watched < handles.size(); ++counts.watched) {
        const Handle& handle = handles[counts.watched];
        if (!is_ready(counts.watched))
          store::ObjectTable::watch(*handle.record(), handle.index(), counts, counts.watched);
      }
      // What is here already comes at once, also for those that are the same.
      for (std::size_t i = 0; i < handles.size() && counts.missing != 0; ++i) {
        if (!is_ready(i)) engine.worker().hear_of(handles[i]);
      }
    }
    engine.wait_lending(
        lock, counts, [&] { return counts.missing == 0; }, deadline_of(timeout), [&] { return counts.is_late; });
  }
  // More may have come; they are said to be ready too, so that no later call waits for them.
  for (std::size_t i = 0; i < handles.size(); ++i) (is_ready(i) ? ready : pending).push_back(i);
}

bool cancel(const Handle& handle) {
  if (!handle) throw std::invalid_argument("mobula::cancel: the Ref is empty; it refers to nothing");
  if (handle.record()->ready(handle.index())) return false;
  {
    Engine& engine = api::engine();
    const Lock lock(engine);
    engine.worker().make_known(handle);
  }
  return ask(core::Question::cancel, handle.id()).yes;
}

std::string explain(const Handle& handle) {
  if (!handle) return "the Ref is empty; it refers to nothing";
  {
    Engine& engine = api::engine();
    const Lock lock(engine);
    if (const auto text = engine.worker().explain_own(handle.id())) return *text;
    engine.worker().make_known(handle);
  }
  return ask(core::Question::explain, handle.id()).text;
}

}  // namespace mobula::detail

namespace mobula {

ClusterInfo cluster() { return core::decode_cluster(detail::ask(core::Question::cluster, {}).text); }

StoreStats store_stats(std::size_t largest) {
  detail::ObjectId id;
  id.index = static_cast<std::uint32_t>(std::min<std::size_t>(largest, 1'000'000));
  return core::decode_stats(detail::ask(core::Question::store, id).text);
}

std::size_t StoreStats::objects() const {
  std::size_t n = 0;
  for (const StoreUse& use : ranks) n += use.objects;
  return n;
}

Duration time_left() { return api::engine().time_left(); }

Context here() {
  if (const Context* context = nursery::context()) return *context;
  return api::engine().context();
}

}  // namespace mobula
