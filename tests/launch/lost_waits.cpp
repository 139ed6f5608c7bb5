// Everyone waits in every way for values whose makers run all over the job, and two of four workers are killed: what
// may be tried again comes, and of the rest each waiter is told that it was lost.
#include <signal.h>
#include <unistd.h>

#include <chrono>
#include <cstdio>
#include <deque>
#include <thread>

#include "../api/waits.hpp"

namespace {

using namespace std::chrono_literals;
using namespace waits;
using mobula::on_rank;
using mobula::Ref;
using mobula::remote;

Value make(bool large) {
  std::this_thread::sleep_for(800ms);
  return Value(size_of(large), 'x');
}
int pid_of_this() { return static_cast<int>(getpid()); }

// The Ref lies in a container: the task begins before the value is there.
std::string read_in_task(Who who, How how, const std::vector<Ref<Value>>& box) { return read_as(who, how, box[0]); }

struct Reader {
  std::string read(Who who, How how, const std::vector<Ref<Value>>& box) { return read_as(who, how, box[0]); }
};

struct Case {
  std::string name;
  std::string expected;
  How how = How::get;
  bool tried_again = false;
  Ref<Value> made;
  Ref<std::string> said;
  std::future<std::string> said_by_thread;
};

int run() {
  std::vector<std::uint32_t> workers;
  for (const auto& rank : mobula::cluster().ranks) {
    if (rank.slots > 0) workers.push_back(rank.rank);
  }
  if (workers.size() != 4) {
    std::printf("FAILED: this needs four workers\n");
    return 1;
  }
  const auto stays = workers.front();
  std::vector<int> victims;
  for (const auto rank : {workers[2], workers[3]})
    victims.push_back(mobula::get(remote<pid_of_this>.with({.placement = on_rank(rank)})()));

  const auto reader = mobula::actor<Reader>.with({.cpus = 0, .concurrency = 1000, .placement = on_rank(stays)})();
  std::deque<Case> cases;
  const mobula::TaskOptions here{.cpus = 0, .placement = on_rank(stays)};
  for (const Who who :
       {Who::driver, Who::task, Who::method, Who::thread_of_driver, Who::thread_of_task, Who::thread_of_method}) {
    for (const How how : {How::get, How::view, How::wait, How::completed, How::dependent}) {
      for (const bool large : {false, true}) {
        for (const bool tried_again : {false, true}) {
          Case& one = cases.emplace_back();
          one.name = "who " + std::to_string(static_cast<int>(who)) + ", how " + std::to_string(static_cast<int>(how)) +
                     (large ? ", large" : ", small") + (tried_again ? ", tried again" : "");
          one.expected = std::to_string(size_of(large));
          one.how = how;
          one.tried_again = tried_again;
          one.made =
              remote<make>.with({.cpus = 0, .retries = tried_again ? 10 : 0, .placement = mobula::spread})(large);
          const std::vector box{one.made};
          if (who == Who::task || who == Who::thread_of_task) one.said = remote<read_in_task>.with(here)(who, how, box);
          if (who == Who::thread_of_driver) one.said_by_thread = read_by_thread(how, one.made);
          if (who == Who::method || who == Who::thread_of_method)
            one.said = remote<&Reader::read>(reader, who, how, box);
        }
      }
    }
  }
  std::this_thread::sleep_for(300ms);
  for (const int victim : victims) kill(victim, SIGKILL);

  int wrong = 0;
  int lost = 0;
  for (Case& one : cases) {
    std::string said;
    try {
      if (one.said) {
        said = mobula::get(one.said, 60s);
      } else if (!one.said_by_thread.valid()) {
        said = read(one.how, one.made);
      } else if (one.said_by_thread.wait_for(60s) == std::future_status::ready) {
        said = one.said_by_thread.get();
      } else {
        said = "waits for ever: " + mobula::explain(one.made);
      }
    } catch (const mobula::TimedOut&) {
      said = "waits for ever: " + mobula::explain(one.said);
    }
    const bool is_lost = said == "lost" && !one.tried_again;
    lost += is_lost ? 1 : 0;
    if (is_lost || said == one.expected) continue;
    ++wrong;
    std::printf("FAILED: %s: %s\n", one.name.c_str(), said.c_str());
  }
  if (lost == 0) std::printf("FAILED: nothing was lost\n");
  std::printf("%zu waits, %d lost, %d wrong\n", cases.size(), lost, wrong);
  return wrong == 0 && lost != 0 ? 7 : 1;
}

}  // namespace

int main(int argc, char** argv) {
  return mobula::run(argc, argv, [] { return run(); });
}
