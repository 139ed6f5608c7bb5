#include "exec/door.hpp"

#include <fcntl.h>
#include <poll.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

#include <array>
#include <cerrno>
#include <chrono>
#include <csignal>
#include <cstring>
#include <filesystem>
#include <fstream>

#include "mobula/error.hpp"

namespace mobula::exec {
namespace fs = std::filesystem;

namespace {

constexpr std::size_t kLongest = 4096;  // bytes of a question
constexpr int kPatience = 2000;         // ms for it to come

sockaddr_un address_in(const std::string& folder) {
  sockaddr_un address{};
  address.sun_family = AF_UNIX;
  const std::string path = folder + "/socket";
  if (path.size() >= sizeof address.sun_path) throw Error("mobula: the path " + path + " is too long for a socket");
  std::memcpy(address.sun_path, path.c_str(), path.size() + 1);
  return address;
}

// The connection to who listens in a job's folder, or -1, with errno.
int connect_to(const std::string& folder) {
  const int to = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
  const sockaddr_un address = address_in(folder);
  if (to < 0 || connect(to, reinterpret_cast<const sockaddr*>(&address), sizeof address) == 0) return to;
  const int error = errno;
  close(to);
  errno = error;
  return -1;
}

// By whether somebody listens: numbers of processes mean nothing from one container to the next.
void remove_left_ones(const std::string& jobs) {
  constexpr auto kStarts = std::chrono::minutes(1);
  std::error_code error;
  for (const auto& entry : fs::directory_iterator(jobs, error)) {
    const int to = connect_to(entry.path());
    const int why = errno;
    if (to >= 0) {
      close(to);
      continue;
    }
    const bool starts =
        why == ENOENT && fs::file_time_type::clock::now() - fs::last_write_time(entry.path(), error) < kStarts;
    if (!starts && (why == ECONNREFUSED || why == ENOENT)) fs::remove_all(entry.path(), error);
  }
}

bool send_all(int to, const std::string& text) {
  std::size_t sent = 0;
  while (sent < text.size()) {
    const ssize_t n = send(to, text.data() + sent, text.size() - sent, MSG_NOSIGNAL);
    if (n < 0 && errno == EINTR) continue;
    if (n <= 0) return false;
    sent += static_cast<std::size_t>(n);
  }
  return true;
}

// A line, or what came before the other side ended.
std::string receive_line(int from, std::size_t most, int patience) {
  std::string text;
  std::array<char, 4096> part{};
  while (text.size() < most && text.find('\n') == std::string::npos) {
    pollfd ready{from, POLLIN, 0};
    if (poll(&ready, 1, patience) <= 0) break;
    const ssize_t n = recv(from, part.data(), part.size(), 0);
    if (n < 0 && errno == EINTR) continue;
    if (n <= 0) break;
    text.append(part.data(), static_cast<std::size_t>(n));
  }
  return text.substr(0, text.find('\n'));
}

}  // namespace

std::string folder_of_jobs(bool make) {
  const std::string path = "/tmp/mobula-" + std::to_string(geteuid());
  if (make && mkdir(path.c_str(), 0700) != 0 && errno != EEXIST) return "";
  // Who else might have made it could listen in our place.
  struct stat of {};
  const bool is_ours = lstat(path.c_str(), &of) == 0 && S_ISDIR(of.st_mode) && of.st_uid == geteuid() &&
                       (of.st_mode & (S_IRWXG | S_IRWXO)) == 0;
  return is_ours ? path : "";
}

Door::Door(const std::string& name, const std::string& record, std::function<std::string(const std::string&)> answer)
    : answer_(std::move(answer)) {
  int made = -1;
  for (int i = 0; i < 3 && made != 0; ++i) {  // the last job to end removes the folder of jobs
    const std::string jobs = folder_of_jobs(true);
    if (jobs.empty()) throw Error("mobula: the folder of jobs in /tmp is not ours alone");
    remove_left_ones(jobs);
    folder_ = jobs + "/" + name;
    made = mkdir(folder_.c_str(), 0700);
  }
  if (made != 0) throw Error("mobula: " + folder_ + " can't be made: " + std::strerror(errno));
  std::ofstream(folder_ + "/job.json") << record << '\n';
  listener_ = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
  const sockaddr_un address = address_in(folder_);
  constexpr int kQueue = 16;
  if (listener_ < 0 || bind(listener_, reinterpret_cast<const sockaddr*>(&address), sizeof address) != 0 ||
      listen(listener_, kQueue) != 0) {
    const int error = errno;
    if (listener_ >= 0) close(listener_);
    std::error_code ignored;
    fs::remove_all(folder_, ignored);
    throw Error("mobula: no socket can be made in " + folder_ + ": " + std::strerror(error));
  }
  thread_ = std::thread([this] { serve(); });
}

Door::~Door() {
  shutdown(listener_, SHUT_RDWR);  // wakes the thread
  thread_.join();
  close(listener_);
  std::error_code ignored;
  fs::remove_all(folder_, ignored);
  rmdir(fs::path(folder_).parent_path().c_str());  // if it is empty
}

void Door::serve() {
  // Signals are for the other threads.
  sigset_t all;
  sigfillset(&all);
  pthread_sigmask(SIG_BLOCK, &all, nullptr);
  while (true) {
    const int guest = accept4(listener_, nullptr, nullptr, SOCK_CLOEXEC);
    if (guest < 0) {
      if (errno == EINTR || errno == ECONNABORTED) continue;
      return;
    }
    ucred who{};
    socklen_t size = sizeof who;
    const bool may =
        getsockopt(guest, SOL_SOCKET, SO_PEERCRED, &who, &size) == 0 && (who.uid == geteuid() || who.uid == 0);
    if (may) send_all(guest, answer_(receive_line(guest, kLongest, kPatience)) + "\n");
    close(guest);
  }
}

std::string ask_door(const std::string& folder, const std::string& question) {
  const int to = connect_to(folder);
  if (to < 0) throw Error("mobula: the job in " + folder + " does not answer: " + std::strerror(errno));
  constexpr std::size_t kMost = 256 << 20;
  std::string text;
  if (send_all(to, question + "\n")) text = receive_line(to, kMost, 10'000);
  close(to);
  if (text.empty()) throw Error("mobula: the job in " + folder + " does not answer");
  return text;
}

}  // namespace mobula::exec
