#include "nursery/nursery.hpp"

#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

#include <array>
#include <cerrno>
#include <cstring>
#include <system_error>

#include "core/error.hpp"
#include "core/functions.hpp"
#include "core/wire.hpp"
#include "keeper/processes.hpp"
#include "nursery/child.hpp"
#include "topology/topology.hpp"

namespace mobula::nursery {

using detail::Buffer;
using detail::ByteView;
using Clock = std::chrono::steady_clock;

namespace {

constexpr std::size_t kLastOutput = 2048;  // bytes of it that travel with an error
constexpr int kLook = 50;                  // ms between two looks whether the task is still wanted

void close_all(std::initializer_list<int> files) {
  for (const int file : files) {
    if (file >= 0) close(file);
  }
}

std::string signal_text(int signal) {
  const char* name = sigabbrev_np(signal);
  return "signal " + std::to_string(signal) + (name != nullptr ? " (SIG" + std::string(name) + ")" : "");
}

}  // namespace

// The rank's side of one child.
class Child {
 public:
  explicit Child(core::WireSandbox sandbox) : sandbox_(std::move(sandbox)) {}
  Child(const Child&) = delete;
  Child& operator=(const Child&) = delete;
  ~Child() { close_all({channel_, nurse_, data_, out_, err_}); }

  const core::WireSandbox& sandbox() const { return sandbox_; }
  // False if there is no zygote any more.
  bool start(int zygote);
  // The answer to the request; std::nullopt: the child has ended, see `why`.
  std::optional<Buffer> run(const Request& request, const std::function<bool()>& is_unwanted);
  bool was_unwanted() const { return unwanted_; }
  std::string why() const { return why_; }
  // Also one that waited for work, and was killed meanwhile.
  bool ended() const;

 private:
  void write(const Buffer& bytes);
  void pass_on(int file, int to);
  void take_end();

  core::WireSandbox sandbox_;
  int channel_ = -1;
  int nurse_ = -1;
  int data_ = -1;
  int out_ = -1;
  int err_ = -1;
  bool ended_ = false;
  bool unwanted_ = false;
  bool late_ = false;
  std::string why_;
  std::string last_;  // output
};

bool Child::start(int zygote) {
  std::array<int, 2> channel{-1, -1};
  std::array<int, 2> nurse{-1, -1};
  std::array<int, 2> out{-1, -1};
  std::array<int, 2> err{-1, -1};
  const bool made = socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, channel.data()) == 0 &&
                    socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, nurse.data()) == 0 &&
                    pipe2(out.data(), O_CLOEXEC) == 0 && pipe2(err.data(), O_CLOEXEC) == 0;
  data_ = memfd_create("mobula-sandbox", MFD_CLOEXEC);
  channel_ = channel[0];
  nurse_ = nurse[0];
  out_ = out[0];
  err_ = err[0];
  bool sent = false;
  if (made && data_ >= 0) {
    for (const int file : {out_, err_}) fcntl(file, F_SETFL, O_NONBLOCK);
    Buffer bytes;
    core::WireWriter writer(bytes);
    writer(sandbox_);
    const std::array files{channel[1], nurse[1], data_, out[1], err[1]};
    sent = send_files(zygote, bytes.view(), files);
  }
  close_all({channel[1], nurse[1], out[1], err[1]});
  return sent;
}

bool Child::ended() const {
  std::array<pollfd, 2> files{{{channel_, 0, 0}, {nurse_, POLLIN, 0}}};
  return ended_ || poll(files.data(), files.size(), 0) != 0;
}

void Child::write(const Buffer& bytes) {
  std::size_t done = 0;
  while (done < bytes.size()) {
    const ssize_t n = pwrite(data_, bytes.data() + done, bytes.size() - done, static_cast<off_t>(done));
    if (n < 0) throw std::system_error(errno, std::generic_category(), "mobula: a task's arguments for its sandbox");
    done += static_cast<std::size_t>(n);
  }
}

// What the child prints becomes output of the rank.
void Child::pass_on(int file, int to) {
  std::array<char, 4096> text;
  ssize_t n = 0;
  while ((n = read(file, text.data(), text.size())) > 0) {
    last_.append(text.data(), static_cast<std::size_t>(n));
    if (last_.size() > 2 * kLastOutput) last_.erase(0, last_.size() - kLastOutput);
    const char* at = text.data();
    while (n > 0) {
      const ssize_t written = ::write(to, at, static_cast<std::size_t>(n));
      if (written <= 0) break;
      at += written;
      n -= written;
    }
  }
}

// The nurse has told how the child ended, or is gone itself.
void Child::take_end() {
  End end;
  ended_ = true;
  const bool told = recv(nurse_, &end, sizeof end, 0) == sizeof end;
  pass_on(out_, 1);
  pass_on(err_, 2);
  if (late_) {
    why_ = "it ran longer than its sandbox's limit of " + std::to_string(static_cast<double>(sandbox_.time_ns) / 1e9) +
           " s";
  } else if (!told) {
    why_ = "its process is gone, and nobody knows how it ended";
  } else if (WIFSIGNALED(end.status)) {
    why_ = "it was ended by " + signal_text(WTERMSIG(end.status));
  } else {
    why_ = "it ended its process with code " + std::to_string(WEXITSTATUS(end.status));
  }
  if (told && !late_) why_ += ", having used " + std::to_string(end.max_rss >> 20) + " MiB";
  if (sandbox_.memory != 0) why_ += ", limit of memory " + std::to_string(sandbox_.memory >> 20) + " MiB";
  if (last_.size() > kLastOutput) last_.erase(0, last_.size() - kLastOutput);
  while (!last_.empty() && last_.back() == '\n') last_.pop_back();
  if (!last_.empty()) why_ += "; its last output: " + last_;
}

std::optional<Buffer> Child::run(const Request& request, const std::function<bool()>& is_unwanted) {
  last_.clear();
  const auto started = Clock::now();
  {
    Buffer bytes;
    core::WireWriter out(bytes);
    out(request);
    write(bytes);
    const std::uint64_t size = bytes.size();
    send(channel_, &size, sizeof size, MSG_NOSIGNAL);  // if nobody is there, the nurse says so
  }
  while (true) {
    std::array<pollfd, 4> files{{{channel_, POLLIN, 0}, {nurse_, POLLIN, 0}, {out_, POLLIN, 0}, {err_, POLLIN, 0}}};
    if (poll(files.data(), files.size(), kLook) < 0 && errno != EINTR) {
      throw std::system_error(errno, std::generic_category(), "mobula: waiting for a sandboxed task");
    }
    if (files[2].revents != 0) pass_on(out_, 1);
    if (files[3].revents != 0) pass_on(err_, 2);
    std::uint64_t size = 0;
    if ((files[0].revents & POLLIN) != 0 && recv(channel_, &size, sizeof size, 0) == sizeof size) {
      pass_on(out_, 1);
      pass_on(err_, 2);
      Buffer answer;
      std::byte* to = answer.extend(size);
      for (std::size_t done = 0; done < size;) {
        const ssize_t n = pread(data_, to + done, size - done, static_cast<off_t>(done));
        if (n <= 0) detail::throw_damaged("the answer of a sandboxed task is cut off");
        done += static_cast<std::size_t>(n);
      }
      constexpr std::uint64_t kKept = 1 << 20;
      if (size > kKept) static_cast<void>(ftruncate(data_, 0));
      return answer;
    }
    if (files[1].revents != 0) {
      take_end();
      return std::nullopt;
    }
    if (late_ || unwanted_) continue;  // it is being ended
    late_ = sandbox_.time_ns >= 0 && Clock::now() - started > std::chrono::nanoseconds(sandbox_.time_ns);
    unwanted_ = !late_ && is_unwanted();
    if (late_ || unwanted_) shutdown(nurse_, SHUT_WR);
  }
}

std::unique_ptr<Nursery> Nursery::start() {
  if (keeper::has_threads()) return nullptr;
  std::array<int, 2> sockets{};
  if (socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, sockets.data()) != 0) return nullptr;
  std::fflush(nullptr);  // what is in the buffers is written once
  const pid_t zygote = fork();
  if (zygote == 0) {
    close(sockets[0]);
    live_as_zygote(sockets[1]);
  }
  close(sockets[1]);
  if (zygote < 0) {
    close(sockets[0]);
    return nullptr;
  }
  return std::make_unique<Nursery>(sockets[0]);
}

Nursery::Nursery(int zygote) : zygote_(zygote) {}

Nursery::~Nursery() { close(zygote_); }

std::unique_ptr<Child> Nursery::make(const core::WireSandbox& sandbox) const {
  auto child = std::make_unique<Child>(sandbox);
  if (!child->start(zygote_)) {
    throw std::system_error(errno, std::generic_category(), "mobula: a process for a sandboxed task");
  }
  return child;
}

std::unique_ptr<Child> Nursery::take(const core::WireSandbox& sandbox) {
  {
    const std::lock_guard lock(mutex_);
    for (auto it = warm_.begin(); it != warm_.end();) {
      if ((*it)->sandbox() != sandbox) {
        ++it;
        continue;
      }
      auto child = std::move(*it);
      it = warm_.erase(it);
      if (!child->ended()) return child;
    }
  }
  return make(sandbox);
}

void Nursery::give(std::unique_ptr<Child> child) {
  if (!child->sandbox().reuse) return;
  const std::lock_guard lock(mutex_);
  warm_.push_front(std::move(child));
  if (warm_.size() > kWarm) warm_.pop_back();
}

void Nursery::invoke(const Task& task, detail::TaskRun& run) {
  Request request;
  request.function = task.function->index;
  request.dep_mask = run.dep_mask;
  request.inline_limit = run.inline_limit;
  request.deps.assign(run.deps.begin(), run.deps.end());
  request.cpus = topology::thread_cpus();
  request.context = task.context;
  MOBULA_CHECK(run.end - run.next == 1, "sandboxed tasks run one by one");
  run.begin();
  try {
    request.args = ByteView(run.args.take(0), run.args.remaining());
    auto child = take(task.sandbox);
    auto answer = child->run(request, task.is_unwanted);
    if (!answer) {
      if (child->was_unwanted()) throw Cancelled("mobula: the task was stopped");
      throw TaskCrashed("mobula: a sandboxed task crashed: " + child->why());
    }
    give(std::move(child));
    Response response;
    core::WireReader in(answer->view());
    in(response);
    if (response.failed) {
      if (task.sandbox.memory != 0 && response.error.type == "std::bad_alloc") {
        throw TaskCrashed("mobula: a sandboxed task crashed: it asked for more memory than its limit of " +
                          std::to_string(task.sandbox.memory >> 20) + " MiB");
      }
      core::raise(response.error);
    }
    run.give(response.value);
  } catch (...) {
    run.fail();
  }
  run.advance();
}

}  // namespace mobula::nursery
