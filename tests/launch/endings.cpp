// Ends in the way that is asked for, for endings.sh.
#include <atomic>
#include <csignal>
#include <cstdio>
#include <mobula/mobula.hpp>
#include <thread>
#include <vector>

static void sleep_s(int s) { std::this_thread::sleep_for(std::chrono::seconds(s)); }
static long read_for_long(mobula::Ref<std::vector<int>> ref) {
  const auto view = mobula::view(ref);
  long sum = 0;
  const auto end = std::chrono::steady_clock::now() + std::chrono::seconds(30);
  while (std::chrono::steady_clock::now() < end) {
    for (const int i : view) sum += i;
  }
  return sum;
}
static int three() { return 3; }
struct Counter {
  int three() { return 3; }
};

// Threads that are in every kind of call when the driver returns, and go on calling.
class Callers {
 public:
  void start() {
    const auto counter = mobula::actor<Counter>();
    const mobula::TaskOptions taken{.resources = {{"taken", 1}}};
    holder_ = mobula::actor<Counter>.with({.resources = {{"taken", 1}}})();
    mobula::get(mobula::remote<&Counter::three>(holder_));
    const auto never = mobula::remote<sleep_s>.with(taken)(1);
    add("get", [never] { mobula::get(never); });
    add("get with a limit", [never] { mobula::get(never, std::chrono::minutes(5)); });
    add("wait", [never] { mobula::wait(std::vector{never}); });
    add("as_completed", [never] {
      for (const auto& one : mobula::as_completed(std::vector{never})) static_cast<void>(one);
    });
    add("get of a batch", [taken] { mobula::get(mobula::remote<sleep_s>.with(taken).map(std::vector<int>(100, 1))); });
    again("submit and get", [] { mobula::get(mobula::remote<three>()); });
    again("submit", [] { mobula::remote<three>(); });
    again("map", [] { mobula::remote<sleep_s>.map(std::vector<int>(10, 0)); });
    again("put", [] { mobula::get(mobula::put(std::vector<char>(100'000))); });
    again("view", [] { static_cast<void>(mobula::view(mobula::put(std::vector<char>(100'000)))); });
    again("call", [counter] { mobula::get(mobula::remote<&Counter::three>(counter)); });
    again("make and kill", [] { mobula::kill(mobula::actor<Counter>()); });
    again("cluster", [] { mobula::cluster(); });
    again("store_stats", [] { mobula::store_stats(); });
    again("explain", [never] { mobula::explain(never); });
    again("cancel", [taken] { mobula::cancel(mobula::remote<sleep_s>.with(taken)(1)); });
    again("find_actor", [] {
      try {
        mobula::find_actor<Counter>("nobody");
      } catch (const mobula::NoSuchActor&) {
      }
    });
  }
  // How many were told, by an exception, that the job has ended.
  std::size_t join() {
    for (auto& thread : threads_) thread.join();
    return told_;
  }
  std::size_t size() const { return threads_.size(); }

 private:
  template <class F>
  void add(const char* what, F act) {
    threads_.emplace_back([this, what, act] {
      try {
        act();
        std::printf("%s returned\n", what);
      } catch (const mobula::Error&) {
        ++told_;
      } catch (const std::exception& e) {
        std::printf("%s was told: %s\n", what, e.what());
      }
    });
  }
  template <class F>
  void again(const char* what, F act) {
    add(what, [act] {
      while (true) act();
    });
  }
  mobula::Actor<Counter> holder_;
  std::vector<std::thread> threads_;
  std::atomic<std::size_t> told_{0};
};

static int thrower() { throw std::invalid_argument("from a task"); }

int main(int argc, char** argv) {
  const std::string how = argc > 1 ? argv[1] : "";
  mobula::Ref<std::vector<int>> kept;
  Callers callers;
  mobula::Config config;
  config.resources = {{"taken", 1}};
  const auto driver = [&]() -> int {
    mobula::remote<sleep_s>(0);
    if (how == "return3") return 3;
    if (how == "throw") throw std::runtime_error("the driver is unhappy");
    if (how == "task") mobula::get(mobula::remote<thrower>());
    if (how == "exit5") std::exit(5);
    if (how == "vanish") std::_Exit(0);
    if (how == "running") {
      for (int i = 0; i < 20; ++i) mobula::remote<sleep_s>(30);
      std::this_thread::sleep_for(std::chrono::milliseconds(100));
      return 4;
    }
    if (how == "reading") {  // tasks look at shared memory when the job ends
      kept = mobula::put(std::vector<int>(1'000'000, 1));
      for (int i = 0; i < 20; ++i) mobula::remote<read_for_long>(kept);
      std::this_thread::sleep_for(std::chrono::milliseconds(300));
      return 6;
    }
    if (how == "inside") {
      callers.start();
      std::this_thread::sleep_for(std::chrono::milliseconds(300));
    }
    if (how == "late") kept = mobula::put(std::vector<int>(1'000'000, 1));
    if (how == "wait") {
      std::puts("ready");
      std::fflush(stdout);
      mobula::get(mobula::remote<sleep_s>(60));
    }
    if (how == "busy") {  // a driver that does not come back to the runtime
      std::puts("ready");
      std::fflush(stdout);
      sleep_s(60);
    }
    return 0;
  };
  const int code = mobula::run(argc, argv, driver, config);
  if (how == "inside") {
    const std::size_t told = callers.join();
    std::printf("%zu of %zu were told\n", told, callers.size());
    return told == callers.size() ? 7 : 1;
  }
  if (kept && how == "late") {
    try {
      mobula::get(kept);
    } catch (const mobula::Error& e) {
      std::puts(e.what());
      return code;
    }
    return 9;
  }
  return code;
}
