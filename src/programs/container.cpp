#include "programs/container.hpp"

#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <spawn.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <atomic>
#include <chrono>
#include <filesystem>
#include <set>
#include <thread>

#include "core/host.hpp"
#include "core/trace.hpp"
#include "mobula/error.hpp"
#include "programs/images.hpp"
#include "topology/topology.hpp"

namespace mobula::programs {
namespace {

constexpr std::array<Runtime, 4> kRuntimes{
    {{"apptainer", "apptainer"}, {"charliecloud", "ch-run"}, {"podman", "podman"}, {"docker", "docker"}}};

const Runtime& choose(const core::WireImage& image, const std::vector<std::string>& env) {
  for (const Runtime& runtime : kRuntimes) {
    if (!image.runtime.empty() && image.runtime != runtime.name) continue;
    if (!find_program(runtime.program, env).empty()) return runtime;
  }
  throw CommandFailed(
      "mobula: container " + image.name + " can't be started on " + core::host_name() + ": " +
      (image.runtime.empty() ? "neither apptainer nor ch-run, podman or docker is" : image.runtime + " is not") +
      " in PATH there");
}

bool has_daemon(const std::string& runtime) { return runtime == "docker" || runtime == "podman"; }

// A name that no other container of this node has.
std::string new_name() {
  static std::atomic<int> next{0};
  return "mobula-" + std::to_string(getpid()) + "-" + std::to_string(core::now() & 0xffff'ffff) + "-" +
         std::to_string(next++);
}

std::string user() { return std::to_string(getuid()) + ":" + std::to_string(getgid()); }

class Line {
 public:
  explicit Line(std::vector<std::string> words) : words_(std::move(words)) {}
  Line& add(const std::string& word) {
    words_.push_back(word);
    return *this;
  }
  Line& add(const char* option, const std::string& value) { return add(option).add(value); }
  Line& all(const std::vector<std::string>& words) {
    words_.insert(words_.end(), words.begin(), words.end());
    return *this;
  }
  std::vector<std::string> take() { return std::move(words_); }

 private:
  std::vector<std::string> words_;
};

// The options of Docker and Podman for a new container: as it would be with the other runtimes, it has this user, this
// network, and the cores of the task.
void add_run_options(Line& line, const core::WireImage& image, const Inside& inside, const std::string& runtime) {
  line.add("--rm").add("--network", "host").add("--user", user());
  if (runtime == "podman" && getuid() != 0) line.add("--userns=keep-id");
  for (std::string bind : image.binds) {
    if (bind.find(':') == std::string::npos) bind += ":" + bind;
    line.add("--volume", bind);
  }
  if (!inside.folder.empty()) line.add("--volume", inside.folder + ":" + inside.folder);
  if (image.gpus && runtime == "docker") line.add("--gpus", "all");
  if (image.gpus && runtime == "podman") line.add("--device", "nvidia.com/gpu=all");
  if (inside.memory != 0) line.add("--memory", std::to_string(inside.memory));
  if (!inside.cpus.empty()) {
    std::string list;
    for (const int cpu : inside.cpus) list += (list.empty() ? "" : ",") + std::to_string(cpu);
    line.add("--cpuset-cpus", list);
  }
}

void add_process_options(Line& line, const core::WireImage& image, const Inside& inside) {
  for (const std::string& entry : image.env) line.add("--env", entry);
  if (!inside.cwd.empty()) line.add("--workdir", inside.cwd);
}

}  // namespace

bool is_runtime(const std::string& name) {
  return name.empty() ||
         std::any_of(kRuntimes.begin(), kRuntimes.end(), [&name](const Runtime& of) { return name == of.name; });
}

std::vector<std::string> runtimes_here() {
  std::vector<std::string> found;
  const std::vector<std::string> env = environment({});
  for (const Runtime& runtime : kRuntimes) {
    if (!find_program(runtime.program, env).empty()) found.emplace_back(runtime.name);
  }
  return found;
}

Contained contain(const core::WireImage& image, const Inside& inside) {
  const Runtime& runtime = choose(image, inside.env);
  const std::string kind = runtime.name;
  const std::string of = ready_image(runtime, image.name, inside.env, inside.is_unwanted);
  Contained made;
  made.runtime = runtime.program;
  Line line({runtime.program});
  if (kind == "apptainer") {
    line.add("exec");
    if (image.gpus) line.add("--nv");
    for (const std::string& bind : image.binds) line.add("--bind", bind);
    if (!inside.folder.empty()) line.add("--bind", inside.folder);
    for (const std::string& entry : image.env) line.add("--env", entry);
    if (!inside.cwd.empty()) line.add("--pwd", inside.cwd);
    line.add(of);
  } else if (kind == "charliecloud") {  // it shows the host's /tmp, where inside.folder is
    for (const std::string& bind : image.binds) line.add("--bind=" + bind);
    for (const std::string& entry : image.env) line.add("--set-env=" + entry);
    if (!inside.cwd.empty()) line.add("--cd=" + inside.cwd);
    line.add(of).add("--");
  } else {
    const std::string name = new_name();
    line.add("run").add("--name", name);
    if (inside.has_input) line.add("--interactive");
    add_run_options(line, image, inside, kind);
    add_process_options(line, image, inside);
    line.add(of);
    made.end = {runtime.program, "kill", name};
  }
  made.words = line.all(inside.words).take();
  return made;
}

void run_quietly(const std::vector<std::string>& line) {
  if (line.empty()) return;
  const std::vector<char*> words = pointers(line);
  const std::vector<std::string> environment = core::process_environment();
  posix_spawn_file_actions_t files;
  posix_spawn_file_actions_init(&files);
  for (const int file : {0, 1, 2}) posix_spawn_file_actions_addopen(&files, file, "/dev/null", O_RDWR, 0);
  pid_t child = 0;
  if (posix_spawnp(&child, words.front(), &files, nullptr, words.data(), pointers(environment).data()) == 0)
    waitpid(child, nullptr, 0);
  posix_spawn_file_actions_destroy(&files);
}

// ---- warm containers ---------------------------------------------------------------------------------------------

std::unique_ptr<WarmContainer> WarmContainer::start(const core::WireImage& image, const Inside& inside,
                                                    const std::string& image_name, const std::string& runtime) {
  std::unique_ptr<WarmContainer> made(new WarmContainer);
  made->image_ = image;
  made->memory_ = inside.memory;
  made->cpus_ = inside.cpus;
  made->runtime_ = runtime;
  made->name_ = new_name();
  Line line({runtime, "run", "--name", made->name_, "--interactive", "--entrypoint", "sh"});
  add_run_options(line, image, inside, runtime);
  const std::vector<std::string> words = line.add(image_name).all({"-c", "echo ready; exec cat"}).take();
  std::array<int, 2> in{};
  std::array<int, 2> out{};
  if (pipe2(in.data(), O_CLOEXEC) != 0) return nullptr;
  if (pipe2(out.data(), O_CLOEXEC) != 0) {
    for (const int file : in) close(file);
    return nullptr;
  }
  posix_spawn_file_actions_t files;
  posix_spawn_file_actions_init(&files);
  posix_spawn_file_actions_adddup2(&files, in[0], 0);
  posix_spawn_file_actions_adddup2(&files, out[1], 1);
  posix_spawn_file_actions_addopen(&files, 2, "/dev/null", O_RDWR, 0);
  const std::vector<char*> arguments = pointers(words);
  const std::vector<std::string> environment = core::process_environment();
  const bool started = posix_spawnp(&made->process_, runtime.c_str(), &files, nullptr, arguments.data(),
                                    pointers(environment).data()) == 0;
  posix_spawn_file_actions_destroy(&files);
  made->keep_ = in[1];
  close(in[0]);
  close(out[1]);
  constexpr int kLook = 50;  // ms
  pollfd wait{out[0], POLLIN, 0};
  while (started && poll(&wait, 1, kLook) == 0 && !inside.is_unwanted()) {
  }
  std::array<char, 6> word{};
  const bool ready = wait.revents != 0 && read(out[0], word.data(), word.size()) == static_cast<ssize_t>(word.size());
  close(out[0]);
  if (!ready) return nullptr;
  return made;
}

WarmContainer::~WarmContainer() {
  if (keep_ >= 0) close(keep_);
  if (process_ > 0) waitpid(process_, nullptr, 0);
}

bool WarmContainer::fits(const core::WireImage& image, const Inside& inside) const {
  return image.name == image_.name && image.binds == image_.binds && image.gpus == image_.gpus &&
         image.runtime == image_.runtime && memory_ == inside.memory && cpus_ == inside.cpus;
}

bool WarmContainer::has_ended() const {
  siginfo_t info{};
  return waitid(P_PID, static_cast<id_t>(process_), &info, WEXITED | WNOHANG | WNOWAIT) != 0 || info.si_pid != 0;
}

Contained WarmContainer::contain(const core::WireImage& image, const Inside& inside) const {
  Line line({runtime_, "exec", "--user", user()});
  if (inside.has_input) line.add("--interactive");
  add_process_options(line, image, inside);
  return {line.add(name_).all(inside.words).take(), {runtime_, "kill", name_}, runtime_};
}

namespace {

// Those of this process.
class WarmContainers {
 public:
  std::unique_ptr<WarmContainer> take(const core::WireImage& image, const Inside& inside) {
    const Runtime& runtime = choose(image, inside.env);
    if (!has_daemon(runtime.name) || !image.reuse) return nullptr;
    {
      const std::lock_guard lock(mutex_);
      if (cold_.contains(image.name)) return nullptr;
      for (auto it = idle_.begin(); it != idle_.end();) {
        if ((*it)->has_ended()) {
          it = idle_.erase(it);
        } else if ((*it)->fits(image, inside)) {
          auto found = std::move(*it);
          idle_.erase(it);
          return found;
        } else {
          ++it;
        }
      }
    }
    const std::string name = ready_image(runtime, image.name, inside.env, inside.is_unwanted);
    auto made = WarmContainer::start(image, inside, name, runtime.program);
    if (made == nullptr) {
      const std::lock_guard lock(mutex_);
      cold_.insert(image.name);
    }
    return made;
  }
  void give(std::unique_ptr<WarmContainer> container) {
    if (container->has_ended()) return;
    std::unique_ptr<WarmContainer> oldest;
    const std::lock_guard lock(mutex_);
    idle_.push_front(std::move(container));
    if (idle_.size() <= kMost) return;
    oldest = std::move(idle_.back());
    idle_.pop_back();
  }

 private:
  static constexpr std::size_t kMost = 16;
  std::mutex mutex_;
  std::list<std::unique_ptr<WarmContainer>> idle_;  // the last used one first
  std::set<std::string> cold_;                      // images in which none can wait
};

WarmContainers& warm_containers() {
  static auto* const all = new WarmContainers;  // they end with the process
  return *all;
}

// The runtime itself could not start the container, and says so on stderr.
bool failed_to_contain(const std::string& runtime, const CommandResult& result) {
  if (has_daemon(runtime)) return result.exit_code == 125;
  if (runtime == "apptainer") return result.exit_code == 255 && result.err.find("FATAL:") != std::string::npos;
  return runtime == "ch-run" && result.exit_code != 0 && result.err.find("ch-run[") != std::string::npos;
}

}  // namespace

CommandResult run_contained(Program program, const core::WireImage& image) {
  Inside inside{program.words,  program.cwd, program.env, !program.input.empty(),
                program.memory, {},          {},          program.is_unwanted};
  if (has_daemon(choose(image, inside.env).name)) {  // what it starts is no child of ours, and inherits nothing
    inside.cpus = topology::thread_cpus();
    program.memory = 0;
  }
  auto warm = warm_containers().take(image, inside);
  const Contained contained = warm != nullptr ? warm->contain(image, inside) : contain(image, inside);
  program.words = contained.words;
  program.cwd.clear();
  if (!contained.end.empty()) program.when_stopped = [&contained] { run_quietly(contained.end); };
  CommandResult result = run_program(program);
  if (failed_to_contain(contained.runtime, result)) {
    throw CommandFailed("mobula: container " + image.name + " can't be started on " + core::host_name() + ": " +
                        last_of(result.err));
  }
  if (warm != nullptr) warm_containers().give(std::move(warm));
  return result;
}

}  // namespace mobula::programs
