// How far one head reaches: the real head against 10 to 10,000 workers in virtual time. The head's own time is
// measured, event by event, as it runs here; the workers and the network are a model: the slots of a worker run what it
// has, in runs of 200 us as real ones do, each of which it reports; a message takes `latency`, and its bytes' time on
// the link; sending or receiving one takes the head `message_ns`.
//
//   bench_scale [latency_us=2] [gb_s=10] [message_ns=250]  efficiency = useful time / (slots x makespan)
//   bench_scale metg [cores=8192] […]                      the task's length at which it is one half, by ranks x slots
//   bench_scale memory                                     bytes of the head, and its time for those that join
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

struct Worker {
  struct Slot {
    core::Range run;
    double ends = 0;
    bool busy = false;
  };
  struct Queued {
    core::Range range;
    double arrives;
  };
  std::vector<Slot> slots;
  std::deque<Queued> queue;
};

// Something of a worker's that the head can read: a run has ended, or what it was asked for is given back.
struct Report {
  double at;
  detail::RankId worker;
  int slot;  // -1: it gives back
  core::GaveBack back;
  bool operator>(const Report& other) const { return at > other.at; }
};

struct Outcome {
  double efficiency;
  double head_busy;  // share of the time
  double ns_a_task;  // of the head
};

// `tasks` of `task_ns`, in submissions of `stretch`: 1 as single calls of remote, many as map.
Outcome simulate(const Model& model, std::uint32_t workers, std::uint32_t slots, std::uint32_t tasks, double task_ns,
                 std::uint32_t stretch) {
  bench::HeadAlone alone(workers, slots);
  auto& [wire, store, objects, transport, head] = alone;
  bench::Submissions submissions(stretch);
  std::vector<Worker> at(workers + 1);
  for (Worker& worker : at) worker.slots.resize(slots);
  const auto run_size = static_cast<std::uint32_t>(std::clamp(200'000 / task_ns, 1.0, 1e6));
  std::priority_queue<Report, std::vector<Report>, std::greater<>> reports;
  std::uint32_t submitted = 0;
  std::uint64_t ran = 0;
  double clock = 0, busy = 0, last = 0;
  const auto start_next = [&](detail::RankId rank, int slot) {
    Worker& worker = at[rank];
    Worker::Slot& of = worker.slots[static_cast<std::size_t>(slot)];
    of.busy = !worker.queue.empty();
    if (!of.busy) return;
    Worker::Queued& first = worker.queue.front();
    const std::uint32_t n = std::min(run_size, first.range.end - first.range.begin);
    of.run = {first.range.span, first.range.begin, first.range.begin + n};
    of.ends = std::max(of.ends, first.arrives) + task_ns * n;
    last = std::max(last, of.ends);
    first.range.begin += n;
    if (first.range.begin == first.range.end) worker.queue.pop_front();
    reports.push({of.ends + model.latency_ns, rank, slot, {}});
  };
  while (head.ended() < tasks) {
    // Whoever submits is slowed down once much is queued, as the engine does.
    const std::uint64_t most = 4 * std::uint64_t{std::max(workers * slots, stretch)} + 100'000;
    const bool may_submit = submitted < tasks && submitted - head.ended() < most;
    if (!may_submit && (reports.empty() || reports.top().at > clock)) clock = std::max(clock, reports.top().at);
    const double start = now_ns();
    double messages = 0;
    for (int i = 0; i < 256 && !reports.empty() && reports.top().at <= clock; ++i) {
      const Report report = reports.top();
      reports.pop();
      if (report.slot >= 0) {
        core::Done done;
        done.range = at[report.worker].slots[static_cast<std::size_t>(report.slot)].run;
        const std::uint32_t n = done.range.end - done.range.begin;
        done.elapsed_ns = static_cast<std::uint64_t>(task_ns * n);
        ran += n;
        start_next(report.worker, report.slot);
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
          its.queue.push_back({m.range, arrives});
          for (std::size_t slot = 0; slot < slots && !its.queue.empty(); ++slot) {
            if (!its.slots[slot].busy) start_next(w, static_cast<int>(slot));
          }
        } else if constexpr (std::is_same_v<std::decay_t<decltype(m)>, core::TakeBack>) {
          Report answer{arrives + model.latency_ns, w, -1, {}};
          for (std::uint32_t left = m.tasks; left > 0 && !its.queue.empty();) {
            core::Range& range = its.queue.back().range;
            const std::uint32_t n = std::min(left, range.end - range.begin);
            answer.back.ranges.push_back({range.span, range.end - n, range.end});
            range.end -= n;
            left -= n;
            if (range.begin == range.end) its.queue.pop_back();
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
  return {task_ns * tasks / (workers * slots) / whole, busy / whole, busy / tasks};
}

// The end of a job counts in full, so there are many tasks for each slot.
std::uint32_t tasks_for(std::uint32_t slots, double task_us) {
  const double each = std::clamp(2e6 / task_us, 20.0, 2'000.0);
  return std::max(static_cast<std::uint32_t>(std::min(each * slots, 3e5)), 5 * slots);
}

// By halving: ns.
double metg(const Model& model, std::uint32_t workers, std::uint32_t slots, std::uint32_t stretch) {
  double least = 1'000, most = 1e9;
  while (most / least > 1.1) {
    const double middle = std::sqrt(least * most);
    const std::uint32_t tasks = 20 * workers * slots;
    (simulate(model, workers, slots, tasks, middle, stretch).efficiency < 0.5 ? least : most) = middle;
  }
  return most;
}

// Bytes in use by this process's heap.
double heap() {
  const auto now = mallinfo2();
  return static_cast<double>(now.uordblks + now.hblkhd);
}

void memory() {
  const double before = heap();
  bench::HeadAlone small(100);
  const double with_100 = heap(), start_100 = now_ns();
  bench::HeadAlone large(10'100);
  std::printf("scale          head, a rank: %.0f bytes\n", (heap() - with_100 - (with_100 - before)) / 10'000);
  std::printf("scale          head, 10,000 ranks join: %.1f ms\n", (now_ns() - start_100) / 1e6);
  {
    constexpr std::uint32_t kObjects = 1'000'000;
    const double empty = heap();
    for (std::uint32_t i = 0; i < kObjects; ++i) {
      core::Made made;
      made.id = {detail::SpanId::make(1 + i % 10'000, i / 1'000'000 + 1), i};
      made.size = 1 << 20;
      made.at = 1 + i % 10'000;
      large.head.handle(made.at, made);
    }
    std::printf("scale          head, an object that others than its rank know: %.0f bytes\n",
                (heap() - empty) / kObjects);
  }
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
  bool finds_metg = false;
  std::uint32_t cores = 8'192;
  for (int i = 1; i < argc; ++i) {
    const std::string word = argv[i];
    const auto equals = word.find('=');
    const double value = equals == std::string::npos ? 0 : std::atof(word.c_str() + equals + 1);
    if (word == "memory") return memory(), 0;
    if (word == "metg") {
      finds_metg = true;
    } else if (word.starts_with("cores=")) {
      cores = static_cast<std::uint32_t>(value);
    } else if (word.starts_with("latency_us=")) {
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
  if (finds_metg) {
    for (const std::uint32_t slots : {1U, 8U, 64U}) {
      for (const std::uint32_t stretch : {1U, 1000U}) {
        std::printf("scale          METG(50 %%), %u ranks of %u slots, %s: %.0f us\n", cores / slots, slots,
                    stretch == 1 ? "single submissions" : "map", metg(model, cores / slots, slots, stretch) / 1000);
        std::fflush(stdout);
      }
    }
    return 0;
  }
  std::printf(
      "# submissions workers task_us efficiency head_busy head_ns_a_task; latency %.1f us, %.0f GB/s, %.0f ns a "
      "message\n",
      model.latency_ns / 1000, model.bytes_per_ns, model.message_ns);
  for (const std::uint32_t stretch : {1U, 1000U}) {
    for (const std::uint32_t workers : {10U, 100U, 1'000U, 10'000U}) {
      for (const double task_us : {10.0, 100.0, 1e3, 1e4, 1e5, 1e6, 1e7}) {
        const Outcome outcome = simulate(model, workers, 1, tasks_for(workers, task_us), task_us * 1000, stretch);
        std::printf("%s %u %.0f %.4f %.3f %.0f\n", stretch == 1 ? "single" : "map", workers, task_us,
                    outcome.efficiency, outcome.head_busy, outcome.ns_a_task);
        std::fflush(stdout);
      }
    }
  }
}
