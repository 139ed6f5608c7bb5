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
#include <filesystem>
#include <fstream>
#include <system_error>

#include "core/error.hpp"
#include "core/functions.hpp"
#include "core/log.hpp"
#include "core/wire.hpp"
#include "keeper/processes.hpp"
#include "nursery/child.hpp"
#include "programs/container.hpp"
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

// How this process was started.
std::vector<std::string> own_command_line() {
  std::vector<std::string> words;
  std::ifstream line("/proc/self/cmdline");
  for (std::string word; std::getline(line, word, '\0');) words.push_back(word);
  std::error_code error;
  const auto file = std::filesystem::read_symlink("/proc/self/exe", error);
  if (!error && !words.empty()) words.front() = file.string();
  return words;
}

// The rank's program is started in a container, and fetches its files at a door in a folder that it sees.
Birth birth_of_guest(const core::WireSandbox& sandbox, const std::function<bool()>& is_unwanted) {
  Birth birth;
  std::string door = "/tmp/mobula-XXXXXX";  // which Apptainer and Charliecloud show by themselves
  if (mkdtemp(door.data()) == nullptr) {
    throw std::system_error(errno, std::generic_category(), "mobula: a folder in /tmp for a container");
  }
  birth.door = door;
  try {
    programs::Inside inside;
    inside.words = own_command_line();
    inside.cwd = sandbox.cwd;
    inside.env = programs::environment({std::string(kDoor) + "=" + door});
    inside.memory = sandbox.memory;
    inside.cpus = topology::thread_cpus();
    inside.folder = door;
    inside.is_unwanted = is_unwanted;
    core::WireImage image = sandbox.image;
    image.env.insert(image.env.begin(), sandbox.env.begin(), sandbox.env.end());
    image.env.push_back(std::string(kDoor) + "=" + door);
    programs::Contained contained = programs::contain(image, inside);
    birth.words = std::move(contained.words);
    birth.end = std::move(contained.end);
    birth.env = std::move(inside.env);
  } catch (const CommandFailed& e) {
    rmdir(door.c_str());
    throw TaskCrashed(e.what());
  } catch (...) {
    rmdir(door.c_str());
    throw;
  }
  return birth;
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
  ~Child() {
    drop_answer();
    close_all({channel_, nurse_, data_, out_, err_});
  }

  const core::WireSandbox& sandbox() const { return sandbox_; }
  // False if there is no zygote any more. `memory`: the file that it may see, or -1.
  bool start(int zygote, Birth birth, int memory);
  struct Answer {
    Response response;
    ByteView value;  // until the next request
  };
  // The answer to the request; std::nullopt: the child has ended, see `why`.
  std::optional<Answer> run(const Request& request, const std::function<bool()>& is_unwanted);
  bool was_unwanted() const { return unwanted_; }
  std::string why() const { return why_; }
  // Also one that waited for work, and was killed meanwhile.
  bool ended() const;

 private:
  void write(const Buffer& bytes) const;
  Answer read_answer(const Sizes& sizes);
  void drop_answer();
  void pass_on(int& file, int to);
  void take_end();
  void greet(const Greeting& greeting);

  core::WireSandbox sandbox_;
  int channel_ = -1;
  int nurse_ = -1;
  int data_ = -1;
  int out_ = -1;
  int err_ = -1;
  bool waits_for_greeting_ = true;  // the file of data has how it comes to be until then
  bool ended_ = false;
  bool unwanted_ = false;
  bool late_ = false;
  std::string refused_;  // why it can't be used
  std::string why_;
  std::string last_;  // output
  std::span<const std::byte> answer_;
};

bool Child::start(int zygote, Birth birth, int memory) {
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
    birth.sandbox = sandbox_;
    Buffer bytes;
    core::WireWriter writer(bytes);
    writer(birth);
    write(bytes);
    const std::uint64_t size = bytes.size();
    std::vector<int> files{channel[1], nurse[1], data_, out[1], err[1]};
    if (memory >= 0) files.push_back(memory);
    sent = send_files(zygote, std::as_bytes(std::span(&size, 1)), files);
  }
  close_all({channel[1], nurse[1], out[1], err[1]});
  return sent;
}

bool Child::ended() const {
  std::array<pollfd, 2> files{{{channel_, 0, 0}, {nurse_, POLLIN, 0}}};
  return ended_ || poll(files.data(), files.size(), 0) != 0;
}

void Child::write(const Buffer& bytes) const {
  std::size_t done = 0;
  while (done < bytes.size()) {
    const ssize_t n = pwrite(data_, bytes.data() + done, bytes.size() - done, static_cast<off_t>(done));
    if (n < 0) throw std::system_error(errno, std::generic_category(), "mobula: a task's arguments for its sandbox");
    done += static_cast<std::size_t>(n);
  }
}

// The answer is looked at where the child has written it.
Child::Answer Child::read_answer(const Sizes& sizes) {
  const std::size_t size = sizes.response + sizes.value;
  void* const at = mmap(nullptr, size, PROT_READ, MAP_SHARED, data_, 0);
  if (at == MAP_FAILED) throw std::system_error(errno, std::generic_category(), "mobula: what a sandboxed task gave");
  answer_ = {static_cast<const std::byte*>(at), size};
  Answer answer;
  core::WireReader in(answer_.first(sizes.response));
  in(answer.response);
  answer.value = answer_.subspan(sizes.response);
  return answer;
}

void Child::drop_answer() {
  constexpr std::size_t kKept = 1 << 20;
  if (answer_.empty()) return;
  munmap(const_cast<std::byte*>(answer_.data()), answer_.size());
  if (answer_.size() > kKept) static_cast<void>(ftruncate(data_, 0));
  answer_ = {};
}

void Child::greet(const Greeting& greeting) {
  waits_for_greeting_ = false;
  if (greeting.digest == core::function_digest()) return;
  refused_ = "the program in it is another one than that of this rank: the image must have the same file";
  shutdown(nurse_, SHUT_WR);
}

// What the child prints becomes output of the rank.
void Child::pass_on(int& file, int to) {
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
  if (n == 0) close(std::exchange(file, -1));  // nobody writes there any more
}

// The nurse has told how the child ended, or is gone itself.
void Child::take_end() {
  End end;
  ended_ = true;
  const bool told = recv(nurse_, &end, sizeof end, 0) == sizeof end;
  pass_on(out_, 1);
  pass_on(err_, 2);
  if (!refused_.empty()) {
    why_ = refused_;
  } else if (waits_for_greeting_ && told && !sandbox_.image.name.empty()) {
    why_ =
        "container " + sandbox_.image.name +
        " ended before the program of this rank came to mobula::run in it (does the image have it, and the libraries "
        "that it needs?), with code " +
        std::to_string(WIFEXITED(end.status) ? WEXITSTATUS(end.status) : 128 + WTERMSIG(end.status));
  } else if (late_) {
    why_ = "it ran longer than its sandbox's limit of " + std::to_string(static_cast<double>(sandbox_.time_ns) / 1e9) +
           " s";
  } else if (!told) {
    why_ = "its process is gone, and nobody knows how it ended";
  } else if (WIFSIGNALED(end.status)) {
    why_ = "it was ended by " + signal_text(WTERMSIG(end.status));
  } else {
    why_ = "it ended its process with code " + std::to_string(WEXITSTATUS(end.status));
  }
  if (told && !late_ && refused_.empty()) why_ += ", having used " + std::to_string(end.max_rss >> 20) + " MiB";
  if (sandbox_.memory != 0) why_ += ", limit of memory " + std::to_string(sandbox_.memory >> 20) + " MiB";
  if (last_.size() > kLastOutput) last_.erase(0, last_.size() - kLastOutput);
  while (!last_.empty() && last_.back() == '\n') last_.pop_back();
  if (!last_.empty()) why_ += "; its last output: " + last_;
}

std::optional<Child::Answer> Child::run(const Request& request, const std::function<bool()>& is_unwanted) {
  constexpr std::chrono::seconds kGreeting{120};  // that a container may take to start
  last_.clear();
  drop_answer();
  auto started = Clock::now();
  const auto tell = [&] {
    Buffer bytes;
    core::WireWriter out(bytes);
    out(request);
    write(bytes);
    const std::uint64_t size = bytes.size();
    send(channel_, &size, sizeof size, MSG_NOSIGNAL);  // if nobody is there, the nurse says so
  };
  if (!waits_for_greeting_) tell();
  int channel = channel_;
  while (true) {
    std::array<pollfd, 4> files{{{channel, POLLIN, 0}, {nurse_, POLLIN, 0}, {out_, POLLIN, 0}, {err_, POLLIN, 0}}};
    if (poll(files.data(), files.size(), kLook) < 0 && errno != EINTR) {
      throw std::system_error(errno, std::generic_category(), "mobula: waiting for a sandboxed task");
    }
    if (files[2].revents != 0) pass_on(out_, 1);
    if (files[3].revents != 0) pass_on(err_, 2);
    if (files[0].revents != 0 && waits_for_greeting_) {
      Greeting greeting;
      if (recv(channel_, &greeting, sizeof greeting, 0) == sizeof greeting) {
        greet(greeting);
        started = Clock::now();
        if (refused_.empty()) tell();
        continue;
      }
      channel = -1;  // it has ended, of which the nurse will tell: to look on would take the core from them
    } else if (files[0].revents != 0) {
      Sizes sizes;
      if (recv(channel_, &sizes, sizeof sizes, 0) == sizeof sizes) {
        pass_on(out_, 1);
        pass_on(err_, 2);
        return read_answer(sizes);
      }
      channel = -1;
    }
    if (files[1].revents != 0) {
      take_end();
      return std::nullopt;
    }
    if (late_ || unwanted_ || !refused_.empty()) continue;  // it is being ended
    const auto now = Clock::now();
    if (waits_for_greeting_ && now - started > kGreeting) {
      refused_ = "its process did not come to its tasks within 120 s";
    } else if (!waits_for_greeting_) {
      late_ = sandbox_.time_ns >= 0 && now - started > std::chrono::nanoseconds(sandbox_.time_ns);
    }
    unwanted_ = !late_ && is_unwanted();
    if (late_ || unwanted_ || !refused_.empty()) shutdown(nurse_, SHUT_WR);
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

Nursery::~Nursery() {
  warm_.clear();
  close_all({zygote_, memory_file_});
}

void Nursery::share(ByteView memory, int file) {
  if (file < 0) return;  // values are copied then
  memory_ = memory;
  memory_file_ = file;
}

std::unique_ptr<Child> Nursery::make(const core::WireSandbox& sandbox, const std::function<bool()>& is_unwanted) const {
  auto child = std::make_unique<Child>(sandbox);
  Birth birth;
  if (!sandbox.image.name.empty()) birth = birth_of_guest(sandbox, is_unwanted);
  if (!child->start(zygote_, std::move(birth), memory_file_)) {
    throw std::system_error(errno, std::generic_category(), "mobula: a process for a sandboxed task");
  }
  return child;
}

std::unique_ptr<Child> Nursery::take(const core::WireSandbox& sandbox, const std::function<bool()>& is_unwanted) {
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
  return make(sandbox, is_unwanted);
}

void Nursery::give(std::unique_ptr<Child> child) {
  if (!child->sandbox().reuse) return;
  const std::lock_guard lock(mutex_);
  warm_.push_front(std::move(child));
  if (warm_.size() > kWarm) warm_.pop_back();
}

Request Nursery::request_of(const Task& task, const detail::TaskRun& run) const {
  Request request;
  request.function = task.function->index;
  request.dep_mask = run.dep_mask;
  request.inline_limit = run.inline_limit;
  request.checkpoint = run.checkpoint;
  for (const ByteView& value : run.deps) {
    const auto offset = static_cast<std::size_t>(value.data() - memory_.data());
    const bool shared = !memory_.empty() && !value.empty() && value.data() >= memory_.data() && offset < memory_.size();
    request.deps.push_back(shared ? Dep{offset, value.size(), {}} : Dep{Dep::kInline, 0, value});
  }
  request.cpus = topology::thread_cpus();
  request.context = task.context;
  return request;
}

namespace {

// What an answer says, where the task did not give a value.
void raise_failure(const core::WireSandbox& sandbox, const Response& response) {
  if (!response.failed) return;
  if (sandbox.memory != 0 && response.error.type == "std::bad_alloc") {
    throw TaskCrashed("mobula: a sandboxed task crashed: it asked for more memory than its limit of " +
                      std::to_string(sandbox.memory >> 20) + " MiB");
  }
  core::raise(response.error);
}

}  // namespace

void Nursery::invoke(const Task& task, detail::TaskRun& run) {
  MOBULA_CHECK(run.end - run.next == 1, "sandboxed tasks run one by one");
  run.begin();
  try {
    if (task.function->kind == detail::FunctionInfo::Kind::constructor) {
      construct(task, run);
    } else if (task.function->kind == detail::FunctionInfo::Kind::method) {
      call(task, run);
    } else {
      run_task(task, run);
    }
  } catch (...) {
    run.fail();
  }
  run.advance();
}

void Nursery::run_task(const Task& task, detail::TaskRun& run) {
  Request request = request_of(task, run);
  request.args = ByteView(run.args.take(0), run.args.remaining());
  auto child = take(task.sandbox, task.is_unwanted);
  const auto answer = child->run(request, task.is_unwanted);
  if (!answer) {
    if (child->was_unwanted()) throw Cancelled("mobula: the task was stopped");
    throw TaskCrashed("mobula: a sandboxed task crashed: " + child->why());
  }
  if (!answer->response.failed) run.give(answer->value);
  const Response response = answer->response;
  give(std::move(child));
  raise_failure(task.sandbox, response);
}

// ---- actors ------------------------------------------------------------------------------------------------------

namespace {

constexpr std::chrono::seconds kFarewell{2};  // that an object's destructor may take

}  // namespace

// An actor's object, as its rank has it: in a child, and how to make it again there. Used by one thread at a time.
struct ActorProcess {
  std::unique_ptr<Child> child;  // nullptr: it has ended
  std::string why;               // how
  int restarts = 0;              // that are left
  std::int32_t call_retries = 0;
  // Its constructor's request, kept where it may be needed again.
  std::uint32_t constructor = 0;
  std::uint64_t dep_mask = 0;
  Buffer args;
  std::vector<Buffer> deps;
  Buffer state;  // as it was last saved

  ActorProcess() = default;
  ActorProcess(const ActorProcess&) = delete;
  ActorProcess& operator=(const ActorProcess&) = delete;
  ~ActorProcess() {
    if (child == nullptr || child->ended()) return;
    Request request;
    request.act = Request::Act::end;
    const auto until = Clock::now() + kFarewell;
    try {
      child->run(request, [until] { return Clock::now() > until; });
    } catch (const std::exception& e) {
      core::log_warn(std::string("an actor's process was ended before its destructor: ") + e.what());
    }
  }
};

void Nursery::construct(const Task& task, detail::TaskRun& run) {
  auto process = std::make_shared<ActorProcess>();
  process->restarts = task.actor->restarts;
  process->call_retries = task.actor->limits.retries;
  Request request = request_of(task, run);
  request.args = ByteView(run.args.take(0), run.args.remaining());
  if (process->restarts > 0) {
    process->constructor = request.function;
    process->dep_mask = request.dep_mask;
    process->args = Buffer(request.args);
    for (const ByteView& value : run.deps) process->deps.emplace_back(value);
    process->state = Buffer(run.checkpoint);
  }
  process->child = make(task.sandbox, task.is_unwanted);
  const auto answer = process->child->run(request, task.is_unwanted);
  if (!answer) {
    if (process->child->was_unwanted()) throw Cancelled("mobula: the constructor was stopped");
    throw TaskCrashed("mobula: a constructor crashed in its process: " + process->child->why());
  }
  raise_failure(task.sandbox, answer->response);
  run.give(answer->value);
  run.actor = std::move(process);
}

namespace {

// The object is made again, in the state that was last saved.
void make_again(ActorProcess& process, std::unique_ptr<Child> child, const Nursery::Task& task) {
  Request request;
  request.function = process.constructor;
  request.dep_mask = process.dep_mask;
  request.inline_limit = 0;
  request.args = process.args.view();
  request.checkpoint = process.state.view();
  for (const Buffer& value : process.deps) request.deps.push_back({Dep::kInline, 0, value.view()});
  request.cpus = topology::thread_cpus();
  request.context = task.context;
  const auto answer = child->run(request, task.is_unwanted);
  if (!answer) {
    process.why = child->why();
    throw ActorDied("mobula: an actor was to be made again after a crash, and its constructor crashed: " + process.why);
  }
  if (answer->response.failed) {
    process.why = answer->response.error.message;
    throw ActorDied("mobula: an actor was to be made again after a crash, and its constructor threw: " + process.why);
  }
  process.child = std::move(child);
}

}  // namespace

void Nursery::call(const Task& task, detail::TaskRun& run) {
  auto& process = *static_cast<ActorProcess*>(run.actor.get());
  Request request = request_of(task, run);
  request.args = ByteView(run.args.take(0), run.args.remaining());
  for (std::int32_t attempt = 0;; ++attempt) {
    if (process.child != nullptr && process.child->ended()) {
      process.child.reset();
      process.why = "its process ended between two calls";
    }
    if (process.child == nullptr) {
      if (process.restarts == 0) throw ActorDied("mobula: the actor's process has crashed: " + process.why);
      --process.restarts;
      make_again(process, make(task.sandbox, task.is_unwanted), task);
    }
    if (const auto answer = process.child->run(request, task.is_unwanted)) {
      raise_failure(task.sandbox, answer->response);
      run.give(answer->value);
      return;
    }
    const auto child = std::move(process.child);
    process.why = child->why();
    if (child->was_unwanted()) throw Cancelled("mobula: the call was stopped");
    if (attempt >= process.call_retries || process.restarts == 0) {
      throw TaskCrashed("mobula: an actor's process crashed in a call: " + process.why);
    }
  }
}

void Nursery::save(const Task& task, detail::TaskRun& run, detail::Encoder& state) {
  auto& process = *static_cast<ActorProcess*>(run.actor.get());
  if (process.child == nullptr) throw ActorDied("its process has crashed");
  Request request;
  request.act = Request::Act::save;
  request.function = task.function->index;
  request.context = task.context;
  const auto answer = process.child->run(request, task.is_unwanted);
  if (!answer) {
    process.why = process.child->why();
    process.child.reset();
    throw TaskCrashed("its process crashed: " + process.why);
  }
  raise_failure(task.sandbox, answer->response);
  state.bytes(answer->value.data(), answer->value.size());
  if (process.restarts > 0) process.state = Buffer(answer->value);
}

}  // namespace mobula::nursery
