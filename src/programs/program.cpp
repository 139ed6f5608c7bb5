#include "programs/program.hpp"

#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include <array>
#include <cerrno>
#include <chrono>
#include <cstring>

#include "core/host.hpp"
#include "mobula/error.hpp"

namespace mobula::programs {
namespace {

using Clock = std::chrono::steady_clock;

constexpr int kLook = 50;                          // ms between two looks whether it is still wanted
constexpr std::chrono::milliseconds kGentle{300};  // from SIGTERM to SIGKILL

class File {
 public:
  File() = default;
  explicit File(int file) : file_(file) {}
  File(File&& other) noexcept : file_(std::exchange(other.file_, -1)) {}
  File& operator=(File&& other) noexcept {
    std::swap(file_, other.file_);
    return *this;
  }
  ~File() { close(); }
  void close() {
    if (file_ >= 0) ::close(std::exchange(file_, -1));
  }
  int get() const { return file_; }

 private:
  int file_ = -1;
};

struct Pipe {
  File read;
  File write;
};

Pipe make_pipe() {
  std::array<int, 2> ends{};
  if (pipe2(ends.data(), O_CLOEXEC) != 0) {
    throw CommandFailed(std::string("mobula: a pipe for a command: ") + std::strerror(errno));
  }
  return {File(ends[0]), File(ends[1])};
}

// What a command writes: the first bytes are kept, and where there are more, a file gets all of them.
class Capture {
 public:
  Capture(File from, std::size_t limit, std::string path)
      : from_(std::move(from)), limit_(limit), path_(std::move(path)) {
    fcntl(from_.get(), F_SETFL, O_NONBLOCK);
  }
  bool open() const { return from_.get() >= 0; }
  pollfd wish() const { return {from_.get(), POLLIN, 0}; }
  void take() {
    std::array<char, 64 << 10> bytes;
    while (open()) {
      const ssize_t n = read(from_.get(), bytes.data(), bytes.size());
      if (n < 0 && errno == EINTR) continue;
      if (n < 0 && errno == EAGAIN) return;
      if (n <= 0) {
        from_.close();
        return;
      }
      add(bytes.data(), static_cast<std::size_t>(n));
    }
  }
  std::string text;
  std::string file() const { return file_.get() >= 0 ? path_ : ""; }

 private:
  void add(const char* bytes, std::size_t n) {
    if (file_.get() < 0 && text.size() + n > limit_) {
      file_ = File(::open(path_.c_str(), O_CREAT | O_TRUNC | O_WRONLY | O_CLOEXEC, 0666));
      if (file_.get() < 0) {
        throw CommandFailed("mobula: a command wrote more than its capture_limit of " + std::to_string(limit_) +
                            " bytes, and the file " + path_ + " for it can't be made: " + std::strerror(errno));
      }
      append(text.data(), text.size());
    }
    if (file_.get() >= 0) append(bytes, n);
    text.append(bytes, std::min(n, limit_ - text.size()));
  }
  void append(const char* bytes, std::size_t n) {
    if (!core::write_all(file_.get(), bytes, n))
      throw CommandFailed("mobula: writing " + path_ + ": " + std::strerror(errno));
  }

  File from_;
  std::size_t limit_;
  std::string path_;
  File file_;
};

// Writes to a pipe that may have no reader any more, without the signal of that.
ssize_t write_quietly(int file, const char* bytes, std::size_t n) {
  sigset_t pipe;
  sigset_t before;
  sigemptyset(&pipe);
  sigaddset(&pipe, SIGPIPE);
  pthread_sigmask(SIG_BLOCK, &pipe, &before);
  const ssize_t done = write(file, bytes, n);
  const int error = errno;
  if (done < 0 && error == EPIPE) {
    const timespec now{};
    sigtimedwait(&pipe, nullptr, &now);
  }
  pthread_sigmask(SIG_SETMASK, &before, nullptr);
  errno = error;
  return done;
}

struct Start {
  const char* file;
  char* const* words;
  char* const* env;
  const char* cwd;  // nullptr: as it is
  int in;
  int out;
  int err;
  int report;  // gets errno where it can't be started
  rlim_t memory;
};

// The child borrows our memory until it runs its program, and may call little. Signals wait meanwhile: a handler would
// run in it. posix_spawn has no way to make the program end with the thread that started it.
// NOLINTBEGIN(clang-analyzer-unix.Vfork, clang-analyzer-security.insecureAPI.vfork)
[[gnu::noinline]] pid_t start(const Start& how) {
  sigset_t all;
  sigset_t before;
  sigfillset(&all);
  pthread_sigmask(SIG_SETMASK, &all, &before);
  const pid_t child = vfork();
  if (child == 0) {
    setpgid(0, 0);
    prctl(PR_SET_PDEATHSIG, SIGKILL);
    bool good = dup2(how.in, 0) >= 0 && dup2(how.out, 1) >= 0 && dup2(how.err, 2) >= 0;
    good = good && (how.cwd == nullptr || chdir(how.cwd) == 0);
    if (good && how.memory != 0) {
      const rlimit limit{how.memory, how.memory};
      setrlimit(RLIMIT_DATA, &limit);
    }
    if (good) {
      close_range(3, ~0U, CLOSE_RANGE_CLOEXEC);
      for (const int signal : {SIGPIPE, SIGINT, SIGTERM, SIGHUP, SIGCHLD}) ::signal(signal, SIG_DFL);
      sigset_t none;
      sigemptyset(&none);
      sigprocmask(SIG_SETMASK, &none, nullptr);
      execve(how.file, how.words, how.env);
    }
    const int error = errno;
    static_cast<void>(!write(how.report, &error, sizeof error));
    _exit(127);
  }
  pthread_sigmask(SIG_SETMASK, &before, nullptr);
  return child;
}
// NOLINTEND(clang-analyzer-unix.Vfork, clang-analyzer-security.insecureAPI.vfork)

}  // namespace

std::vector<char*> pointers(const std::vector<std::string>& texts) {
  std::vector<char*> all;
  all.reserve(texts.size() + 1);
  for (const std::string& text : texts) all.push_back(const_cast<char*>(text.c_str()));
  all.push_back(nullptr);
  return all;
}

std::string last_of(const std::string& output) {
  constexpr std::size_t kLast = 2048;
  return output.size() > kLast ? output.substr(output.size() - kLast) : output;
}

CommandResult run_program(const Program& program) {
  const std::string file = find_program(program.words.front(), program.env);
  if (file.empty()) {
    throw CommandFailed("mobula: there is no program '" + program.words.front() + "' here" +
                        (program.words.front().find('/') == std::string::npos ? " in PATH" : ""));
  }
  Pipe out = make_pipe();
  Pipe err = make_pipe();
  Pipe in = make_pipe();
  const std::vector<char*> words = pointers(program.words);
  const std::vector<char*> env = pointers(program.env);
  const auto started = Clock::now();
  Pipe report = make_pipe();
  const Start how{file.c_str(),  words.data(),    env.data(),      program.cwd.empty() ? nullptr : program.cwd.c_str(),
                  in.read.get(), out.write.get(), err.write.get(), report.write.get(),
                  program.memory};
  const pid_t child = start(how);
  int error = child < 0 ? errno : 0;
  report.write.close();
  if (child > 0 && read(report.read.get(), &error, sizeof error) > 0) waitpid(child, nullptr, 0);
  if (error != 0) {
    throw CommandFailed("mobula: program " + file + " can't be started" +
                        (program.cwd.empty() ? "" : " in the folder " + program.cwd) + ": " + std::strerror(error));
  }
  for (File* end : {&in.read, &out.write, &err.write}) end->close();
  const std::string folder = program.cwd.empty() ? "" : program.cwd + "/";
  Capture stdout_of(std::move(out.read), program.capture_limit, folder + program.files + ".out");
  Capture stderr_of(std::move(err.read), program.capture_limit, folder + program.files + ".err");
  fcntl(in.write.get(), F_SETFL, O_NONBLOCK);
  std::size_t written = 0;
  const auto feed = [&] {
    while (written < program.input.size()) {
      const ssize_t n = write_quietly(in.write.get(), program.input.data() + written, program.input.size() - written);
      if (n < 0 && errno == EINTR) continue;
      if (n < 0 && errno == EAGAIN) return;
      if (n < 0) break;  // it reads no more
      written += static_cast<std::size_t>(n);
    }
    in.write.close();
  };
  const File pid(static_cast<int>(syscall(SYS_pidfd_open, child, 0)));
  int status = 0;
  rusage use{};
  bool stopped = false;
  Clock::time_point stopped_at;
  // Whatever happens here, the process does not stay.
  const auto end_it = [&](int signal) { kill(-child, signal); };
  try {
    feed();
    while (wait4(child, &status, WNOHANG, &use) != child) {
      std::array<pollfd, 4> files{stdout_of.wish(), stderr_of.wish(), pollfd{in.write.get(), POLLOUT, 0},
                                  pollfd{pid.get(), POLLIN, 0}};
      poll(files.data(), files.size(), pid.get() >= 0 ? kLook : 1);
      if (files[0].revents != 0) stdout_of.take();
      if (files[1].revents != 0) stderr_of.take();
      if (files[2].revents != 0) feed();
      if (!stopped && program.is_unwanted()) {
        stopped = true;
        stopped_at = Clock::now();
        program.when_stopped();
        end_it(SIGTERM);
      }
      if (stopped && Clock::now() - stopped_at > kGentle) end_it(SIGKILL);
    }
    end_it(SIGKILL);  // what it has left in its group
    stdout_of.take();
    stderr_of.take();
  } catch (...) {
    end_it(SIGKILL);
    waitpid(child, nullptr, 0);
    throw;
  }
  if (stopped) throw Cancelled("mobula: the command was stopped");
  CommandResult result;
  result.signal = WIFSIGNALED(status) ? WTERMSIG(status) : 0;
  result.exit_code = result.signal != 0 ? 128 + result.signal : WEXITSTATUS(status);
  result.out = std::move(stdout_of.text);
  result.err = std::move(stderr_of.text);
  result.out_file = stdout_of.file();
  result.err_file = stderr_of.file();
  result.wall = std::chrono::duration<double>(Clock::now() - started).count();
  result.max_rss = static_cast<std::size_t>(use.ru_maxrss) << 10;
  return result;
}

}  // namespace mobula::programs
