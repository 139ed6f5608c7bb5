#include "mobula/command.hpp"

#include <array>
#include <charconv>

#include "command/spec.hpp"
#include "core/wire.hpp"
#include "mobula/detail/core.hpp"
#include "mobula/error.hpp"
#include "mobula/run.hpp"
#include "programs/container.hpp"

namespace mobula {

namespace command_task {
namespace {

using detail::Buffer;
using detail::TaskRun;

CommandResult execute(const Spec& spec, const std::vector<std::string>& inputs, const TaskRun& run) {
  auto next = inputs.begin();
  const auto text_of = [&next](const Word& word) { return word.from_ref ? *next++ : word.text; };
  programs::Program program;
  for (const Word& word : spec.words) program.words.push_back(text_of(word));
  program.input = text_of(spec.input);
  program.env = programs::environment(spec.env);
  program.cwd = spec.cwd;
  program.capture_limit = spec.capture_limit;
  program.memory = spec.memory;
  const Context context = here();
  program.files = "mobula-" + context.id + "-" + std::to_string(context.attempt);
  program.is_unwanted = [&run] { return run.stop.load(std::memory_order_relaxed); };
  const std::string what = program.words.front();
  CommandResult result =
      spec.image.name.empty() ? programs::run_program(program) : programs::run_contained(program, spec.image);
  if (spec.check && result.exit_code != 0) {
    throw CommandFailed("mobula: " + what +
                        (result.signal != 0 ? " was ended by signal " + std::to_string(result.signal)
                                            : " ended with code " + std::to_string(result.exit_code)) +
                        (result.err.empty() ? "" : "; its last output: " + programs::last_of(result.err)));
  }
  return result;
}

struct Task : detail::Runnable<Task, detail::Signature<CommandResult (*)(std::string)>> {
  // Argument 0 is the Spec, encoded; those behind it are what Refs among the words give.
  static void invoke(TaskRun& run) {
    for (; run.next.load(std::memory_order_relaxed) != run.end; run.advance()) {
      if (run.stop.load(std::memory_order_relaxed)) return;
      run.begin();
      try {
        std::size_t dep = 0;
        const auto bytes = detail::take_held<std::string>(run, 0, dep);
        Spec spec;
        core::WireReader in(
            detail::ByteView(reinterpret_cast<const std::byte*>(bytes.value.data()), bytes.value.size()));
        in(spec);
        std::vector<std::string> inputs;
        const auto take = [&](const Word& word) {
          if (!word.from_ref) return;
          const std::size_t i = inputs.size() + 1;
          if (word.is_result) {
            std::string text = detail::take_held<CommandResult>(run, i, dep).value.out;
            if (!text.empty() && text.back() == '\n') text.pop_back();
            inputs.push_back(std::move(text));
          } else {
            inputs.push_back(detail::take_held<std::string>(run, i, dep).value);
          }
        };
        for (const Word& word : spec.words) take(word);
        take(spec.input);
        const CommandResult result = execute(spec, inputs, run);
        run.lasts = result.exit_code == 0;
        keep<CommandResult>(run, result);
      } catch (...) {
        run.fail();
      }
    }
  }
};

struct Info : detail::FunctionInfo {
  Info() : FunctionInfo("mobula::command", &Task::invoke, detail::kVariable, detail::kVariable) {
    name = "command";
    isolates_itself = true;
  }
};
const Info g_info;

}  // namespace
}  // namespace command_task

namespace detail {

template <class T>
std::string text_of(T number) {
  std::array<char, 64> text{};
  return {text.data(), std::to_chars(text.data(), text.data() + text.size(), number).ptr};
}
std::string number_text(long long number) { return text_of(number); }
std::string number_text(unsigned long long number) { return text_of(number); }
std::string number_text(double number) { return text_of(number); }

}  // namespace detail

Ref<CommandResult> command(const std::vector<CommandText>& words, const CommandOptions& options) {
  using namespace command_task;
  if (words.empty() || (words.front().text().empty() && !words.front().from())) {
    throw std::invalid_argument("mobula::command: no program is given");
  }
  if (std::holds_alternative<sandbox>(options.isolation)) {
    throw std::invalid_argument("mobula::command: a command is a process of its own: its isolation may be a container");
  }
  detail::Draft draft;
  Spec spec;
  std::vector<detail::Handle> refs;
  const auto word_of = [&refs](const CommandText& text) {
    if (text.from()) refs.push_back(text.from());
    return Word{text.text(), static_cast<bool>(text.from()), text.is_result()};
  };
  for (const CommandText& word : words) spec.words.push_back(word_of(word));
  spec.input = word_of(options.stdin_bytes);
  constexpr std::size_t kRefs = 60;
  if (refs.size() > kRefs) {
    throw std::invalid_argument("mobula::command: " + std::to_string(refs.size()) +
                                " of its words are Refs; 60 may be");
  }
  spec.cwd = options.cwd;
  const auto entries = [](const std::map<std::string, std::string>& env) {
    std::vector<std::string> all;
    all.reserve(env.size());
    for (const auto& [name, value] : env) all.push_back(name + "=" + value);
    return all;
  };
  spec.env = entries(options.env);
  spec.capture_limit = options.capture_limit;
  spec.check = options.check;
  spec.memory = options.memory;
  if (const auto* image = std::get_if<container>(&options.isolation)) {
    if (image->image.empty()) throw std::invalid_argument("mobula::command: the container has no image");
    spec.image = {image->image, image->binds, entries(image->env), image->gpus, image->runtime, image->reuse};
    const auto of_program = entries(options.env);
    spec.image.env.insert(spec.image.env.begin(), of_program.begin(), of_program.end());
  }
  Buffer bytes;
  core::WireWriter out(bytes);
  out(spec);
  detail::add_value(*draft, 0, std::string(reinterpret_cast<const char*>(bytes.data()), bytes.size()));
  for (std::size_t i = 0; i < refs.size(); ++i) detail::add_dep(*draft, i + 1, refs[i]);
  TaskOptions of_task{options.cpus,         options.gpus,    options.memory,           options.resources,
                      options.alternatives, options.retries, options.retry_exceptions, options.priority,
                      options.name,         options.timeout, options.time_request,     options.placement,
                      in_process,           options.durable, options.version};
  if (const auto* image = std::get_if<container>(&options.isolation)) {
    of_task.isolation = *image;  // where it may run; the rest is in the Spec
  }
  if (of_task.name.empty()) {
    const std::string& program = words.front().text();
    of_task.name = program.empty() ? "command" : program.substr(program.rfind('/') + 1);
  }
  return Ref<CommandResult>(detail::submit(g_info, &of_task, *draft));
}

}  // namespace mobula
