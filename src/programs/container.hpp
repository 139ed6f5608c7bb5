// Containers: command lines that run something in an image, by whichever runtime is there.
//
// Apptainer and Charliecloud start a container in milliseconds, as a child of the caller. Docker and Podman take longer
// than most commands do, so commands run in a *warm* container, which stays for the next one with the same image. A
// container of theirs is no child of ours: it ends with the pipe that its first process reads, in any case with us.
#pragma once

#include <functional>
#include <list>
#include <memory>
#include <mutex>
#include <string>
#include <vector>

#include "core/messages.hpp"
#include "programs/program.hpp"

namespace mobula::programs {

// By their names in the API, those that are in PATH, in order of preference.
std::vector<std::string> runtimes_here();

// Whether that is the name of one, or empty: for the first that is there.
bool is_runtime(const std::string& name);

// What is to run in a container.
struct Inside {
  std::vector<std::string> words;
  std::string cwd;
  std::vector<std::string> env;  // of ours, for the runtime itself
  bool has_input = false;
  std::size_t memory = 0;  // bytes; 0: no limit
  std::vector<int> cpus;   // OS indexes; none: all
  std::string folder;      // that it sees under the same name; empty: none
  std::function<bool()> is_unwanted = [] { return false; };
};

// A command line that does it.
struct Contained {
  std::vector<std::string> words;
  std::vector<std::string> end;  // the one that ends it; empty: it ends with its process
  std::string runtime;           // the program
};

// Gets the image ready, if that was not done on this node before. Throws CommandFailed, Cancelled.
Contained contain(const core::WireImage& image, const Inside& inside);
// Runs a command line of that kind for its effect.
void run_quietly(const std::vector<std::string>& line);

// The folder for images that were fetched or unpacked. To be set before anything is contained.
void keep_images_in(const std::string& folder);

// A container that waits for commands, of one user at a time.
class WarmContainer {
 public:
  // nullptr where the image has no shell to wait in.
  static std::unique_ptr<WarmContainer> start(const core::WireImage& image, const Inside& inside,
                                              const std::string& image_name, const std::string& runtime);
  WarmContainer(const WarmContainer&) = delete;
  WarmContainer& operator=(const WarmContainer&) = delete;
  ~WarmContainer();
  bool fits(const core::WireImage& image, const Inside& inside) const;
  bool has_ended() const;
  Contained contain(const core::WireImage& image, const Inside& inside) const;

 private:
  WarmContainer() = default;
  core::WireImage image_;
  std::size_t memory_ = 0;
  std::vector<int> cpus_;
  std::string runtime_;
  std::string name_;
  int process_ = -1;
  int keep_ = -1;  // the pipe that it reads
};

// Runs the program in a container of the image, warm where that helps. Throws CommandFailed where it can't be started.
CommandResult run_contained(Program program, const core::WireImage& image);

}  // namespace mobula::programs
