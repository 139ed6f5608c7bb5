// An MPI solver as a function with a future: plates of several sizes are solved at once, each by a gang of ranks, and
// tasks look at the results.
//   mpirun -n 5 jacobi [N [FILE]]
#include <cstdio>
#include <cstdlib>
#include <mobula/mobula.hpp>
#include <string>

#include "jacobi_solver.hpp"

std::string describe(int n, const JacobiResult& r) {
  char text[200];
  std::snprintf(text, sizeof text, "%d x %d: %d iterations, change %.17g, mean %.17g", n, n, r.iterations, r.change,
                r.mean);
  return text;
}

int main(int argc, char** argv) {
  return mobula::run(argc, argv, [&] {
    const int n = argc > 1 ? std::atoi(argv[1]) : 100;
    const std::string path = argc > 2 ? argv[2] : "";
    std::size_t workers = 0;
    for (const auto& rank : mobula::cluster().ranks) workers += rank.slots > 0 ? 1 : 0;
    // The largest takes half of the ranks; the others share the rest, and follow one another.
    std::vector<mobula::Ref<std::string>> lines;
    const auto solve = [&](std::size_t ranks, int size, const std::string& file) {
      const auto results = mobula::gang<jacobi>(ranks, size, 100, 1e-4, file);
      lines.push_back(mobula::remote<describe>(size, results[0]));
    };
    solve((workers + 1) / 2, n, path);
    for (int size = n / 2; size >= 4; size /= 2) solve(1 + workers / 4, size, "");
    for (const auto& line : lines) std::puts(mobula::get(line).c_str());
  });
}
