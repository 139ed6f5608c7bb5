// The minimum effective task granularity (Slaughter et al., "Task Bench: A Parameterized Benchmark for Evaluating
// Parallel Runtime Performance", SC20): the shortest task at which half of the time is useful work, for graphs of
// several patterns, as Mobula's tasks with Refs and in plain non-blocking MPI, in turns, on the same ranks and the same
// peak.
//
//   mpirun -n 3 bench_metg [TURNS] [pattern=stencil,fft,…|all] [kernel=compute,memory] [graphs=1,4] [bytes=16,4096]
//   [points=FILE]
//
// Rank 0 is the head, and sleeps while MPI is measured. Without a launcher there is Mobula alone, with its slots in one
// process. `points`: a line for each granularity measured, for bench/metg_chart.
#include <unistd.h>

#include <array>
#include <bit>
#include <cmath>
#include <cstring>
#include <map>
#include <set>
#include <span>
#include <sstream>

#include "bench.hpp"

namespace metg {

constexpr int kWidth = 16;  // columns of a graph
constexpr int kRadix = 5;   // dependencies of `nearest`, `spread` and, on average half of them, of `random_nearest`

using Block = std::vector<double>;  // what a task hands on

struct Cell {
  long iterations = 0;
  int doubles = 2;
  bool on_memory = false;
  int column = 0;
};

// `iterations` multiplications that depend on each other, or as many times 1 KiB read and written in 4 MiB of the
// thread's.
double kernel(double x, long iterations, bool on_memory) {
  if (!on_memory) {
    for (long i = 0; i < iterations; ++i) x = x * 0.999'999 + 1e-9;
    return x;
  }
  constexpr std::size_t kAll = 4 * 1024 * 1024 / sizeof(double), kPiece = 1024 / sizeof(double);
  thread_local std::vector<double> memory(kAll, 1.0);
  thread_local std::size_t at = 0;
  for (long i = 0; i < iterations; ++i) {
    for (std::size_t j = 0; j < kPiece; ++j) memory[at + j] = memory[at + j] * 0.999'999 + x;
    at = (at + kPiece) % kAll;
  }
  return memory[at];
}

Block compute(const Cell& cell, double x) {
  Block out(static_cast<std::size_t>(cell.doubles));
  out[0] = kernel(x, cell.iterations, cell.on_memory);
  return out;
}

template <std::size_t>
using Input = std::span<const double>;

template <std::size_t... I>
Block step(const Cell& cell, Input<I>... inputs) {
  double x = cell.column;
  ((x += inputs[0]), ...);
  return compute(cell, x);
}

// The columns of the row before that column `i` of row `t` needs; none in row 0.
std::vector<int> needs(const std::string& pattern, int t, int i) {
  constexpr int kLog = std::countr_zero(static_cast<unsigned>(kWidth));
  std::set<int> found;
  const auto add = [&](int column) {
    if (column >= 0 && column < kWidth) found.insert(column);
  };
  if (t == 0 || pattern == "trivial") return {};
  if (pattern == "no_comm") add(i);
  if (pattern == "stencil")
    for (int d = -1; d <= 1; ++d) add(i + d);
  if (pattern == "periodic")
    for (int d = -1; d <= 1; ++d) add((i + d + kWidth) % kWidth);
  if (pattern == "dom")
    for (int d = -1; d <= 0; ++d) add(i + d);
  if (pattern == "tree") add(i / 2);
  if (pattern == "fft")
    for (int d = -1; d <= 1; ++d) add(i + d * (1 << ((t - 1) % kLog)));
  if (pattern == "nearest")
    for (int d = -kRadix / 2; d <= kRadix / 2; ++d) add(i + d);
  if (pattern == "spread")
    for (int j = 0; j < kRadix; ++j) add((i + j * kWidth / kRadix + (j > 0 ? t : 0)) % kWidth);
  if (pattern == "random_nearest") {
    for (int d = -kRadix / 2; d <= kRadix / 2; ++d) {
      const auto hash = static_cast<unsigned>((t * 31 + i) * 31 + d) * 2654435761U;
      if ((hash >> 16U) % 2 == 0) add(i + d);
    }
  }
  if (pattern == "all_to_all")
    for (int j = 0; j < kWidth; ++j) add(j);
  return {found.begin(), found.end()};
}

const std::vector<std::string> kPatterns{"trivial",        "no_comm", "stencil", "periodic", "nearest",   "spread",
                                         "random_nearest", "fft",     "tree",    "dom",      "all_to_all"};

struct Graph {
  std::string pattern;
  bool on_memory = false;
  int graphs = 1;
  int bytes = 16;
};

Cell cell_of(const Graph& graph, long iterations, int column) {
  return {iterations, graph.bytes / static_cast<int>(sizeof(double)), graph.on_memory, column};
}

// The graph in plain MPI on ranks 1 and on, columns in blocks; one message for each column and rank that needs it.
double with_mpi(const Graph& graph, int steps, long iterations) {
  int rank = 0, size = 1;
  MPI_Comm_rank(MPI_COMM_WORLD, &rank);
  MPI_Comm_size(MPI_COMM_WORLD, &size);
  const int workers = size - 1;
  const auto first_of = [workers](int worker) { return kWidth * worker / workers; };
  const auto owner = [&](int column) {
    int w = 0;
    while (first_of(w + 1) <= column) ++w;
    return w;
  };
  const int me = rank - 1;
  // Who sends what is the same in each turn of the pattern: found before the clock starts.
  struct Step {
    std::vector<std::vector<int>> needs;
    std::vector<std::pair<int, int>> sends, receives;  // column, worker
  };
  std::vector<Step> plan(static_cast<std::size_t>(steps));
  for (int t = 0; t < steps && rank > 0; ++t) {
    std::set<std::pair<int, int>> sends, receives;
    Step& step = plan[static_cast<std::size_t>(t)];
    for (int i = 0; i < kWidth; ++i) {
      step.needs.push_back(metg::needs(graph.pattern, t, i));
      for (const int from : step.needs.back()) {
        if (owner(from) == owner(i)) continue;
        if (owner(from) == me) sends.insert({from, owner(i)});
        if (owner(i) == me) receives.insert({from, owner(from)});
      }
    }
    step.sends.assign(sends.begin(), sends.end());
    step.receives.assign(receives.begin(), receives.end());
  }
  const auto doubles = static_cast<std::size_t>(graph.bytes) / sizeof(double);
  const auto all = static_cast<std::size_t>(graph.graphs);
  std::vector<std::vector<Block>> now(all, std::vector<Block>(kWidth, Block(doubles))), next = now;
  MPI_Barrier(MPI_COMM_WORLD);
  const double start = bench::seconds();
  if (rank > 0) {
    std::vector<MPI_Request> requests;
    for (const Step& step : plan) {
      requests.clear();
      for (std::size_t g = 0; g < all; ++g) {
        const int tag = static_cast<int>(g) * kWidth;
        for (const auto& [column, from] : step.receives) {
          Block& into = now[g][static_cast<std::size_t>(column)];
          MPI_Irecv(into.data(), static_cast<int>(doubles), MPI_DOUBLE, from + 1, tag + column, MPI_COMM_WORLD,
                    &requests.emplace_back());
        }
        for (const auto& [column, to] : step.sends) {
          const Block& of = now[g][static_cast<std::size_t>(column)];
          MPI_Isend(of.data(), static_cast<int>(doubles), MPI_DOUBLE, to + 1, tag + column, MPI_COMM_WORLD,
                    &requests.emplace_back());
        }
      }
      MPI_Waitall(static_cast<int>(requests.size()), requests.data(), MPI_STATUSES_IGNORE);
      for (std::size_t g = 0; g < all; ++g) {
        for (int i = first_of(me); i < first_of(me + 1); ++i) {
          double x = i;
          for (const int from : step.needs[static_cast<std::size_t>(i)]) x += now[g][static_cast<std::size_t>(from)][0];
          next[g][static_cast<std::size_t>(i)][0] = kernel(x, iterations, graph.on_memory);
        }
        now[g].swap(next[g]);
      }
    }
  }
  // The head's rank takes no core from the others meanwhile.
  MPI_Request through;
  MPI_Ibarrier(MPI_COMM_WORLD, &through);
  for (int done = 0; done == 0;) {
    MPI_Test(&through, &done, MPI_STATUS_IGNORE);
    if (done == 0 && rank == 0) usleep(50);
  }
  return bench::seconds() - start;
}

using Row = std::vector<mobula::Ref<Block>>;

template <std::size_t... I>
mobula::Ref<Block> submit(const Cell& cell, const Row& above, const std::vector<int>& needs,
                          std::index_sequence<I...>) {
  return mobula::remote<step<I...>>(cell, above[static_cast<std::size_t>(needs[I])]...);
}
using Submit = mobula::Ref<Block> (*)(const Cell&, const Row&, const std::vector<int>&);
template <std::size_t... N>
constexpr std::array<Submit, sizeof...(N)> submits(std::index_sequence<N...>) {
  return {[](const Cell& c, const Row& a, const std::vector<int>& n) {
    return submit(c, a, n, std::make_index_sequence<N>{});
  }...};
}
constexpr auto kSubmit = submits(std::make_index_sequence<kWidth + 1>{});  // by the number of dependencies

double with_tasks(const Graph& graph, int steps, long iterations) {
  std::vector<std::vector<std::vector<int>>> plan;
  for (int t = 0; t < steps; ++t) {
    plan.emplace_back();
    for (int i = 0; i < kWidth; ++i) plan.back().push_back(needs(graph.pattern, t, i));
  }
  const double start = bench::seconds();
  std::vector<Row> rows(static_cast<std::size_t>(graph.graphs));
  for (const auto& step : plan) {
    for (Row& row : rows) {
      Row next;
      next.reserve(kWidth);
      for (int i = 0; i < kWidth; ++i) {
        const std::vector<int>& from = step[static_cast<std::size_t>(i)];
        next.push_back(kSubmit[from.size()](cell_of(graph, iterations, i), row, from));
      }
      if (graph.pattern == "trivial") {
        row.insert(row.end(), next.begin(), next.end());  // nothing waits for them
      } else {
        row = std::move(next);
      }
    }
  }
  for (const Row& row : rows) mobula::wait(row);
  return bench::seconds() - start;
}

// The peak: nanoseconds an iteration, with all workers at it.
double calibrate(bool on_memory) {
  int rank = 0, size = 1;
  MPI_Comm_rank(MPI_COMM_WORLD, &rank);
  MPI_Comm_size(MPI_COMM_WORLD, &size);
  const long iterations = on_memory ? 100'000 : 2'000'000;
  double best = 1e9;
  volatile double sink = 0;
  for (int i = 0; i < 5; ++i) {
    MPI_Barrier(MPI_COMM_WORLD);
    if (rank == 0 && size > 1) continue;
    const double start = bench::seconds();
    sink = sink + kernel(1.0, iterations, on_memory);
    best = std::min(best, (bench::seconds() - start) * 1e9 / static_cast<double>(iterations));
  }
  if (rank == 0 && size > 1) best = 0;
  MPI_Allreduce(MPI_IN_PLACE, &best, 1, MPI_DOUBLE, MPI_MAX, MPI_COMM_WORLD);
  return best;
}

struct Point {
  double us;
  double efficiency;
};

// Efficiency from long tasks to short ones, until it is well under one half.
template <class Run>
std::vector<Point> sweep(const Graph& graph, int workers, double ns, Run run) {
  std::vector<Point> points;
  const double tasks_a_step = static_cast<double>(kWidth) * graph.graphs;
  for (double us = 512; us > 0.05; us /= 2) {
    const long iterations = std::max(1L, std::lround(us * 1000 / ns));
    const double task_s = static_cast<double>(iterations) * ns * 1e-9;
    const int steps = std::clamp(static_cast<int>(0.05 * workers / (task_s * tasks_a_step)), 20, 1000);
    const double ideal = task_s * tasks_a_step * steps / workers;
    points.push_back({task_s * 1e6, ideal / run(steps, iterations)});
    if (points.back().efficiency < 0.2 || iterations == 1) break;
  }
  return points;
}

// Where the line between the last point above one half and the one after it crosses it, on a scale of logarithms.
double metg(const std::vector<Point>& points) {
  for (std::size_t i = 0; i < points.size(); ++i) {
    if (points[i].efficiency >= 0.5) continue;
    if (i == 0) return points[0].us;
    const double share = (points[i - 1].efficiency - 0.5) / (points[i - 1].efficiency - points[i].efficiency);
    return points[i - 1].us * std::pow(points[i].us / points[i - 1].us, share);
  }
  return points.back().us;
}

std::vector<std::string> words(const std::string& list) {
  std::vector<std::string> found;
  std::stringstream in(list);
  for (std::string word; std::getline(in, word, ',');) found.push_back(word);
  return found;
}

}  // namespace metg

int main(int argc, char** argv) {
  using namespace metg;
  int turns = 5;
  std::map<std::string, std::string> chosen{
      {"pattern", "all"}, {"kernel", "compute"}, {"graphs", "1"}, {"bytes", "16"}, {"points", ""}};
  for (int i = 1; i < argc; ++i) {
    const std::string word = argv[i];
    const auto equals = word.find('=');
    if (word.starts_with("--")) continue;
    if (equals == std::string::npos) {
      turns = std::atoi(argv[i]);
    } else if (chosen.contains(word.substr(0, equals))) {
      chosen[word.substr(0, equals)] = word.substr(equals + 1);
    } else {
      std::fprintf(stderr, "bench_metg: what is %s?\n", argv[i]);
      return 2;
    }
  }
  std::vector<Graph> graphs;
  const auto patterns = chosen["pattern"] == "all" ? kPatterns : words(chosen["pattern"]);
  for (const std::string& pattern : patterns) {
    if (std::find(kPatterns.begin(), kPatterns.end(), pattern) != kPatterns.end()) continue;
    std::fprintf(stderr, "bench_metg: there is no pattern %s\n", pattern.c_str());
    return 2;
  }
  for (const std::string& pattern : patterns)
    for (const std::string& kernel : words(chosen["kernel"]))
      for (const std::string& together : words(chosen["graphs"]))
        for (const std::string& bytes : words(chosen["bytes"]))
          graphs.push_back({pattern, kernel == "memory", std::stoi(together), std::max(8, std::stoi(bytes))});

  MPI_Init_thread(&argc, &argv, MPI_THREAD_MULTIPLE, new int);
  int rank = 0, size = 1;
  MPI_Comm_rank(MPI_COMM_WORLD, &rank);
  MPI_Comm_size(MPI_COMM_WORLD, &size);
  std::vector<std::vector<double>> floors(graphs.size()), ours(graphs.size());
  std::FILE* points = rank == 0 && !chosen["points"].empty() ? std::fopen(chosen["points"].c_str(), "w") : nullptr;
  int code = 0, slots = 0;
  for (int turn = 0; turn < turns && code == 0; ++turn) {
    const std::array ns{calibrate(false), calibrate(true)};
    const auto keep = [&](const Graph& g, const char* system, const std::vector<Point>& all) {
      for (const Point& p : all)
        if (points != nullptr)
          std::fprintf(points, "%s %s %s %d %d %d %.4g %.4f\n", system, g.pattern.c_str(),
                       g.on_memory ? "memory" : "compute", g.graphs, g.bytes, turn, p.us, p.efficiency);
    };
    for (std::size_t i = 0; i < graphs.size() && size > 1; ++i) {
      const auto all = sweep(graphs[i], size - 1, ns[graphs[i].on_memory ? 1 : 0], [&](int steps, long iterations) {
        double s = with_mpi(graphs[i], steps, iterations);
        MPI_Bcast(&s, 1, MPI_DOUBLE, 0, MPI_COMM_WORLD);  // all ranks go on alike
        return s;
      });
      floors[i].push_back(metg::metg(all));
      keep(graphs[i], "mpi", all);
    }
    std::vector<char*> args(argv, argv + argc + 1);  // a run takes its flags out
    code = mobula::run(int{argc}, args.data(), [&] {
      for (const auto& one : mobula::cluster().ranks) slots += turn == 0 ? static_cast<int>(one.slots) : 0;
      for (std::size_t i = 0; i < graphs.size(); ++i) {
        with_tasks(graphs[i], 50, 100);
        const auto all = sweep(graphs[i], slots, ns[graphs[i].on_memory ? 1 : 0],
                               [&](int steps, long iterations) { return with_tasks(graphs[i], steps, iterations); });
        ours[i].push_back(metg::metg(all));
        keep(graphs[i], "mobula", all);
      }
    });
    MPI_Barrier(MPI_COMM_WORLD);
  }
  if (points != nullptr) std::fclose(points);
  if (rank == 0 && code == 0) {
    bench::Report report("metg_" + std::to_string(slots) + "_slots");
    for (std::size_t i = 0; i < graphs.size(); ++i) {
      const Graph& g = graphs[i];
      const std::string name = g.pattern + (g.on_memory ? ", memory" : "") +
                               (g.graphs > 1 ? ", " + std::to_string(g.graphs) + " graphs" : "") +
                               (g.bytes != 16 ? ", " + std::to_string(g.bytes) + " B" : "");
      report.add(name + ", plain MPI", floors[i], "us");
      report.add(name + ", Mobula", ours[i], "us");
      report.add_ratio(name, ours[i], floors[i], "");
    }
  }
  MPI_Finalize();
  return code;
}
