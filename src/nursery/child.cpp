#include "nursery/child.hpp"

#include <dirent.h>
#include <fcntl.h>
#include <poll.h>
#include <sched.h>
#include <signal.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/signalfd.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include <array>
#include <cerrno>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <fstream>

#include "core/functions.hpp"
#include "core/wire.hpp"
#include "keeper/processes.hpp"
#include "nursery/nursery.hpp"

namespace mobula::nursery {
namespace {

using detail::Buffer;
using detail::ByteView;

constexpr std::size_t kFiles = 5;
constexpr std::size_t kMostBytes = 60 << 10;  // of a request to the zygote

const Context* g_context = nullptr;

void close_files_from(int first) {
  if (close_range(static_cast<unsigned>(first), ~0U, 0) == 0) return;
  for (int file = first; file < 4096; ++file) close(file);
}

// The memory that the process has mapped, in bytes.
std::size_t address_space() {
  std::size_t pages = 0;
  std::ifstream("/proc/self/statm") >> pages;
  return pages * static_cast<std::size_t>(sysconf(_SC_PAGESIZE));
}

void confine(const core::WireSandbox& sandbox) {
  for (const std::string& entry : sandbox.env) {
    if (const std::size_t at = entry.find('='); at != std::string::npos) {
      setenv(entry.substr(0, at).c_str(), entry.c_str() + at + 1, 1);
    }
  }
  if (!sandbox.cwd.empty() && chdir(sandbox.cwd.c_str()) != 0) {
    std::fprintf(stderr, "the sandbox's working directory %s can't be entered: %s\n", sandbox.cwd.c_str(),
                 std::strerror(errno));
    std::_Exit(126);
  }
  if (sandbox.memory != 0) {
    const rlim_t most = address_space() + sandbox.memory;
    const rlimit limit{most, most};
    setrlimit(RLIMIT_AS, &limit);
  }
}

void bind_to(const std::vector<int>& cpus) {
  if (cpus.empty()) return;
  cpu_set_t set;
  CPU_ZERO(&set);
  for (const int cpu : cpus) {
    if (cpu >= 0 && cpu < CPU_SETSIZE) CPU_SET(static_cast<std::size_t>(cpu), &set);
  }
  sched_setaffinity(0, sizeof set, &set);
}

void answer(const Files& files, const Response& response) {
  Buffer bytes;
  core::WireWriter out(bytes);
  out(response);
  std::size_t done = 0;
  while (done < bytes.size()) {
    const ssize_t n = pwrite(files.data, bytes.data() + done, bytes.size() - done, static_cast<off_t>(done));
    if (n <= 0) std::_Exit(125);
    done += static_cast<std::size_t>(n);
  }
  const std::uint64_t size = bytes.size();
  std::fflush(nullptr);
  send(files.channel, &size, sizeof size, MSG_NOSIGNAL);
}

void run_task(const Files& files, std::size_t size) {
  // A copy on write: the answer goes into the same file.
  void* const at = mmap(nullptr, size, PROT_READ, MAP_PRIVATE, files.data, 0);
  if (at == MAP_FAILED) std::_Exit(125);
  Response response;
  Buffer value;
  try {
    Request request;
    core::WireReader in(ByteView(static_cast<const std::byte*>(at), size));
    in(request);
    g_context = &request.context;
    bind_to(request.cpus);
    const detail::FunctionInfo& function = *core::function_at(request.function);
    detail::TaskRun run;
    run.end = 1;
    run.fixed_result = function.fixed_result;
    run.inline_limit = request.inline_limit;
    run.args = detail::Decoder(request.args);
    run.dep_mask = request.dep_mask;
    run.deps = request.deps;
    function.invoke(run);
    if (!run.oddities.empty() && run.oddities.front().error) {
      response.failed = true;
      response.error =
          core::capture(run.oddities.front().error, {request.context.task, request.context.id, request.context.rank,
                                                     request.context.host, request.context.attempt});
    } else if (!run.oddities.empty() && run.oddities.front().is_stored) {
      value = std::move(run.oddities.front().stored);
    } else {
      value = std::move(run.out.buffer);
    }
    response.value = value.view();
    answer(files, response);
  } catch (const std::exception& e) {
    std::fprintf(stderr, "a sandboxed task can't be run: %s\n", e.what());
    std::fflush(nullptr);
    std::_Exit(125);
  }
  g_context = nullptr;
  munmap(at, size);
}

[[noreturn]] void live_as_child(const Files& files, const core::WireSandbox& sandbox) {
  prctl(PR_SET_PDEATHSIG, SIGKILL);
  prctl(PR_SET_NAME, "mobula-sandbox");
  setpgid(0, 0);
  sigset_t none;
  sigemptyset(&none);
  sigprocmask(SIG_SETMASK, &none, nullptr);
  const int null = open("/dev/null", O_RDONLY | O_CLOEXEC);
  dup2(null, 0);
  dup2(files.out, 1);
  dup2(files.err, 2);
  for (const int file : {files.out, files.err, null}) close(file);
  std::setvbuf(stdout, nullptr, _IOLBF, BUFSIZ);  // what it has printed is not lost with it
  confine(sandbox);
  std::uint64_t size = 0;
  while (true) {
    const ssize_t n = recv(files.channel, &size, sizeof size, 0);
    if (n < 0 && errno == EINTR) continue;
    if (n != sizeof size) std::_Exit(0);
    run_task(files, size);
  }
}

[[noreturn]] void live_as_nurse(const Files& files, const core::WireSandbox& sandbox) {
  prctl(PR_SET_CHILD_SUBREAPER, 1);
  prctl(PR_SET_NAME, "mobula-nurse");
  setsid();
  ::signal(SIGCHLD, SIG_DFL);
  sigset_t ends;
  sigemptyset(&ends);
  sigaddset(&ends, SIGCHLD);
  sigprocmask(SIG_BLOCK, &ends, nullptr);
  const int signals = signalfd(-1, &ends, SFD_CLOEXEC);
  const pid_t child = fork();
  if (child == 0) {
    close(signals);
    close(files.nurse);
    live_as_child(files, sandbox);
  }
  for (const int file : {files.channel, files.data, files.out, files.err}) close(file);
  End end;
  rusage use{};
  while (child > 0) {
    pollfd wait[] = {{signals, POLLIN, 0}, {files.nurse, POLLIN, 0}};
    if (poll(wait, 2, -1) < 0) continue;
    if (wait[1].revents != 0) {
      kill(child, SIGKILL);
      wait4(child, &end.status, 0, &use);
      break;
    }
    signalfd_siginfo info{};
    if (read(signals, &info, sizeof info) != sizeof info) continue;
    if (wait4(child, &end.status, WNOHANG, &use) == child) break;
  }
  kill(-child, SIGKILL);
  keeper::kill_children();
  end.max_rss = static_cast<std::uint64_t>(use.ru_maxrss) << 10;
  send(files.nurse, &end, sizeof end, MSG_NOSIGNAL);
  std::_Exit(0);
}

}  // namespace

const Context* context() { return g_context; }

bool send_files(int socket, ByteView bytes, std::span<const int> files) {
  iovec part{const_cast<std::byte*>(bytes.data()), bytes.size()};
  alignas(cmsghdr) std::array<char, CMSG_SPACE(kFiles * sizeof(int))> control{};
  msghdr message{};
  message.msg_iov = &part;
  message.msg_iovlen = 1;
  message.msg_control = control.data();
  message.msg_controllen = CMSG_SPACE(files.size_bytes());
  cmsghdr* header = CMSG_FIRSTHDR(&message);
  header->cmsg_level = SOL_SOCKET;
  header->cmsg_type = SCM_RIGHTS;
  header->cmsg_len = CMSG_LEN(files.size_bytes());
  std::memcpy(CMSG_DATA(header), files.data(), files.size_bytes());
  while (sendmsg(socket, &message, MSG_NOSIGNAL) < 0) {
    if (errno != EINTR) return false;
  }
  return true;
}

void live_as_zygote(int given) {
  prctl(PR_SET_NAME, "mobula-zygote");
  // What else is open is the rank's, and its end should be seen.
  constexpr int socket = 3;
  if (given != socket) dup3(given, socket, O_CLOEXEC);
  close_files_from(socket + 1);
  // Its parent's signals are not its own: it ends when nobody is there to tell it anything.
  for (const int signal : {SIGINT, SIGTERM, SIGHUP, SIGQUIT, SIGUSR1, SIGUSR2, SIGTSTP}) ::signal(signal, SIG_IGN);
  ::signal(SIGCHLD, SIG_IGN);
  std::vector<std::byte> bytes(kMostBytes);
  while (true) {
    iovec part{bytes.data(), bytes.size()};
    alignas(cmsghdr) std::array<char, CMSG_SPACE(kFiles * sizeof(int))> control{};
    msghdr message{};
    message.msg_iov = &part;
    message.msg_iovlen = 1;
    message.msg_control = control.data();
    message.msg_controllen = control.size();
    const ssize_t n = recvmsg(socket, &message, MSG_CMSG_CLOEXEC);
    if (n < 0 && errno == EINTR) continue;
    if (n <= 0) std::_Exit(0);
    const cmsghdr* header = CMSG_FIRSTHDR(&message);
    if (header == nullptr || header->cmsg_len != CMSG_LEN(kFiles * sizeof(int))) continue;
    std::array<int, kFiles> got{};
    std::memcpy(got.data(), CMSG_DATA(header), sizeof got);
    if (fork() == 0) {
      for (const int signal : {SIGINT, SIGTERM, SIGHUP, SIGQUIT, SIGUSR1, SIGUSR2, SIGTSTP}) ::signal(signal, SIG_DFL);
      close(socket);
      core::WireSandbox sandbox;
      try {
        core::WireReader in(ByteView(bytes.data(), static_cast<std::size_t>(n)));
        in(sandbox);
      } catch (const std::exception&) {
        std::_Exit(125);
      }
      live_as_nurse({got[0], got[1], got[2], got[3], got[4]}, sandbox);
    }
    for (const int file : got) close(file);
  }
}

}  // namespace mobula::nursery
