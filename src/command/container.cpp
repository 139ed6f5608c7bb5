#include <unistd.h>

#include <filesystem>

#include "command/spec.hpp"
#include "mobula/error.hpp"

namespace mobula::command_task {
namespace {

struct Runtime {
  const char* name;
  const char* program;
};
constexpr Runtime kRuntimes[] = {
    {"apptainer", "apptainer"}, {"charliecloud", "ch-run"}, {"podman", "podman"}, {"docker", "docker"}};

std::string host() {
  std::string name(256, '\0');
  gethostname(name.data(), name.size());
  return name.c_str();
}

const Runtime& choose(const Image& image, const std::vector<std::string>& env) {
  bool known = image.runtime.empty();
  for (const Runtime& runtime : kRuntimes) {
    if (!image.runtime.empty() && image.runtime != runtime.name) continue;
    known = true;
    if (!find_program(runtime.program, env).empty()) return runtime;
  }
  if (!known) {
    throw CommandFailed("mobula: there is no container runtime named '" + image.runtime +
                        "': apptainer, charliecloud, podman and docker are known");
  }
  throw CommandFailed(
      "mobula: container " + image.name + " can't be started on " + host() + ": " +
      (image.runtime.empty() ? "neither apptainer nor ch-run, podman or docker is" : image.runtime + " is not") +
      " in PATH there");
}

}  // namespace

Contained contain(const Image& image, const std::vector<std::string>& words, const std::string& cwd,
                  const std::string& name, bool has_input, const std::vector<std::string>& env) {
  const Runtime& runtime = choose(image, env);
  const std::string kind = runtime.name;
  const bool is_file = kind == "apptainer" || kind == "charliecloud";
  if (is_file && image.name.find("://") == std::string::npos && !std::filesystem::exists(image.name)) {
    throw CommandFailed("mobula: the container image " + image.name + " is not on " + host());
  }
  Contained made;
  made.runtime = runtime.program;
  auto& line = made.words;
  line.emplace_back(runtime.program);
  const auto add = [&line](const char* option, const std::string& value) {
    line.emplace_back(option);
    line.push_back(value);
  };
  if (kind == "apptainer") {
    line.emplace_back("exec");
    if (image.gpus) line.emplace_back("--nv");
    for (const std::string& bind : image.binds) add("--bind", bind);
    for (const std::string& entry : image.env) add("--env", entry);
    if (!cwd.empty()) add("--pwd", cwd);
    line.push_back(image.name);
  } else if (kind == "charliecloud") {
    for (const std::string& bind : image.binds) line.push_back("--bind=" + bind);
    for (const std::string& entry : image.env) line.push_back("--set-env=" + entry);
    if (!cwd.empty()) line.push_back("--cd=" + cwd);
    line.push_back(image.name);
    line.emplace_back("--");
  } else {
    line.emplace_back("run");
    line.emplace_back("--rm");
    if (has_input) line.emplace_back("--interactive");
    add("--name", name);
    for (const std::string& bind : image.binds)
      add("--volume", bind.find(':') != std::string::npos ? bind : bind + ":" + bind);
    for (const std::string& entry : image.env) add("--env", entry);
    if (image.gpus && kind == "docker") add("--gpus", "all");
    if (image.gpus && kind == "podman") add("--device", "nvidia.com/gpu=all");
    if (!cwd.empty()) add("--workdir", cwd);
    line.push_back(image.name);
    made.end = {runtime.program, "kill", name};
  }
  line.insert(line.end(), words.begin(), words.end());
  return made;
}

}  // namespace mobula::command_task
