// What the benchmarks share: the raw MPI floors, measured in the same run, and a report in Google Benchmark's JSON.
//
// Each program measures its question `repetitions` times, floor and runtime in turns, and reports medians and spread.
#pragma once

#include <mpi.h>

#include <algorithm>
#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <fstream>
#include <functional>
#include <mobula/mobula.hpp>
#include <string>
#include <vector>

namespace bench {

inline double seconds() {
  return std::chrono::duration<double>(std::chrono::steady_clock::now().time_since_epoch()).count();
}

struct Row {
  std::string name;
  double median;
  double least;
  double most;
  std::string unit;
};

inline double median(std::vector<double> v) {
  std::sort(v.begin(), v.end());
  return v.empty() ? 0 : v[v.size() / 2];
}

class Report {
 public:
  explicit Report(std::string program) : program_(std::move(program)) {}

  void add(const std::string& name, std::vector<double> values, const std::string& unit) {
    if (values.empty()) return;
    const auto [least, most] = std::minmax_element(values.begin(), values.end());
    rows_.push_back({name, median(values), *least, *most, unit});
    const Row& r = rows_.back();
    std::printf("%-14s %-44s %12.4g %-10s (%.4g to %.4g)\n", program_.c_str(), name.c_str(), r.median, unit.c_str(),
                r.least, r.most);
    std::fflush(stdout);
  }
  // Pairs of one turn each: the ratio is taken turn by turn.
  void add_ratio(const std::string& name, const std::vector<double>& ours, const std::vector<double>& floor,
                 const std::string& goal) {
    std::vector<double> ratios;
    for (std::size_t i = 0; i < std::min(ours.size(), floor.size()); ++i) ratios.push_back(ours[i] / floor[i]);
    add(name, ratios, "x  " + goal);
  }
  ~Report() {
    const char* path = std::getenv("BENCH_JSON");
    if (path == nullptr) return;
    std::ofstream out(path, std::ios::app);
    for (const Row& r : rows_) {
      out << "{\"name\": \"" << program_ << "/" << r.name
          << "\", \"run_type\": \"aggregate\", \"aggregate_name\": \"median\", \"real_time\": " << r.median
          << ", \"least\": " << r.least << ", \"most\": " << r.most << ", \"time_unit\": \"" << r.unit << "\"}\n";
    }
  }

 private:
  std::string program_;
  std::vector<Row> rows_;
};

// Rank 0 and 1 exchange 8 bytes; both receive from any source. Seconds a round trip.
inline double floor_round_trip(int rounds) {
  int rank = 0;
  MPI_Comm_rank(MPI_COMM_WORLD, &rank);
  char bytes[8] = {};
  MPI_Barrier(MPI_COMM_WORLD);
  const double start = seconds();
  for (int i = 0; i < rounds && rank < 2; ++i) {
    MPI_Message message;
    MPI_Status status;
    int found = 0;
    if (rank == 0) MPI_Send(bytes, 8, MPI_BYTE, 1, 7, MPI_COMM_WORLD);
    while (found == 0) MPI_Improbe(MPI_ANY_SOURCE, 7, MPI_COMM_WORLD, &found, &message, &status);
    MPI_Mrecv(bytes, 8, MPI_BYTE, &message, &status);
    if (rank == 1) MPI_Send(bytes, 8, MPI_BYTE, 0, 7, MPI_COMM_WORLD);
  }
  return (seconds() - start) / rounds;
}

// Rank 0 sends 64-byte messages to rank 1 with at most 256 under way. Messages per second.
inline double floor_message_rate(int messages) {
  constexpr int kWindow = 256;
  int rank = 0;
  MPI_Comm_rank(MPI_COMM_WORLD, &rank);
  static char bytes[kWindow][64];
  MPI_Request requests[kWindow];
  MPI_Barrier(MPI_COMM_WORLD);
  const double start = seconds();
  for (int sent = 0; sent < messages && rank < 2; sent += kWindow) {
    for (int i = 0; i < kWindow; ++i) {
      if (rank == 0) {
        MPI_Isend(bytes[i], 64, MPI_BYTE, 1, 8, MPI_COMM_WORLD, &requests[i]);
      } else {
        MPI_Irecv(bytes[i], 64, MPI_BYTE, 0, 8, MPI_COMM_WORLD, &requests[i]);
      }
    }
    MPI_Waitall(kWindow, requests, MPI_STATUSES_IGNORE);
    char ack = 0;
    if (rank == 0) MPI_Recv(&ack, 1, MPI_BYTE, 1, 9, MPI_COMM_WORLD, MPI_STATUS_IGNORE);
    if (rank == 1) MPI_Send(&ack, 1, MPI_BYTE, 0, 9, MPI_COMM_WORLD);
  }
  return messages / (seconds() - start);
}

// Starts MPI, measures floors on all ranks, runs the driver, repeats. `floor` is collective and its value of rank 0 is
// given to the driver of the same turn.
inline int main(int argc, char** argv, const std::function<double()>& floor,
                const std::function<void(int turn, double floor)>& turn, const std::function<void()>& end,
                int turns = 5) {
  MPI_Init_thread(&argc, &argv, MPI_THREAD_MULTIPLE, new int);
  int rank = 0;
  MPI_Comm_rank(MPI_COMM_WORLD, &rank);
  int code = 0;
  for (int i = 0; i < turns && code == 0; ++i) {
    const double f = floor ? floor() : 0;
    std::vector<char*> args(argv, argv + argc + 1);  // a run takes its flags out
    code = mobula::run(int{argc}, args.data(), [&] { turn(i, f); });
    MPI_Barrier(MPI_COMM_WORLD);
  }
  if (rank == 0 && code == 0) end();
  MPI_Finalize();
  return code;
}

inline long peak_kib() {
  std::ifstream in("/proc/self/status");
  std::string word;
  while (in >> word) {
    if (word == "VmHWM:") {
      long kib = 0;
      in >> kib;
      return kib;
    }
  }
  return 0;
}

}  // namespace bench
