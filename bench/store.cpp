// The object store: put, get and view from 8 B to 3 GiB against memcpy, and values of another rank against raw MPI: of
// the same node by two ranks of it, of another node by two hosts. With more ranks: one value to all of them.
//   mpirun -n 2 bench_store [LARGEST_MIB] --mobula-store=7GiB
#include <cstring>
#include <memory>
#include <numeric>

#include "bench.hpp"

namespace {

using Bytes = std::vector<char>;

Bytes make(std::size_t n) { return Bytes(n, 1); }
std::size_t look(mobula::Ref<Bytes> ref) {
  const auto view = mobula::view(ref);
  std::size_t sum = 0;
  for (std::size_t i = 0; i < view.size(); i += 4096) sum += static_cast<std::size_t>(view[i]);
  return sum;
}
std::vector<mobula::Ref<int>> many(int n) {
  std::vector<mobula::Ref<int>> refs;
  for (int i = 0; i < n; ++i) refs.push_back(mobula::put(i));
  return refs;
}
long total(const std::vector<mobula::Ref<int>>& refs) {
  const auto values = mobula::get(refs);
  return std::accumulate(values.begin(), values.end(), 0L);
}

struct Size {
  std::size_t bytes;
  std::vector<double> copy, fresh, wire, put, get, view, remote;
  int rounds() const { return bytes > (64 << 20) ? 2 : bytes > (1 << 20) ? 10 : bytes > 4096 ? 200 : 2000; }
  std::string name() const {
    static constexpr const char* kUnits[] = {" B", " KiB", " MiB", " GiB"};
    std::size_t n = bytes;
    int unit = 0;
    for (; n >= 1024; ++unit) n /= 1024;
    return std::to_string(n) + kUnits[unit];
  }
};
std::vector<Size> g_sizes;

template <class F>
double us(int rounds, F&& f) {
  const double start = bench::seconds();
  for (int i = 0; i < rounds; ++i) f();
  return (bench::seconds() - start) / rounds * 1e6;
}

void keep(const void* p) { asm volatile("" : : "r"(p) : "memory"); }

double floors() {
  int rank = 0;
  MPI_Comm_rank(MPI_COMM_WORLD, &rank);
  for (Size& size : g_sizes) {
    const Bytes from(size.bytes, 1);
    Bytes to(size.bytes, 0);
    char ask = 0;
    MPI_Barrier(MPI_COMM_WORLD);
    if (rank == 0) {
      size.copy.push_back(us(size.rounds(), [&] {
        std::memcpy(to.data(), from.data(), size.bytes);
        keep(to.data());
      }));
      size.fresh.push_back(us(size.rounds(), [&] {
        const Bytes copy(from);
        keep(copy.data());
      }));
    }
    const auto turn = [&] {
      constexpr std::size_t kPart = 1 << 30;
      if (rank == 0) MPI_Send(&ask, 1, MPI_BYTE, 1, 4, MPI_COMM_WORLD);
      if (rank == 1) MPI_Recv(&ask, 1, MPI_BYTE, 0, 4, MPI_COMM_WORLD, MPI_STATUS_IGNORE);
      for (std::size_t at = 0; at < size.bytes; at += kPart) {
        const int n = static_cast<int>(std::min(kPart, size.bytes - at));
        if (rank == 0) MPI_Recv(to.data() + at, n, MPI_BYTE, 1, 5, MPI_COMM_WORLD, MPI_STATUS_IGNORE);
        if (rank == 1) MPI_Send(from.data() + at, n, MPI_BYTE, 0, 5, MPI_COMM_WORLD);
      }
    };
    if (rank < 2) {
      turn();
      const double took = us(std::min(size.rounds(), 100), turn);
      if (rank == 0) size.wire.push_back(took);
    }
  }
  return 0;
}

void store_turn() {
  for (Size& size : g_sizes) {
    const Bytes value(size.bytes, 1);
    mobula::put(value);
    size.put.push_back(us(size.rounds(), [&] { mobula::put(value); }));
    auto ref = mobula::put(value);
    size.get.push_back(us(size.rounds(), [&] {
      const Bytes copy = mobula::get(ref);
      keep(copy.data());
    }));
    size.view.push_back(us(size.rounds(), [&] {
      const auto view = mobula::view(ref);
      keep(view.data());
    }));
    ref = {};
    double sum = 0;
    const int rounds = std::min(size.rounds(), 100);
    for (int i = 0; i <= rounds; ++i) {
      const auto made = mobula::remote<make>(size.bytes);
      mobula::wait(std::vector{made});
      const double start = bench::seconds();
      const auto view = mobula::view(made);
      keep(view.data());
      if (i != 0) sum += bench::seconds() - start;
    }
    size.remote.push_back(sum / rounds * 1e6);
  }
}

}  // namespace

int main(int argc, char** argv) {
  const std::size_t largest = argc > 1 && argv[1][0] != '-' ? std::strtoull(argv[1], nullptr, 10) << 20 : 64 << 20;
  for (const std::size_t n : {std::size_t{8}, std::size_t{4} << 10, std::size_t{64} << 10, std::size_t{1} << 20,
                              std::size_t{64} << 20, std::size_t{1} << 30, std::size_t{3} << 30}) {
    if (n <= largest) g_sizes.push_back({n, {}, {}, {}, {}, {}, {}, {}});
  }
  bench::Report report("store");
  std::vector<double> to_all, args, results, gets;
  return bench::main(
      argc, argv, floors,
      [&](int, double) {
        if (mobula::cluster().ranks.size() <= 2) store_turn();
        const std::size_t n = std::min<std::size_t>(largest, 1 << 30);
        {
          const auto value = mobula::put(Bytes(n, 1));
          std::vector<mobula::Ref<std::size_t>> looks;
          const double start = bench::seconds();
          for (const auto& rank : mobula::cluster().ranks) {
            if (rank.slots != 0) {
              looks.push_back(mobula::remote<look>.with({.placement = mobula::on_rank(rank.rank)})(value));
            }
          }
          mobula::get(looks);
          to_all.push_back((bench::seconds() - start) * 1e3);
        }
        const auto refs = many(10'000);
        args.push_back(us(1, [&] { mobula::get(mobula::remote<total>(refs)); }) / 1e3);
        results.push_back(us(1, [&] { mobula::get(mobula::get(mobula::remote<many>(3'000))); }) / 1e3);
        gets.push_back(us(1, [&] { mobula::get(refs); }) / 1e3);
      },
      [&] {
        for (const Size& size : g_sizes) {
          if (size.put.empty()) break;
          const std::string name = size.name();
          report.add(name + ", memcpy to warm memory", size.copy, "us");
          report.add(name + ", put", size.put, "us");
          report.add_ratio(name + ", put / memcpy", size.put, size.copy, size.bytes > (1 << 19) ? "(goal: 1.1)" : "");
          report.add_ratio(name + ", get / copy to a new vector", size.get, size.fresh, "");
          report.add(name + ", view", size.view, "us (goal: under 1)");
          report.add(name + ", raw MPI from another rank", size.wire, "us");
          report.add(name + ", view of another rank's value", size.remote, "us");
          report.add_ratio(name + ", that / raw MPI", size.remote, size.wire, "(goal between nodes: 1.1)");
        }
        report.add("one value read by a task on each rank", to_all, "ms");
        report.add("a task with 10,000 Refs in its argument", args, "ms");
        report.add("a task that returns 3,000 Refs, and get", results, "ms");
        report.add("get of 10,000 objects", gets, "ms");
      },
      3);
}
