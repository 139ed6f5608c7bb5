// How long does a call of an actor take, how many a second go from and to how many, and what do 10,000 actors cost?
#include "bench.hpp"

namespace {

struct Echo {
  int call(int x) { return x; }
};

constexpr int kRounds = 20'000;
constexpr int kCalls = 200'000;  // of all callers together
constexpr int kMany = 10'000;

// Calls in flight all at once, in turns on the actors. Returns the last result.
int drive(const std::vector<mobula::Actor<Echo>>& actors, int calls) {
  std::vector<mobula::Ref<int>> refs;
  refs.reserve(static_cast<std::size_t>(calls));
  for (int i = 0; i < calls; ++i) {
    refs.push_back(mobula::remote<&Echo::call>(actors[static_cast<std::size_t>(i) % actors.size()], i));
  }
  mobula::wait(refs);
  return mobula::get(refs.back());
}

std::vector<mobula::Actor<Echo>> make(std::size_t n) {
  std::vector<mobula::Actor<Echo>> actors;
  std::vector<mobula::Ref<int>> first;
  for (std::size_t i = 0; i < n; ++i) actors.push_back(mobula::actor<Echo>());
  for (const auto& actor : actors) first.push_back(mobula::remote<&Echo::call>(actor, 0));
  mobula::get(first);
  return actors;
}

}  // namespace

int main(int argc, char** argv) {
  std::vector<double> round_trips, rates, sync, one_one, one_n, n_one, n_n, many;
  double floor_rate = 0;
  long many_kib = 0;
  std::size_t n = 0;
  bench::Report report("actors");
  return bench::main(
      argc, argv,
      [&] {
        bench::floor_message_rate(25'600);
        floor_rate = bench::floor_message_rate(512'000) / 1e3;
        bench::floor_round_trip(2000);
        return bench::floor_round_trip(kRounds) * 1e6;
      },
      [&](int, double floor) {
        round_trips.push_back(floor);
        rates.push_back(floor_rate);
        n = mobula::cluster().ranks.size() - 1;
        const auto one = make(1);
        const auto all = make(n);
        drive(one, 5000);
        double start = bench::seconds();
        for (int i = 0; i < kRounds; ++i) mobula::get(mobula::remote<&Echo::call>(one[0], i));
        sync.push_back((bench::seconds() - start) / kRounds * 1e6);
        const auto rate = [&](std::vector<double>& into, auto&& run) {
          start = bench::seconds();
          run();
          into.push_back(kCalls / (bench::seconds() - start) / 1e3);
        };
        rate(one_one, [&] { drive(one, kCalls); });
        rate(one_n, [&] { drive(all, kCalls); });
        const auto callers = [&](const auto& of) {
          std::vector<mobula::Ref<int>> done;
          for (std::size_t i = 0; i < n; ++i) {
            done.push_back(mobula::remote<drive>.with(
                {.placement = mobula::on_rank(static_cast<std::uint32_t>(i) + 1)})(of, kCalls / static_cast<int>(n)));
          }
          mobula::get(done);
        };
        rate(n_one, [&] { callers(one); });
        rate(n_n, [&] { callers(all); });
        start = bench::seconds();
        make(kMany);
        many.push_back((bench::seconds() - start) * 1e3);
        many_kib = bench::peak_kib();
      },
      [&] {
        const std::string at = ", " + std::to_string(n) + " workers";
        report.add("raw MPI, any source", round_trips, "us");
        report.add("call + get", sync, "us");
        report.add_ratio("call + get, ratio", sync, round_trips, "(goal: at most 1.5)");
        report.add("raw MPI, 64-byte messages", rates, "k/s");
        report.add("1 caller, 1 actor, all at once", one_one, "k/s");
        report.add("1 caller, n actors" + at, one_n, "k/s");
        report.add("n callers, 1 actor" + at, n_one, "k/s");
        report.add("n callers, n actors" + at, n_n, "k/s");
        report.add(std::to_string(kMany) + " actors made and called once" + at, many, "ms");
        report.add("peak memory of the head", {static_cast<double>(many_kib) / 1024}, "MiB");
      });
}
