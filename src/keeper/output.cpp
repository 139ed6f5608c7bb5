#include "keeper/output.hpp"

#include <fcntl.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <csignal>
#include <cstdio>
#include <filesystem>

#include "core/host.hpp"
#include "core/trace.hpp"

namespace mobula::keeper {
namespace {

constexpr double kLinesPerSecond = 100;
constexpr double kAtOnce = 1000;            // lines
constexpr std::size_t kLongest = 16 << 10;  // bytes of a line that is passed on before its end

}  // namespace

Output::Output(int rank, bool tags, const std::string& folder) : folder_(folder), rank_(rank) {
  if (tags) tag_ = "[" + std::to_string(rank) + "] ";
  if (tag_.empty() && folder_.empty()) return;
  for (std::size_t i = 0; i < streams_.size(); ++i) {
    std::array<int, 2> pipe{};
    if (pipe2(pipe.data(), O_CLOEXEC) != 0) return;
    streams_[i].from = pipe[0];
    streams_[i].in = pipe[1];
    streams_[i].to = i == 0 ? STDOUT_FILENO : STDERR_FILENO;
  }
}

Output::~Output() {
  for (const Stream& stream : streams_) {
    if (stream.from >= 0) close(stream.from);
    if (stream.in >= 0) close(stream.in);
  }
  if (file_ >= 0) close(file_);
}

void Output::write_here() {
  if (!active()) return;
  for (Stream& stream : streams_) dup2(stream.in, stream.to);
  // Lines come as they are written, and those before a crash are not lost.
  setvbuf(stdout, nullptr, _IOLBF, BUFSIZ);
}

void Output::read_there() {
  if (!active()) return;
  signal(SIGPIPE, SIG_IGN);  // nobody may listen any more
  for (Stream& stream : streams_) {
    close(stream.in);
    stream.in = -1;
    fcntl(stream.from, F_SETFL, O_NONBLOCK);
  }
  allowed_ = kAtOnce;
  refilled_ = core::now();
  if (folder_.empty()) return;
  std::error_code ignored;
  std::filesystem::create_directories(folder_, ignored);
  const std::string path = folder_ + "/rank-" + std::to_string(rank_) + ".log";
  file_ = open(path.c_str(), O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0644);
  if (file_ < 0)
    std::fprintf(stderr, "mobula: the output of rank %d is not kept: %s can't be written\n", rank_, path.c_str());
}

void Output::add_to(std::vector<pollfd>& files) const {
  for (const Stream& stream : streams_) {
    if (stream.from >= 0) files.push_back({stream.from, POLLIN, 0});
  }
}

void Output::pass_on() {
  std::array<char, 64 << 10> part;
  for (Stream& stream : streams_) {
    while (stream.from >= 0) {
      const ssize_t n = read(stream.from, part.data(), part.size());
      if (n < 0 && errno == EINTR) continue;
      if (n == 0) {
        close(stream.from);
        stream.from = -1;
      }
      if (n <= 0) break;
      take(stream, part.data(), static_cast<std::size_t>(n));
    }
  }
}

void Output::finish() {
  pass_on();
  for (Stream& stream : streams_) tell_lines(stream, true);
  tell_left_out();
}

void Output::take(Stream& stream, const char* bytes, std::size_t size) {
  if (file_ >= 0) core::write_all(file_, bytes, size);
  if (tag_.empty()) {
    core::write_all(stream.to, bytes, size);
    return;
  }
  stream.line.append(bytes, size);
  tell_lines(stream, false);
}

// The complete ones; `all`: and what there is of the next.
void Output::tell_lines(Stream& stream, bool all) {
  std::string text;
  std::size_t at = 0;
  while (at < stream.line.size()) {
    std::size_t end = stream.line.find('\n', at);
    if (end == std::string::npos) {
      if (!all && stream.line.size() - at < kLongest) break;
      end = stream.line.size();
    }
    if (may_tell()) {
      // Our own say which rank they are of.
      const bool is_ours = stream.line.compare(at, 8, "mobula [") == 0;
      text += (is_ours ? "" : tag_) + stream.line.substr(at, end - at) + "\n";
    } else {
      ++left_out_;
    }
    at = std::min(end + 1, stream.line.size());
  }
  stream.line.erase(0, at);
  if (left_out_ != 0 && !text.empty()) tell_left_out();
  core::write_all(stream.to, text.data(), text.size());
}

bool Output::may_tell() {
  const core::Time now = core::now();
  allowed_ = std::min(kAtOnce, allowed_ + static_cast<double>(now - refilled_) * 1e-9 * kLinesPerSecond);
  refilled_ = now;
  // Once it is silent it stays so for a while: a line now and then between two remarks helps nobody.
  silent_ = allowed_ < (silent_ ? kLinesPerSecond : 1);
  if (silent_) return false;
  allowed_ -= 1;
  return true;
}

void Output::tell_left_out() {
  if (left_out_ == 0) return;
  const std::string text =
      tag_ + "… " + std::to_string(left_out_) + " lines are left out here; " +
      (file_ >= 0 ? "all are in " + folder_ + "/rank-" + std::to_string(rank_) + ".log"
                  : std::string("--mobula-job-dir=FOLDER keeps all, --mobula-output=plain shows all")) +
      "\n";
  left_out_ = 0;
  core::write_all(STDERR_FILENO, text.data(), text.size());
}

}  // namespace mobula::keeper
