// What a program asks of a rank, as src/api does for programs that are not simulated.
#include <utility>

#include "sim/functions.hpp"

namespace mobula::sim {

namespace {

void add_deps(detail::Draft::State& draft, const Deps& deps) {
  for (const auto& [position, handle] : deps) detail::add_dep(draft, static_cast<std::size_t>(position), handle);
}

}  // namespace

Handle Cluster::submit(RankId r, bool in_task, const FunctionInfo& function, const Arguments& arguments, Deps deps,
                       const TaskOptions* options) {
  ++outcome_.tasks;
  detail::Draft::State draft;
  arguments(draft.args);
  add_deps(draft, deps);
  return worker(r).submit(function, options, draft, in_task, now());
}

// An item with dependencies of its own goes alone; those before it have none, and go together.
detail::BatchHandle Cluster::submit_batch(RankId r, bool in_task, const Items& items) {
  outcome_.tasks += items.count;
  detail::BatchHandle batch(objects(r).new_batch(items.function.fixed_result), items.count);
  std::uint64_t shared_mask = 0;
  std::vector<Handle> shared;
  for (const auto& [position, handle] : items.shared) {
    shared_mask |= std::uint64_t{1} << position;
    shared.push_back(handle);
  }
  const bool is_variable = items.function.fixed_args == detail::kVariable || shared_mask != 0;
  detail::Draft::State together;
  std::vector<std::uint32_t> ends;
  std::uint32_t begin = 0;
  const auto send = [&](detail::Draft::State& draft, std::vector<std::uint32_t>& draft_ends, std::uint32_t n) {
    if (n == 0) return;
    worker(r).submit_items(*batch.record(), begin, n, items.function, items.options, shared_mask, shared, draft,
                           draft_ends, in_task, now());
    begin += n;
    draft = {};
    draft_ends.clear();
  };
  for (std::uint32_t i = 0; i < items.count; ++i) {
    detail::Draft::State item;
    add_deps(item, items.item(i, item.args));
    if (item.dep_mask != 0 || !item.args.refs.empty()) {
      send(together, ends, i - begin);
      std::vector<std::uint32_t> its_end{static_cast<std::uint32_t>(item.args.buffer.size())};
      send(item, its_end, 1);
      continue;
    }
    together.args.bytes(item.args.buffer.data(), item.args.buffer.size());
    if (is_variable) ends.push_back(static_cast<std::uint32_t>(together.args.buffer.size()));
    if (i + 1 - begin == items.most) send(together, ends, items.most);
  }
  send(together, ends, items.count - begin);
  objects(r).close(*batch.record());
  return batch;
}

Handle Cluster::reduce_leaves(RankId r, bool in_task, std::uint64_t seed, std::uint64_t n) {
  TaskOptions options;
  options.retries = 1000;
  const auto item = [seed](std::uint32_t i, Encoder& out) {
    out.put(seed + i);
    return Deps{};
  };
  const detail::BatchHandle batch =
      submit_batch(r, in_task, {kLeaf, static_cast<std::uint32_t>(n), {}, item, &options});
  return worker(r).reduce(kFold, {batch, {}}, &options, in_task);
}

detail::BatchHandle Cluster::submit_gang(RankId r, bool in_task, std::uint32_t members, const FunctionInfo& function,
                                         const Arguments& arguments, Deps deps, const TaskOptions& options) {
  outcome_.tasks += members;
  detail::Draft::State draft;
  arguments(draft.args);
  add_deps(draft, deps);
  detail::BatchHandle batch(objects(r).new_batch(function.fixed_result), members);
  worker(r).submit_gang(*batch.record(), members, function, &options, draft, in_task);
  objects(r).close(*batch.record());
  return batch;
}

Handle Cluster::call(RankId r, const detail::ActorBase& actor, const FunctionInfo& method, ObjectId caller,
                     const Arguments& arguments, Deps deps) {
  ++outcome_.tasks;
  detail::Draft::State draft;
  arguments(draft.args);
  add_deps(draft, deps);
  return worker(r).call(actor, method, draft, caller);
}

detail::ActorBase Cluster::make_actor(RankId r, const FunctionInfo& constructor, const ActorOptions& options) {
  detail::Draft::State draft;
  const Handle handle = worker(r).mint_actor();
  const auto wire = worker(r).actor_options(options, constructor);
  worker(r).create(handle, constructor, *wire, draft, r != 0);
  return {handle, wire->actor.limits};
}

Body Cluster::make_named(RankId r, const FunctionInfo& constructor, const ActorOptions& options,
                         detail::ActorBase* actor) {
  const Handle handle = worker(r).mint_actor();
  const auto wire = worker(r).actor_options(options, constructor);
  core::Answer answer;
  const Body reserve = ask(r, core::Question::reserve, handle.id(), *wire, &answer);
  co_await reserve;
  if (!answer.yes) co_return;
  if (answer.text.empty()) {
    detail::Draft::State draft;
    worker(r).create(handle, constructor, *wire, draft, r != 0);
    *actor = {handle, wire->actor.limits};
    co_return;
  }
  core::FoundActor found;
  core::WireReader in(ByteView(reinterpret_cast<const std::byte*>(answer.text.data()), answer.text.size()));
  found.fields(in);
  *actor = {worker(r).adopt(found.id), found.limits};
}

Handle Cluster::handle_of(RankId r, detail::Decoder& in) {
  ObjectId id;
  id.span.value = in.get<std::uint64_t>();
  id.index = in.get<std::uint32_t>();
  return objects(r).handle_of(id);
}

Body Cluster::ask(RankId r, core::Question question, ObjectId id, core::WireOptions options, core::Answer* answer) {
  const std::uint64_t token = worker(r).ask(question, id, std::move(options));
  std::optional<core::Answer> got;
  co_await until(r, [&] { return got || (got = worker(r).take_answer(token)); });
  *answer = std::move(*got);
}

bool Cluster::is_here(const Handle& handle, RankId r, ValuePtr* keep) {
  detail::Record& record = *handle.record();
  const auto here = [&] {
    if (!objects(r).is_here(record, handle.index())) return false;
    if (keep != nullptr) *keep = objects(r).value_of(record, handle.index());
    return true;
  };
  if (here()) return true;
  if (record.ready(handle.index()) || !record.mine) worker(r).request(handle);
  return here();
}

Seen Cluster::seen(const Handle& handle, RankId r, const ValuePtr& kept) {
  const store::Slot* slot = handle.record()->slot(handle.index());
  if (slot != nullptr && slot->kind == store::Slot::Kind::error) {
    const core::ErrorPtr error = *slot->error;
    require_fair(*error);
    return {std::nullopt, error->kind, error};
  }
  const std::optional<ByteView> small = handle.record()->value(handle.index());
  const ValuePtr large = small             ? nullptr
                         : kept != nullptr ? kept
                                           : objects(r).value_of(*handle.record(), handle.index());
  require(small || large != nullptr, "a value that is here can be read");
  const ByteView bytes = small ? *small : large->view();
  detail::Decoder in(bytes);
  if (bytes.size() < sizeof(std::uint64_t)) return {0, {}, nullptr};
  if (bytes.size() >= 2 * sizeof(std::uint64_t)) in.get<std::uint64_t>();  // a vector's length
  return {in.get<std::uint64_t>(), {}, nullptr};
}

void Cluster::require_fair(const core::ErrorRecord& error) {
  switch (error.kind) {
    case core::ErrorKind::object_lost:
      require(outcome_.losses > 0, ("an object is lost only with a rank: " + error.message).c_str());
      require(
          error.message.find("no task that can run again") != std::string::npos ||
              error.message.find("it was lost on its way, and what its task was given has ended") != std::string::npos,
          ("what tasks have made is made again: " + error.message).c_str());
      break;
    case core::ErrorKind::worker_lost: require(outcome_.losses > 0, "a worker is lost only when one died"); break;
    case core::ErrorKind::infeasible: require(may_miss(), "what could run can do so while no rank is lost"); break;
    default: return;
  }
  ++outcome_.errors;
}

}  // namespace mobula::sim
