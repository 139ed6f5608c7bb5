// How far one head reaches: the real head against 10 to 10,000 workers in virtual time. The head's own time is
// measured, event by event, as it runs here; the workers and the network are a model: a worker runs what it has one
// after the other, and a message takes `latency`, and its bytes' time on the link; sending or receiving one takes the
// head `message_ns`.
//
//   bench_scale [latency_us=2] [gb_s=10] [message_ns=250]  efficiency = useful time / (workers x makespan)
//   bench_scale memory                                                     bytes of the head
#include <malloc.h>

#include <algorithm>
#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <ctime>
#include <deque>
#include <queue>
#include <string>

#include "echo.hpp"

namespace {

using namespace mobula;

struct Model {
  double latency_ns = 2'000;
  double bytes_per_ns = 10;
  double message_ns = 250;
};

// Of this thread: what else runs on the machine doesn't count.
double now_ns() {
  timespec now{};
  clock_gettime(CLOCK_THREAD_CPUTIME_ID, &now);
  return static_cast<double>(now.tv_sec) * 1e9 + static_cast<double>(now.tv_nsec);
}

// A worker runs what it has one after the other.
struct Worker {
  std::deque<core::Range> ranges;
  double first_ends = 0;
};

// Something of a worker's that the head can read: its first range has ended, or what it was asked for is given back.
struct Report {
  double at;
  detail::RankId worker;
  bool ended;
  core::GaveBack back;
  bool operator>(const Report& other) const { return at > other.at; }
};

struct Outcome {
  double efficiency;
  double head_busy;  // share of the time
  double ns_a_task;  // of the head
};

// `tasks` of `task_ns`, in submissions of `stretch`: 1 as single calls of remote, many as map.
Outcome simulate(const Model& model, std::uint32_t workers, std::uint32_t tasks, double task_ns,
                 std::uint32_t stretch) {
  bench::HeadAlone alone(workers);
  auto& [wire, store, objects, transport, head] = alone;
  bench::Submissions submissions(stretch);
  std::vector<Worker> at(workers + 1);
  const auto length = [&](const core::Range& range) { return task_ns * (range.end - range.begin); };
  std::priority_queue<Report, std::vector<Report>, std::greater<>> reports;
  std::uint32_t submitted = 0;
  std::uint64_t ran = 0;
  double clock = 0, busy = 0, last = 0;
  while (head.ended() < tasks) {
    // Whoever submits is slowed down once much is queued, as the engine does.
    const std::uint64_t most = 4 * std::uint64_t{std::max(workers, stretch)} + 100'000;
    const bool may_submit = submitted < tasks && submitted - head.ended() < most;
    if (!may_submit && (reports.empty() || reports.top().at > clock)) clock = std::max(clock, reports.top().at);
    const double start = now_ns();
    double messages = 0;
    for (int i = 0; i < 256 && !reports.empty() && reports.top().at <= clock; ++i) {
      const Report report = reports.top();
      reports.pop();
      Worker& worker = at[report.worker];
      if (report.ended) {
        core::Done done;
        done.range = worker.ranges.front();
        done.elapsed_ns = static_cast<std::uint64_t>(length(done.range));
        worker.ranges.pop_front();
        if (!worker.ranges.empty()) {
          worker.first_ends += length(worker.ranges.front());
          last = std::max(last, worker.first_ends);
          reports.push({worker.first_ends + model.latency_ns, report.worker, true, {}});
        }
        ran += done.range.end - done.range.begin;
        head.handle(report.worker, done);
      } else {
        head.handle(report.worker, report.back);
      }
      ++messages;
    }
    for (std::uint32_t i = 0; i < std::max(1U, 64 / stretch) && may_submit && submitted < tasks; ++i) {
      const std::uint32_t n = std::min(stretch, tasks - submitted);
      head.handle(0, submissions.next(n));
      submitted += n;
    }
    head.step(static_cast<core::Time>(clock));
    transport.flush();
    double spent = now_ns() - start;
    messages += static_cast<double>(wire.sent.size());
    spent += messages * model.message_ns;
    clock += spent;
    busy += spent;
    for (auto& [worker, frame] : wire.sent) {
      const double arrives = clock + model.latency_ns + static_cast<double>(frame.view().size()) / model.bytes_per_ns;
      core::read_frame(frame.view().subspan(sizeof(transport::Transport::Header)), [&, w = worker](const auto& m) {
        Worker& its = at[w];
        if constexpr (std::is_same_v<std::decay_t<decltype(m)>, core::Assign>) {
          its.ranges.push_back(m.range);
          if (its.ranges.size() > 1) return;
          its.first_ends = std::max(its.first_ends, arrives) + length(m.range);
          last = std::max(last, its.first_ends);
          reports.push({its.first_ends + model.latency_ns, w, true, {}});
        } else if constexpr (std::is_same_v<std::decay_t<decltype(m)>, core::TakeBack>) {
          Report answer{arrives + model.latency_ns, w, false, {}};
          for (std::uint32_t left = m.tasks; left > 0 && its.ranges.size() > 1;) {
            core::Range& range = its.ranges.back();
            const std::uint32_t n = std::min(left, range.end - range.begin);
            answer.back.ranges.push_back({range.span, range.end - n, range.end});
            range.end -= n;
            left -= n;
            if (range.begin == range.end) its.ranges.pop_back();
          }
          reports.push(answer);
        }
      });
    }
    wire.sent.clear();
    transport.credit_all();
  }
  if (ran != head.ended()) std::abort();  // none has failed
  const double whole = std::max(last, clock);
  return {task_ns * tasks / workers / whole, busy / whole, busy / tasks};
}

// Bytes in use by this process's heap.
double heap() {
  const auto now = mallinfo2();
  return static_cast<double>(now.uordblks + now.hblkhd);
}

void memory() {
  const double before = heap();
  bench::HeadAlone small(100);
  const double with_100 = heap();
  bench::HeadAlone large(10'100);
  std::printf("scale          head, a rank: %.0f bytes\n", (heap() - with_100 - (with_100 - before)) / 10'000);
  for (const std::uint32_t stretch : {1U, 100'000U}) {
    bench::HeadAlone alone(0);
    auto& [wire, store, objects, transport, head] = alone;
    bench::Submissions submissions(stretch);
    constexpr std::uint32_t kTasks = 1'000'000;
    const double empty = heap(), start = now_ns();
    for (std::uint32_t i = 0; i < kTasks / stretch; ++i) {
      head.handle(0, submissions.next(stretch));
    }
    std::printf("scale          head, a queued task, %s: %.0f bytes, %.0f ns\n",
                stretch == 1 ? "single" : "in batches of 100,000", (heap() - empty) / kTasks,
                (now_ns() - start) / kTasks);
  }
}

}  // namespace

int main(int argc, char** argv) {
  Model model;
  for (int i = 1; i < argc; ++i) {
    const std::string word = argv[i];
    const auto equals = word.find('=');
    const double value = equals == std::string::npos ? 0 : std::atof(word.c_str() + equals + 1);
    if (word == "memory") return memory(), 0;
    if (word.starts_with("latency_us=")) {
      model.latency_ns = value * 1000;
    } else if (word.starts_with("gb_s=")) {
      model.bytes_per_ns = value;
    } else if (word.starts_with("message_ns=")) {
      model.message_ns = value;
    } else {
      std::fprintf(stderr, "bench_scale: what is %s?\n", argv[i]);
      return 2;
    }
  }
  std::printf(
      "# submissions workers task_us efficiency head_busy head_ns_a_task; latency %.1f us, %.0f GB/s, %.0f ns a "
      "message\n",
      model.latency_ns / 1000, model.bytes_per_ns, model.message_ns);
  for (const std::uint32_t stretch : {1U, 1000U}) {
    for (const std::uint32_t workers : {10U, 100U, 1'000U, 10'000U}) {
      for (const double task_us : {10.0, 100.0, 1e3, 1e4, 1e5, 1e6, 1e7}) {
        // 20 to 2,000 tasks for each worker; the end of a job counts in full.
        const double each = std::clamp(2e6 / task_us, 20.0, 2'000.0);
        const auto tasks = static_cast<std::uint32_t>(std::min(each * workers, 3e5));
        const Outcome outcome = simulate(model, workers, std::max(tasks, 5 * workers), task_us * 1000, stretch);
        std::printf("%s %u %.0f %.4f %.3f %.0f\n", stretch == 1 ? "single" : "map", workers, task_us,
                    outcome.efficiency, outcome.head_busy, outcome.ns_a_task);
        std::fflush(stdout);
      }
    }
  }
}
