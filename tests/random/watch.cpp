#include "random/watch.hpp"

#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <csignal>
#include <cstdio>
#include <cstdlib>
#include <map>
#include <mutex>
#include <thread>

namespace random_programs {
namespace {

using Clock = std::chrono::steady_clock;
using std::chrono::milliseconds;

// A wait may be longer than the patience while anything goes on in the job, but not by more than this factor.
constexpr int kPatienceWithProgress = 6;
constexpr int kExplanations = 6;  // of one wait, that are printed

// What a signal says, as its value.
enum Word : int { kSomethingIsWrong = 1, kSomethingHangs = 2, kSayWhatYouWaitFor = 3, kWeGoOn = 4 };

std::atomic<bool> g_wrong = false;
std::atomic<bool> g_hangs = false;
std::atomic<bool> g_is_asked = false;
std::atomic<bool> g_others_go_on = false;
std::atomic<std::uint64_t> g_progress = 0;

void on_signal(int, siginfo_t* info, void*) {
  switch (info->si_value.sival_int) {
    case kSomethingIsWrong: g_wrong = true; break;
    case kSomethingHangs: g_hangs = true; break;
    case kSayWhatYouWaitFor: g_is_asked = true; break;
    case kWeGoOn: g_others_go_on = true; break;
    default: break;
  }
}

struct Wait {
  std::string what;
  std::vector<Explanation> explain;
  Clock::time_point start;
};

// One for each process. It is never destroyed: threads use it to the end.
struct Watch {
  std::mutex mutex;
  std::map<std::size_t, Wait> waits;  // by number, so the oldest are first
  std::size_t next = 1;
  bool is_started = false;
  pid_t driver = 0;
  milliseconds patience{};
  std::vector<pid_t> others;
  std::string title;
  Clock::time_point end = Clock::time_point::max();  // of the process, with that code
  int code = 0;
};
Watch& watch() {
  static Watch* watch = new Watch;
  return *watch;
}

bool is_driver() { return watch().driver == getpid(); }

void tell(pid_t process, Word word) {
  sigval value{};
  value.sival_int = word;
  if (process > 0) sigqueue(process, SIGUSR2, value);
}

double seconds_since(Clock::time_point start) { return std::chrono::duration<double>(Clock::now() - start).count(); }

// What this process waits for. An explanation may hang, so a thread of its own says it all, line by line.
void say_waits() {
  std::map<std::size_t, Wait> waits;
  {
    const std::lock_guard lock(watch().mutex);
    waits = watch().waits;
  }
  std::thread([waits = std::move(waits)] {
    for (const auto& [number, wait] : waits) {
      std::fprintf(stderr, "random: process %d has waited for %.1f s: %s\n", getpid(), seconds_since(wait.start),
                   wait.what.c_str());
      int left = kExplanations;
      for (const Explanation& explain : wait.explain) {
        std::string text;
        try {
          text = explain();
        } catch (const std::exception& e) {
          text = std::string("no explanation: ") + e.what();
        }
        if (wait.explain.size() > 1 && text.starts_with("it is there")) continue;
        if (left-- == 0) break;
        std::fprintf(stderr, "random:   %s\n", text.c_str());
      }
    }
    std::fprintf(stderr, "random: process %d: that is all\n", getpid());
  }).detach();
}

[[noreturn]] void end_hung() {
  std::fprintf(stderr, "random: HANG: %s\n", watch().title.c_str());
  say_all_waits();
  std::fprintf(stderr, "random: HANG: %s\n", watch().title.c_str());
  std::fflush(nullptr);
  std::_Exit(kHang);
}

bool one_is_older_than(milliseconds time) {
  const std::lock_guard lock(watch().mutex);
  return !watch().waits.empty() && Clock::now() - watch().waits.begin()->second.start > time;
}

bool is_over() {
  const std::lock_guard lock(watch().mutex);
  return Clock::now() > watch().end;
}

void look() {
  bool told = false;
  std::uint64_t seen = 0;
  auto last_progress = Clock::now();
  Clock::time_point wrong_since = Clock::time_point::max();
  for (;;) {
    std::this_thread::sleep_for(milliseconds(200));
    if (g_is_asked.exchange(false)) say_waits();
    const bool goes_on = g_progress != seen;
    seen = g_progress;
    if (goes_on && !is_driver()) tell(watch().driver, kWeGoOn);
    if (goes_on || g_others_go_on.exchange(false)) last_progress = Clock::now();
    const bool stands_still = Clock::now() - last_progress > watch().patience;
    if (one_is_older_than(watch().patience * kPatienceWithProgress) || g_hangs) {
      if (is_driver()) end_hung();
      if (!told) tell(watch().driver, kSomethingHangs);
      told = true;
    }
    if (is_driver() && stands_still && one_is_older_than(watch().patience)) end_hung();
    if (!is_driver()) continue;
    if (g_wrong && wrong_since == Clock::time_point::max()) wrong_since = Clock::now();
    // The driver may be in a wait that never ends for what went wrong.
    if (g_wrong && Clock::now() - wrong_since > milliseconds(5000)) {
      std::fprintf(stderr, "random: WRONG: %s\n", watch().title.c_str());
      std::fflush(nullptr);
      std::_Exit(kWrongValue);
    }
    if (is_over()) {
      std::fprintf(stderr, "random: the job does not end: %s\n", watch().title.c_str());
      std::fflush(nullptr);
      std::_Exit(watch().code == kWell ? kHang : watch().code);
    }
  }
}

}  // namespace

void prepare_watch() {
  struct sigaction action {};
  action.sa_sigaction = on_signal;
  action.sa_flags = SA_SIGINFO | SA_RESTART;
  sigaction(SIGUSR2, &action, nullptr);
}

void start_watch(pid_t driver, milliseconds patience) {
  const std::lock_guard lock(watch().mutex);
  if (watch().is_started) return;
  watch().is_started = true;
  watch().driver = driver;
  watch().patience = patience;
  std::thread(look).detach();
}

void set_others(std::vector<pid_t> others) {
  const std::lock_guard lock(watch().mutex);
  watch().others = std::move(others);
}

void say_all_waits() {
  say_waits();
  for (const pid_t process : watch().others) tell(process, kSayWhatYouWaitFor);
  std::this_thread::sleep_for(std::min(milliseconds(4000), watch().patience));
}

void set_title(std::string title) {
  const std::lock_guard lock(watch().mutex);
  watch().title = std::move(title);
}

Watched::Watched(std::string what, std::vector<Explanation> explain) {
  const std::lock_guard lock(watch().mutex);
  number_ = watch().next++;
  watch().waits.emplace(number_, Wait{std::move(what), std::move(explain), Clock::now()});
}

void note_progress() { ++g_progress; }

Watched::~Watched() {
  note_progress();
  // What explains may hold a Ref, whose drop must not happen under the lock.
  std::map<std::size_t, Wait>::node_type wait;
  const std::lock_guard lock(watch().mutex);
  wait = watch().waits.extract(number_);
}

void tell_driver_wrong(pid_t driver, const std::string& text) {
  std::fprintf(stderr, "random: WRONG: process %d: %s\n", getpid(), text.c_str());
  g_wrong = true;
  if (driver != getpid()) tell(driver, kSomethingIsWrong);
}

void tell_wrong(const std::string& text) { tell_driver_wrong(watch().driver, text); }

bool something_is_wrong() { return g_wrong; }

void end_within(milliseconds time, int code) {
  const std::lock_guard lock(watch().mutex);
  watch().end = Clock::now() + time;
  watch().code = code;
}

}  // namespace random_programs
