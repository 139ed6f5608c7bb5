// Ranks in containers of their own are one node: they see each other's objects where they lie, on cores of their own.
#include <chrono>
#include <cstdio>
#include <cstring>
#include <fstream>
#include <mobula/mobula.hpp>
#include <set>
#include <span>
#include <string>
#include <vector>

namespace {

using Clock = std::chrono::steady_clock;
constexpr std::size_t kNumbers = 32 << 20;  // 256 MiB

std::vector<long> make() { return std::vector<long>(kNumbers, 1); }

double ms_since(Clock::time_point begun) {
  return std::chrono::duration<double, std::milli>(Clock::now() - begun).count();
}

// How long it takes to see a value of another rank, to copy as much, and what it says.
std::vector<double> look(std::vector<mobula::Ref<std::vector<long>>> of) {
  const auto begun = Clock::now();
  const auto view = mobula::view(of.front());
  const std::span<const long> numbers = view;
  const long ends = numbers.front() + numbers.back();
  const double seen = ms_since(begun);
  std::vector<long> copy(kNumbers);
  const auto copying = Clock::now();
  std::memcpy(copy.data(), numbers.data(), kNumbers * sizeof(long));
  return {seen, ms_since(copying), static_cast<double>(ends + copy[kNumbers / 2])};
}

std::string image() {
  std::string text;
  std::getline(std::ifstream("/etc/of-the-image"), text);
  return text;
}

std::vector<int> cores() { return mobula::here().cores; }

}  // namespace

int main(int argc, char** argv) {
  return mobula::run(argc, argv, [&]() -> int {
    const auto cluster = mobula::cluster();
    if (cluster.nodes.size() != 1) {
      std::printf("FAILED: the ranks are on %zu nodes\n", cluster.nodes.size());
      return 1;
    }
    const auto value = mobula::remote<make>.with({.placement = mobula::on_rank(1)})();
    mobula::wait(std::vector{value});
    const auto seen = mobula::get(mobula::remote<look>.with({.placement = mobula::on_rank(2)})(std::vector{value}));
    std::printf("256 MiB of another rank: seen in %.2f ms, copied in %.0f ms\n", seen[0], seen[1]);
    if (seen[2] != 3 || seen[0] > seen[1] / 4) {
      std::puts("FAILED: they were copied to be seen");
      return 1;
    }
    std::set<int> taken;
    for (std::uint32_t rank = 1; rank < cluster.ranks.size(); ++rank) {
      if (const std::string of = mobula::get(mobula::remote<image>.with({.placement = mobula::on_rank(rank)})());
          of != "inside") {
        std::printf("FAILED: rank %u is not in the image\n", rank);
        return 1;
      }
      const auto mine = mobula::get(mobula::remote<cores>.with({.placement = mobula::on_rank(rank)})());
      taken.insert(mine.begin(), mine.end());
      std::printf("rank %u on core %d%s\n", rank, mine.front(), mine.size() > 1 ? " and more" : "");
    }
    return 0;
  });
}
