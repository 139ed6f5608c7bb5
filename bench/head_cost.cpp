// What one task costs the head, against 10 to 10,000 workers: the real head, fed with what workers would send, with no
// network and no workers behind. In stretches as `map` makes them, and one by one as single submissions do. What is
// submitted and not ended is four tasks a worker, and once more 40,000 for any number of them: what that costs is the
// memory of tasks, not of workers.
#include <algorithm>
#include <cstdio>

#include "echo.hpp"
#include "mobula/mobula.hpp"

namespace {

using namespace mobula;

double seconds() { return static_cast<double>(core::now()) * 1e-9; }

// Nanoseconds of the head for each task: `tasks` in submissions of `stretch`, each of which takes 1 ms on its worker;
// `ahead` of them are kept submitted.
double cost(std::uint32_t workers, std::uint32_t tasks, std::uint32_t stretch, std::uint32_t ahead) {
  bench::HeadAlone alone(workers);
  auto& [wire, store, objects, transport, head] = alone;

  bench::Submissions submissions(stretch);
  std::vector<std::pair<detail::RankId, core::Range>> ended;
  double spent = 0;
  std::uint32_t submitted = 0;
  core::Time virtual_now = 0;
  while (head.ended() < tasks) {
    const double start = seconds();
    // Enough is kept submitted for all workers to have work ahead.
    while (submitted < tasks && submitted - head.ended() < std::max(ahead, stretch)) {
      head.handle(0, submissions.next(stretch));
      submitted += stretch;
    }
    for (const auto& [worker, range] : ended) {
      core::Done done;
      done.range = range;
      done.elapsed_ns = 1'000'000ULL * (range.end - range.begin);
      head.handle(worker, done);
    }
    head.step(virtual_now += 1'000'000);
    transport.flush();
    spent += seconds() - start;
    ended.clear();
    for (auto& [worker, frame] : wire.sent) {
      core::read_frame(frame.view().subspan(sizeof(transport::Transport::Header)), [&, w = worker](const auto& m) {
        if constexpr (std::is_same_v<std::decay_t<decltype(m)>, core::Assign>) ended.emplace_back(w, m.range);
      });
    }
    wire.sent.clear();
    transport.credit_all();
  }
  return spent / tasks * 1e9;
}

}  // namespace

int main() {
  constexpr std::uint32_t kMany = 40'000;
  for (const auto& [stretch, fixed] : {std::pair{1U, false}, {1U, true}, {1000U, false}, {1000U, true}}) {
    std::printf("head_cost      %s, %s submitted\n", stretch == 1 ? "single submissions" : "stretches of 1,000 (map)",
                fixed ? "40,000" : "4 a worker");
    double least = 0;
    for (const std::uint32_t workers : {10U, 100U, 1'000U, 10'000U}) {
      std::vector<double> costs;
      for (int turn = 0; turn < 5; ++turn)
        costs.push_back(cost(workers, std::max(200'000U, 20 * workers), stretch, fixed ? kMany : 4 * workers));
      std::sort(costs.begin(), costs.end());
      if (workers == 10) least = costs[2];
      std::printf("head_cost      %6u workers: %8.1f ns a task (%.1f to %.1f), %.2f x that of 10\n", workers, costs[2],
                  costs[0], costs[4], costs[2] / least);
    }
  }
}
