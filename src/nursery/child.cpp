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
#include <sys/un.h>
#include <sys/wait.h>
#include <unistd.h>

#include <array>
#include <cerrno>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <fstream>
#include <thread>
#include <utility>

#include "core/functions.hpp"
#include "core/wire.hpp"
#include "keeper/processes.hpp"
#include "nursery/nursery.hpp"
#include "programs/program.hpp"

namespace mobula::nursery {
namespace {

using detail::Buffer;
using detail::ByteView;

constexpr std::size_t kFiles = 6;  // at most

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

bool write_at(int file, ByteView bytes, std::size_t at) {
  while (!bytes.empty()) {
    const ssize_t n = pwrite(file, bytes.data(), bytes.size(), static_cast<off_t>(at));
    if (n <= 0) return false;
    bytes = bytes.subspan(static_cast<std::size_t>(n));
    at += static_cast<std::size_t>(n);
  }
  return true;
}

void answer(const Files& files, const Response& response, ByteView value) {
  Buffer bytes;
  core::WireWriter out(bytes);
  out(response);
  if (!write_at(files.data, bytes.view(), 0) || !write_at(files.data, value, bytes.size())) std::_Exit(125);
  const Sizes sizes{bytes.size(), value.size()};
  std::fflush(nullptr);
  send(files.channel, &sizes, sizeof sizes, MSG_NOSIGNAL);
}

// What tasks and the object of an actor see, from one request to the next.
struct Life {
  ByteView memory;               // that the ranks of the node share
  std::shared_ptr<void> object;  // of an actor
};

ByteView find(const Dep& dep, ByteView memory) {
  if (dep.offset == Dep::kInline) return dep.bytes;
  if (dep.offset > memory.size() || dep.size > memory.size() - dep.offset)
    detail::throw_damaged("a value lies nowhere");
  return memory.subspan(dep.offset, dep.size);
}

// The value that the task gives.
Buffer run_function(const Request& request, const detail::FunctionInfo& function, Life& life) {
  detail::TaskRun run;
  std::vector<ByteView> deps;
  for (const Dep& dep : request.deps) deps.push_back(find(dep, life.memory));
  run.end = 1;
  run.fixed_result = function.fixed_result;
  run.inline_limit = request.inline_limit;
  run.args = detail::Decoder(request.args);
  run.dep_mask = request.dep_mask;
  run.deps = deps;
  run.checkpoint = request.checkpoint;
  run.actor = life.object;
  function.invoke(run);
  if (function.kind == detail::FunctionInfo::Kind::constructor) life.object = run.actor;
  if (run.oddities.empty()) return std::move(run.out.buffer);
  auto& odd = run.oddities.front();
  if (odd.error) std::rethrow_exception(odd.error);
  return odd.is_stored ? std::move(odd.stored) : std::move(run.out.buffer);
}

Buffer save_object(const detail::FunctionInfo& klass, const Life& life) {
  detail::Encoder state;
  klass.save(state, life.object.get());
  return std::move(state.buffer);
}

void act(const Files& files, std::size_t size, Life& life) {
  // A copy on write: the answer goes into the same file.
  void* const at = mmap(nullptr, size, PROT_READ, MAP_PRIVATE, files.data, 0);
  if (at == MAP_FAILED) std::_Exit(125);
  Response response;
  Buffer value;
  Request request;
  try {
    core::WireReader in(ByteView(static_cast<const std::byte*>(at), size));
    in(request);
  } catch (const std::exception& e) {
    std::fprintf(stderr, "a sandboxed task can't be run: %s\n", e.what());
    std::fflush(nullptr);
    std::_Exit(125);
  }
  g_context = &request.context;
  try {
    bind_to(request.cpus);
    const detail::FunctionInfo* const function = core::function_at(request.function);
    if (function == nullptr) detail::throw_damaged("there is no such function");
    if (request.act == Request::Act::run) {
      value = run_function(request, *function, life);
    } else if (request.act == Request::Act::save) {
      value = save_object(*function, life);
    } else {
      life.object.reset();
    }
  } catch (...) {
    response.failed = true;
    response.error =
        core::capture(std::current_exception(), {request.context.task, request.context.id, request.context.rank,
                                                 request.context.host, request.context.attempt});
  }
  answer(files, response, value.view());
  g_context = nullptr;
  munmap(at, size);
}

[[noreturn]] void serve(const Files& files, const core::WireSandbox& sandbox) {
  std::setvbuf(stdout, nullptr, _IOLBF, BUFSIZ);  // what it has printed is not lost with it
  Life life;
  struct stat info {};
  if (files.memory >= 0 && fstat(files.memory, &info) == 0) {
    const auto size = static_cast<std::size_t>(info.st_size);
    void* const at = mmap(nullptr, size, PROT_READ, MAP_SHARED | MAP_NORESERVE, files.memory, 0);
    if (at != MAP_FAILED) {
      madvise(at, size, MADV_DONTDUMP);
      life.memory = {static_cast<const std::byte*>(at), size};
    }
    close(files.memory);
  }
  confine(sandbox);
  const Greeting greeting{core::function_digest()};
  send(files.channel, &greeting, sizeof greeting, MSG_NOSIGNAL);
  std::uint64_t size = 0;
  while (true) {
    const ssize_t n = recv(files.channel, &size, sizeof size, 0);
    if (n < 0 && errno == EINTR) continue;
    if (n != sizeof size) std::_Exit(0);
    act(files, size, life);
  }
}

// What has just been forked ends with its nurse, leads a group of its own, and writes where the rank reads.
void set_apart(const Files& files) {
  prctl(PR_SET_PDEATHSIG, SIGKILL);
  setpgid(0, 0);
  sigset_t none;
  sigemptyset(&none);
  sigprocmask(SIG_SETMASK, &none, nullptr);
  const int null = open("/dev/null", O_RDONLY | O_CLOEXEC);
  dup2(null, 0);
  dup2(files.out, 1);
  dup2(files.err, 2);
  for (const int file : {files.out, files.err, null}) close(file);
}

[[noreturn]] void live_as_child(const Files& files, const core::WireSandbox& sandbox) {
  prctl(PR_SET_NAME, "mobula-sandbox");
  set_apart(files);
  serve(files, sandbox);
}

[[noreturn]] void run_container(const Files& files, const Birth& birth) {
  set_apart(files);
  close_files_from(3);
  using programs::pointers;
  execvpe(birth.words.front().c_str(), pointers(birth.words).data(), pointers(birth.env).data());
  std::fprintf(stderr, "%s can't be started: %s\n", birth.words.front().c_str(), std::strerror(errno));
  std::_Exit(127);
}

std::string socket_of(const std::string& door) { return door + "/door"; }

sockaddr_un address_of(const std::string& door) {
  sockaddr_un address{};
  address.sun_family = AF_UNIX;
  socket_of(door).copy(address.sun_path, sizeof address.sun_path - 1);
  return address;
}

void close_door(const std::string& door, int& listener) {
  if (listener < 0) return;
  close(std::exchange(listener, -1));
  unlink(socket_of(door).c_str());
  rmdir(door.c_str());
}

int open_door(const std::string& door) {
  const sockaddr_un address = address_of(door);
  const int listener = socket(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0);
  if (bind(listener, reinterpret_cast<const sockaddr*>(&address), sizeof address) == 0 && listen(listener, 1) == 0) {
    return listener;
  }
  std::fprintf(stderr, "a container has no door: %s\n", std::strerror(errno));
  std::_Exit(125);
}

Birth read_birth(int file, std::size_t size) {
  Birth birth;
  void* const at = mmap(nullptr, size, PROT_READ, MAP_PRIVATE, file, 0);
  if (at == MAP_FAILED) std::_Exit(125);
  try {
    core::WireReader in(ByteView(static_cast<const std::byte*>(at), size));
    in(birth);
  } catch (const std::exception&) {
    std::_Exit(125);
  }
  munmap(at, size);
  return birth;
}

// Docker and Podman are told: a container of theirs is no child of ours.
void run_end(const Birth& birth) {
  if (birth.end.empty()) return;
  const pid_t child = fork();
  if (child == 0) {
    const int null = open("/dev/null", O_RDWR | O_CLOEXEC);
    for (const int file : {0, 1, 2}) dup2(null, file);
    using programs::pointers;
    execvpe(birth.end.front().c_str(), pointers(birth.end).data(), pointers(birth.env).data());
    std::_Exit(127);
  }
  if (child > 0) waitpid(child, nullptr, 0);
}

[[noreturn]] void live_as_nurse(const Files& files, std::size_t size) {
  prctl(PR_SET_CHILD_SUBREAPER, 1);
  prctl(PR_SET_NAME, "mobula-nurse");
  setsid();
  ::signal(SIGCHLD, SIG_DFL);
  const Birth birth = read_birth(files.data, size);
  sigset_t ends;
  sigemptyset(&ends);
  sigaddset(&ends, SIGCHLD);
  sigprocmask(SIG_BLOCK, &ends, nullptr);
  const int signals = signalfd(-1, &ends, SFD_CLOEXEC);
  const bool is_guest = !birth.words.empty();
  int door = is_guest ? open_door(birth.door) : -1;
  const pid_t child = fork();
  if (child == 0) {
    if (is_guest) run_container(files, birth);
    close(signals);
    close(files.nurse);
    live_as_child(files, birth.sandbox);
  }
  for (const int file : {files.out, files.err}) close(file);
  if (!is_guest) {
    for (const int file : {files.channel, files.data, files.memory}) close(file);
  }
  End end;
  rusage use{};
  while (child > 0) {
    std::array<pollfd, 3> wait{{{signals, POLLIN, 0}, {files.nurse, POLLIN, 0}, {door, POLLIN, 0}}};
    if (poll(wait.data(), wait.size(), -1) < 0) continue;
    if (wait[1].revents != 0) {
      run_end(birth);
      kill(child, SIGKILL);
      wait4(child, &end.status, 0, &use);
      break;
    }
    if (wait[2].revents != 0) {
      const int guest = accept4(door, nullptr, nullptr, SOCK_CLOEXEC);
      Buffer bytes;
      core::WireWriter out(bytes);
      out(birth.sandbox);
      std::vector<int> all{files.channel, files.data};
      if (files.memory >= 0) all.push_back(files.memory);
      if (guest >= 0) send_files(guest, bytes.view(), all);
      for (const int file : {guest, files.channel, files.data, files.memory}) close(file);
      close_door(birth.door, door);
    }
    if (wait[0].revents == 0) continue;
    signalfd_siginfo info{};
    if (read(signals, &info, sizeof info) != sizeof info) continue;
    if (wait4(child, &end.status, WNOHANG, &use) == child) break;
  }
  close_door(birth.door, door);
  kill(-child, SIGKILL);
  keeper::kill_children();
  end.max_rss = static_cast<std::uint64_t>(use.ru_maxrss) << 10;
  send(files.nurse, &end, sizeof end, MSG_NOSIGNAL);
  std::_Exit(0);
}

// Takes what came with open files; the number of bytes, 0 or less where nobody is there any more.
ssize_t take_files(int socket, std::span<std::byte> bytes, std::vector<int>& files) {
  iovec part{bytes.data(), bytes.size()};
  alignas(cmsghdr) std::array<char, CMSG_SPACE(kFiles * sizeof(int))> control{};
  msghdr message{};
  message.msg_iov = &part;
  message.msg_iovlen = 1;
  message.msg_control = control.data();
  message.msg_controllen = control.size();
  ssize_t n = 0;
  do {
    n = recvmsg(socket, &message, MSG_CMSG_CLOEXEC);
  } while (n < 0 && errno == EINTR);
  files.clear();
  const cmsghdr* header = n > 0 ? CMSG_FIRSTHDR(&message) : nullptr;
  if (header == nullptr) return n;
  files.resize((header->cmsg_len - CMSG_LEN(0)) / sizeof(int));
  std::memcpy(files.data(), CMSG_DATA(header), files.size() * sizeof(int));
  return n;
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
  cmsghdr* const header = CMSG_FIRSTHDR(&message);
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
  std::uint64_t size = 0;
  std::vector<int> files;
  while (true) {
    const ssize_t n = take_files(socket, std::as_writable_bytes(std::span(&size, 1)), files);
    if (n <= 0) std::_Exit(0);
    if (n == sizeof size && files.size() >= kFiles - 1 && fork() == 0) {
      for (const int signal : {SIGINT, SIGTERM, SIGHUP, SIGQUIT, SIGUSR1, SIGUSR2, SIGTSTP}) ::signal(signal, SIG_DFL);
      close(socket);
      live_as_nurse({files[0], files[1], files[2], files[3], files[4], files.size() == kFiles ? files[5] : -1}, size);
    }
    for (const int file : files) close(file);
  }
}

void live_as_guest(const std::string& door) {
  unsetenv(kDoor);
  prctl(PR_SET_NAME, "mobula-sandbox");
  const int socket = ::socket(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0);
  const sockaddr_un address = address_of(door);
  if (connect(socket, reinterpret_cast<const sockaddr*>(&address), sizeof address) != 0) {
    std::fprintf(stderr, "mobula: this process was started for tasks of a job, and finds it nowhere: %s: %s\n",
                 socket_of(door).c_str(), std::strerror(errno));
    std::_Exit(125);
  }
  std::vector<std::byte> bytes(std::size_t{1} << 20);
  std::vector<int> got;
  const ssize_t n = take_files(socket, bytes, got);
  if (n <= 0 || got.size() < 2) std::_Exit(125);
  close(socket);
  const Files files{got[0], -1, got[1], -1, -1, got.size() > 2 ? got[2] : -1};
  core::WireSandbox sandbox;
  try {
    core::WireReader in(ByteView(bytes.data(), static_cast<std::size_t>(n)));
    in(sandbox);
  } catch (const std::exception&) {
    std::_Exit(125);
  }
  // Nobody kills what lives in a container of Docker when the rank is gone.
  std::thread([channel = files.channel] {
    pollfd wait{channel, 0, 0};
    while (poll(&wait, 1, -1) <= 0 || (wait.revents & (POLLHUP | POLLERR)) == 0) {
    }
    std::_Exit(0);
  }).detach();
  serve(files, sandbox);
}

}  // namespace mobula::nursery
