#include "keeper/keeper.hpp"

#include <arpa/inet.h>
#include <poll.h>
#include <signal.h>
#include <sys/prctl.h>
#include <sys/signalfd.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cerrno>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <string>
#include <vector>

#include "core/verdict.hpp"
#include "keeper/board.hpp"
#include "keeper/processes.hpp"

namespace mobula::keeper {
namespace {

struct Note {
  std::uint32_t what = 0;  // 'p': the PMIx socket; 'w': the board; 'h': the same, of the head; 'l': leaves
  std::uint32_t number = 0;
};

constexpr int kPassedOn[] = {SIGTERM, SIGINT, SIGHUP, SIGQUIT, SIGUSR1, SIGUSR2, SIGCONT, SIGTSTP, SIGWINCH};

// The connection to the address in PMIX_SERVER_URI…, or -1.
int pmix_socket() {
  int port = 0;
  std::string path;
  for (const char* name :
       {"PMIX_SERVER_URI41", "PMIX_SERVER_URI4", "PMIX_SERVER_URI3", "PMIX_SERVER_URI21", "PMIX_SERVER_URI2"}) {
    const char* value = std::getenv(name);
    if (value == nullptr) continue;
    const std::string uri = value;
    if (const std::size_t colon = uri.rfind(':'); colon != std::string::npos) port = std::atoi(uri.c_str() + colon + 1);
    if (const std::size_t at = uri.find("usock:"); at != std::string::npos) path = uri.substr(at + 6);
    break;
  }
  constexpr int kFiles = 1024;
  for (int file = 3; file < kFiles; ++file) {
    sockaddr_storage peer{};
    socklen_t size = sizeof peer;
    if (getpeername(file, reinterpret_cast<sockaddr*>(&peer), &size) != 0) continue;
    if (peer.ss_family == AF_INET && port != 0 &&
        ntohs(reinterpret_cast<const sockaddr_in*>(&peer)->sin_port) == port) {
      return file;
    }
    if (peer.ss_family == AF_INET6 && port != 0 &&
        ntohs(reinterpret_cast<const sockaddr_in6*>(&peer)->sin6_port) == port) {
      return file;
    }
    if (peer.ss_family == AF_UNIX && !path.empty() && path == reinterpret_cast<const sockaddr_un*>(&peer)->sun_path) {
      return file;
    }
  }
  return -1;
}

// Takes in one note; false if there is none any more.
bool receive(int socket, Note& note, int& file) {
  file = -1;
  iovec bytes{&note, sizeof note};
  alignas(cmsghdr) char control[CMSG_SPACE(sizeof(int))];
  msghdr message{};
  message.msg_iov = &bytes;
  message.msg_iovlen = 1;
  message.msg_control = control;
  message.msg_controllen = sizeof control;
  const ssize_t n = recvmsg(socket, &message, MSG_CMSG_CLOEXEC | MSG_DONTWAIT);
  if (n != sizeof note) return false;
  if (const cmsghdr* header = CMSG_FIRSTHDR(&message); header != nullptr && header->cmsg_type == SCM_RIGHTS) {
    std::memcpy(&file, CMSG_DATA(header), sizeof file);
  }
  return true;
}

// How a process that we stand for would have ended.
[[noreturn]] void end_like(int status) {
  if (WIFSIGNALED(status)) {
    const int signal = WTERMSIG(status);
    prctl(PR_SET_DUMPABLE, 0);  // the rank's core is the one of interest
    ::signal(signal, SIG_DFL);
    sigset_t mask;
    sigemptyset(&mask);
    sigaddset(&mask, signal);
    sigprocmask(SIG_UNBLOCK, &mask, nullptr);
    kill(getpid(), signal);
    _exit(128 + signal);
  }
  _exit(WEXITSTATUS(status));
}

// The job ends with its head, and with a rank that has not joined. The launcher, where it lets ranks die, may not end
// then: who started it for that reason learns it here.
void tell_end(int status, bool is_head) {
  if (status == 0) return;
  if (is_head) std::fprintf(stderr, "mobula: %s; the job ends\n", describe_end_of_head(status).c_str());
  const char* verdict = std::getenv(core::kVerdict);
  if (verdict == nullptr || core::read_verdict(verdict).code) return;
  core::job_ends(WIFSIGNALED(status) ? 128 + WTERMSIG(status) : WEXITSTATUS(status));
}

// The job goes on without the rank. Until it is over this process stays, for the launcher: the ranks of the node say
// that it is, or the launcher does, by closing its end or by a signal.
[[noreturn]] void wait_for_end(const Board& board, int pmix, int signals) {
  while (board.over().load() == 0) {
    pollfd files[] = {{signals, POLLIN, 0}, {pmix, POLLRDHUP, 0}};
    constexpr int kLook = 20;  // ms
    if (poll(files, 2, kLook) <= 0) continue;
    if (files[1].revents != 0) break;
    signalfd_siginfo info{};
    if (read(signals, &info, sizeof info) != sizeof info) continue;
    if (info.ssi_signo == SIGTERM || info.ssi_signo == SIGINT || info.ssi_signo == SIGHUP) break;
  }
  _exit(0);
}

[[noreturn]] void keep(pid_t child, int socket, int signals, Output& output) {
  std::unique_ptr<Board> board;
  std::uint32_t place = 0;
  int pmix = -1;
  bool leaves = false;
  bool is_head = false;
  const auto take_notes = [&] {
    Note note;
    int file = -1;
    while (receive(socket, note, file)) {
      if (note.what == 'p') pmix = file;
      if ((note.what == 'w' || note.what == 'h') && file >= 0) {
        is_head = note.what == 'h';
        if (auto memory = core::SharedMemory::of(file)) board = std::make_unique<Board>(std::move(memory));
        place = note.number;
      }
      if (note.what == 'l') leaves = true;
    }
  };
  bool open = true;
  while (true) {
    std::vector<pollfd> files{{signals, POLLIN, 0}, {open ? socket : -1, POLLIN, 0}};
    output.add_to(files);
    if (poll(files.data(), files.size(), -1) < 0) continue;
    output.pass_on();
    if (files[1].revents != 0) {
      take_notes();
      open = (files[1].revents & POLLHUP) == 0;
    }
    signalfd_siginfo info{};
    if ((files[0].revents & POLLIN) == 0 || read(signals, &info, sizeof info) != sizeof info) continue;
    const int signal = static_cast<int>(info.ssi_signo);
    if (signal != SIGCHLD) {
      kill(child, signal);
      continue;
    }
    int status = 0;
    bool ended = false;
    int of = 0;
    for (pid_t pid = 0; (pid = waitpid(-1, &of, WNOHANG)) > 0;) {
      if (pid != child) continue;  // one that the rank has left to us
      ended = true;
      status = of;
    }
    if (!ended) continue;
    take_notes();
    if (leaves || board == nullptr) {
      output.finish();
      if (!leaves) tell_end(status, false);
      end_like(status);
    }
    Place& mine = board->place(place);
    mine.status.store(status);
    mine.end.store(static_cast<std::uint32_t>(End::died));
    kill_children();  // what the rank had started
    output.finish();
    if (is_head) {
      // The launcher may take that for a good end, and leave the node's other processes to wait for theirs.
      if (status == 0) board->over().store(1);
      tell_end(status, true);
      end_like(status);
    }
    wait_for_end(*board, pmix, signals);
  }
}

}  // namespace

std::unique_ptr<Link> Link::start(Output& output) {
  if (has_threads()) return nullptr;
  int sockets[2];
  if (socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, sockets) != 0) return nullptr;
  sigset_t all;
  sigset_t before;
  sigemptyset(&all);
  sigaddset(&all, SIGCHLD);
  for (const int signal : kPassedOn) sigaddset(&all, signal);
  sigprocmask(SIG_BLOCK, &all, &before);
  std::fflush(nullptr);  // what is in the buffers is written once
  const pid_t parent = getpid();
  const pid_t child = fork();
  if (child < 0) {
    close(sockets[0]);
    close(sockets[1]);
    sigprocmask(SIG_SETMASK, &before, nullptr);
    return nullptr;
  }
  if (child == 0) {
    prctl(PR_SET_PDEATHSIG, SIGKILL);
    if (getppid() != parent) _exit(1);  // it died before that
    close(sockets[0]);
    output.write_here();
    sigprocmask(SIG_SETMASK, &before, nullptr);
    return std::make_unique<Link>(sockets[1]);
  }
  close(sockets[1]);
  prctl(PR_SET_NAME, "mobula-keeper");
  prctl(PR_SET_CHILD_SUBREAPER, 1);
  output.read_there();
  keep(child, sockets[0], signalfd(-1, &all, SFD_CLOEXEC), output);
}

Link::~Link() { close(socket_); }

void Link::tell(char what, std::uint32_t number, int file) {
  Note note{static_cast<std::uint32_t>(what), number};
  iovec bytes{&note, sizeof note};
  alignas(cmsghdr) char control[CMSG_SPACE(sizeof(int))] = {};
  msghdr message{};
  message.msg_iov = &bytes;
  message.msg_iovlen = 1;
  if (file >= 0) {
    message.msg_control = control;
    message.msg_controllen = sizeof control;
    cmsghdr* header = CMSG_FIRSTHDR(&message);
    header->cmsg_level = SOL_SOCKET;
    header->cmsg_type = SCM_RIGHTS;
    header->cmsg_len = CMSG_LEN(sizeof file);
    std::memcpy(CMSG_DATA(header), &file, sizeof file);
  }
  while (sendmsg(socket_, &message, MSG_NOSIGNAL) < 0 && errno == EINTR) {
  }
}

void Link::hold_pmix() {
  if (const int file = pmix_socket(); file >= 0) tell('p', 0, file);
}

void Link::watch(int board, std::uint32_t place, bool is_head) { tell(is_head ? 'h' : 'w', place, board); }

void Link::leave() { tell('l', 0, -1); }

}  // namespace mobula::keeper
