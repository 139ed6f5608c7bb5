// What a rank's threads do where the job has a journal.
#include "core/log.hpp"
#include "exec/engine.hpp"

namespace mobula::exec {

using detail::ByteView;
using detail::FunctionInfo;

namespace {

// The task's result as it travels; none if it has none that can be kept.
std::optional<ByteView> result_of(const worker::Run& run) {
  const detail::TaskRun& task = run.task;
  if (task.next != task.end || !task.lasts) return std::nullopt;
  if (task.oddities.empty()) return task.out.buffer.view().subspan(task.from);
  const auto& odd = task.oddities.back();
  if (odd.error) return std::nullopt;
  if (!odd.refs.empty()) {
    core::log_warn("the result of the durable task " + run.body->function->name +
                   " holds Refs, which end with the job: it is not kept in the journal");
    return std::nullopt;
  }
  return odd.stored.view();
}

}  // namespace

void Engine::invoke_with_journal(worker::Run& run) {
  const worker::Body& body = *run.body;
  if (body.is_durable()) {
    invoke_durable(run);
  } else if (body.function->kind == FunctionInfo::Kind::constructor && body.options->actor.durable &&
             run.task.checkpoint.empty()) {
    detail::Buffer state;
    journal_->find(journal::key_of_actor(body.function->klass->signature, body.options->actor.name), state);
    run.task.checkpoint = state.view();
    invoke(run);
  } else {
    invoke(run);
  }
}

// Takes the result that an earlier job has left, or runs the task and adds what it gives.
void Engine::invoke_durable(worker::Run& run) {
  const worker::Body& body = *run.body;
  detail::TaskRun& task = run.task;
  const FunctionInfo& function = *body.function;
  MOBULA_CHECK(task.end - task.next == 1, "durable tasks run one by one");
  const journal::Key key =
      journal::key_of_task(function.signature, body.options->version,
                           ByteView(task.args.take(0), task.args.remaining()), task.dep_mask, task.deps);
  detail::Buffer found;
  if (journal_->find(key, found) &&
      (function.fixed_result == detail::kVariable || found.size() == function.fixed_result)) {
    task.begin();
    try {
      task.give(found.view());
    } catch (...) {
      task.fail();
    }
    task.advance();
    return;
  }
  const Time started = core::now();
  invoke(run);
  const auto result = result_of(run);
  if (!result) return;
  journal::Entry entry;
  entry.key = key;
  entry.function = function.name;
  entry.name = body.options->name;
  entry.version = body.options->version;
  entry.seconds = static_cast<double>(core::now() - started) / 1e9;
  journal_->add(std::move(entry), *result);
}

void Engine::keep_state(const worker::LocalActor& actor, const detail::Encoder& state) {
  if (journal_ == nullptr || !actor.options->actor.durable) return;
  const std::string& name = actor.options->actor.name;
  if (!state.refs.empty()) {
    core::log_warn("the state of actor " + name + " holds Refs, which end with the job: it is not kept in the journal");
    return;
  }
  journal::Entry entry;
  entry.key = journal::key_of_actor(actor.klass->signature, name);
  entry.function = actor.klass->name;
  entry.name = name;
  journal_->add(std::move(entry), state.buffer.view());
}

}  // namespace mobula::exec
