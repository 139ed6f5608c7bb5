#include "programs/images.hpp"

#include <fcntl.h>
#include <sys/file.h>
#include <unistd.h>
#include <xxhash.h>

#include <chrono>
#include <filesystem>
#include <fstream>
#include <map>
#include <mutex>
#include <thread>

#include "core/host.hpp"
#include "mobula/error.hpp"
#include "programs/container.hpp"
#include "programs/program.hpp"

namespace mobula::programs {
namespace {

namespace fs = std::filesystem;

std::string g_folder;  // NOLINT: set once, before threads

// Holds a file's lock, which ends with the process too.
class NodeLock {
 public:
  NodeLock(const std::string& path, const std::function<bool()>& is_unwanted)
      : file_(open(path.c_str(), O_RDWR | O_CREAT | O_CLOEXEC, 0600)) {
    if (file_ < 0) throw CommandFailed("mobula: the file " + path + " for a container image can't be made");
    while (flock(file_, LOCK_EX | LOCK_NB) != 0) {
      if (is_unwanted()) {
        close(file_);
        throw Cancelled("mobula: the task was stopped while its container image was made ready");
      }
      std::this_thread::sleep_for(std::chrono::milliseconds(20));
    }
  }
  NodeLock(const NodeLock&) = delete;
  NodeLock& operator=(const NodeLock&) = delete;
  ~NodeLock() { close(file_); }

 private:
  int file_;
};

bool is_archive(const std::string& name) {
  return name.ends_with(".tar") || name.ends_with(".tar.gz") || name.ends_with(".tgz") || name.ends_with(".tar.xz");
}

struct Maker {
  const std::string& image;
  const std::vector<std::string>& env;
  const std::function<bool()>& is_unwanted;

  CommandResult run(std::vector<std::string> words) const {
    Program program;
    program.words = std::move(words);
    program.env = env;
    program.capture_limit = std::size_t{1} << 30;
    program.is_unwanted = is_unwanted;
    return run_program(program);
  }
  CommandResult need(std::vector<std::string> words) const {
    const std::string what = words.front() + " " + words[1];
    CommandResult result = run(std::move(words));
    if (result.exit_code != 0) {
      throw CommandFailed("mobula: the container image " + image + " could not be made ready on " + core::host_name() +
                          ": " + what + " ended with code " + std::to_string(result.exit_code) + ": " +
                          last_of(result.err));
    }
    return result;
  }
  // `docker save` has layers and a list of them; `docker export` has the files.
  bool has_layers() const { return run({"tar", "-tf", image, "manifest.json"}).exit_code == 0; }
};

std::string without_scheme(const std::string& image) {
  const auto at = image.find("://");
  return at == std::string::npos ? image : image.substr(at + 3);
}

// Makes `to` of the image; or says what the runtime itself knows it by.
std::string make(const std::string& runtime, const Maker& maker, const std::string& to) {
  const std::string& image = maker.image;
  if (runtime == "apptainer") {
    if (is_archive(image) && maker.has_layers()) {
      maker.need({"apptainer", "build", to, "docker-archive:" + image});
    } else if (is_archive(image)) {
      fs::create_directories(to);
      maker.need({"tar", "-C", to, "-xf", image});
    } else {
      maker.need({"apptainer", "pull", to, image});
    }
    return to;
  }
  if (runtime == "charliecloud") {
    if (is_archive(image)) {
      maker.need({"ch-convert", "-i", maker.has_layers() ? "docker" : "tar", "-o", "dir", image, to});
    } else {
      maker.need({"ch-image", "pull", without_scheme(image)});
      maker.need({"ch-convert", "-i", "ch-image", "-o", "dir", without_scheme(image), to});
    }
    return to;
  }
  if (is_archive(image)) {
    if (!maker.has_layers()) {
      std::string name = "mobula/" + fs::path(to).filename().string();
      maker.need({runtime, "import", image, name});
      return name;
    }
    const std::string said = maker.need({runtime, "load", "-i", image}).out;
    const auto at = said.rfind(": ");
    std::string name = at == std::string::npos ? "" : said.substr(at + 2);
    while (!name.empty() && name.back() == '\n') name.pop_back();
    return name;
  }
  std::string name = without_scheme(image);
  if (maker.run({runtime, "image", "inspect", name}).exit_code != 0) maker.need({runtime, "pull", name});
  return name;
}

// Docker and Podman know images by name; the others take files and folders as they are.
bool is_ready(const std::string& runtime, const std::string& image) {
  if (runtime == "docker" || runtime == "podman") return false;
  return !is_archive(image) && image.find("://") == std::string::npos && fs::exists(image);
}

}  // namespace

void keep_images_in(const std::string& folder) { g_folder = folder; }

std::string ready_image(const Runtime& runtime, const std::string& image, const std::vector<std::string>& env,
                        const std::function<bool()>& is_unwanted) {
  const std::string kind = runtime.name;
  if (is_ready(kind, image)) return image;
  const bool is_name = image.find("://") != std::string::npos ||
                       (!is_archive(image) && image.front() != '/' && image.front() != '.' && kind != "apptainer");
  if (!is_name && !fs::exists(image)) {
    throw CommandFailed("mobula: the container image " + image + " is not on " + core::host_name());
  }
  static std::mutex mutex;
  static std::map<std::string, std::string> known;  // by runtime and image
  {
    const std::lock_guard lock(mutex);
    if (const auto found = known.find(kind + " " + image); found != known.end()) return found->second;
  }
  if (g_folder.empty()) {
    throw CommandFailed("mobula: the container image " + image +
                        " has to be unpacked, and there is no scratch folder for it: set --mobula-images=FOLDER");
  }
  fs::create_directories(g_folder);
  fs::permissions(g_folder, fs::perms::owner_all);
  // Another file under the same name is another image.
  std::string key = kind + "\n" + image;
  if (!is_name) {
    key = kind + "\n" + fs::absolute(image).string() + "\n" + std::to_string(fs::file_size(image)) + "\n" +
          std::to_string(fs::last_write_time(image).time_since_epoch().count());
  }
  const std::string to = g_folder + "/" + std::to_string(XXH3_64bits(key.data(), key.size()));
  std::string name;
  const NodeLock lock(to + ".lock", is_unwanted);
  // The name is written last: what was cut off is made anew.
  if (std::ifstream done(to + ".name"); std::getline(done, name)) {
    // Docker and Podman may have forgotten it since.
    const Maker maker{image, env, is_unwanted};
    const bool by_daemon = kind == "docker" || kind == "podman";
    if (by_daemon && maker.run({kind, "image", "inspect", name}).exit_code != 0) name.clear();
  }
  if (name.empty()) {
    fs::remove_all(to);
    name = make(kind, {image, env, is_unwanted}, to);
    std::ofstream(to + ".name.new") << name << '\n';
    fs::rename(to + ".name.new", to + ".name");
  }
  const std::lock_guard guard(mutex);
  return known[kind + " " + image] = name;
}

}  // namespace mobula::programs
