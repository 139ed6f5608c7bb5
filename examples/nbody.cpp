// Bodies that attract each other, a gang of ranks for each step: a step's result is the next one's argument, and other
// tasks look at the steps meanwhile.
//   nbody [BODIES [STEPS]]
#include <array>
#include <boost/mpi/collectives/all_gatherv.hpp>
#include <boost/mpi/communicator.hpp>
#include <boost/serialization/vector.hpp>
#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <mobula/mobula.hpp>
#include <random>
#include <vector>

struct Body {
  std::array<double, 3> at{};
  std::array<double, 3> velocity{};
  double mass = 1;
};
using Bodies = std::vector<Body>;

constexpr double kSoft = 0.05;  // keeps the force finite where two meet

std::array<double, 3> pull(const Bodies& bodies, const Body& on) {
  std::array<double, 3> sum{};
  for (const Body& other : bodies) {
    std::array<double, 3> d{};
    double square = kSoft * kSoft;
    for (std::size_t i = 0; i < 3; ++i) {
      d[i] = other.at[i] - on.at[i];
      square += d[i] * d[i];
    }
    const double f = other.mass / (square * std::sqrt(square));
    for (std::size_t i = 0; i < 3; ++i) sum[i] += f * d[i];
  }
  return sum;
}

// One step by the leapfrog method. Each rank moves its part of the bodies; rank 0 returns all.
Bodies step(const boost::mpi::communicator& ranks, Bodies bodies, double dt) {
  const auto part = [&](int rank) {
    return bodies.size() * static_cast<std::size_t>(rank) / static_cast<std::size_t>(ranks.size());
  };
  Bodies moved(bodies.begin() + static_cast<std::ptrdiff_t>(part(ranks.rank())),
               bodies.begin() + static_cast<std::ptrdiff_t>(part(ranks.rank() + 1)));
  const auto share = [&] {
    std::vector<int> sizes;
    for (int r = 0; r < ranks.size(); ++r) sizes.push_back(static_cast<int>((part(r + 1) - part(r)) * sizeof(Body)));
    boost::mpi::all_gatherv(ranks, reinterpret_cast<const char*>(moved.data()), reinterpret_cast<char*>(bodies.data()),
                            sizes);
  };
  const auto kick = [&] {
    for (Body& body : moved) {
      const auto force = pull(bodies, body);
      for (std::size_t i = 0; i < 3; ++i) body.velocity[i] += dt / 2 * force[i];
    }
  };
  kick();
  for (Body& body : moved) {
    for (std::size_t i = 0; i < 3; ++i) body.at[i] += dt * body.velocity[i];
  }
  share();
  kick();
  share();
  return ranks.rank() == 0 ? bodies : Bodies();
}

double energy(const Bodies& bodies) {
  double sum = 0;
  for (std::size_t a = 0; a < bodies.size(); ++a) {
    for (const double v : bodies[a].velocity) sum += bodies[a].mass * v * v / 2;
    for (std::size_t b = 0; b < a; ++b) {
      double square = kSoft * kSoft;
      for (std::size_t i = 0; i < 3; ++i) square += std::pow(bodies[a].at[i] - bodies[b].at[i], 2);
      sum -= bodies[a].mass * bodies[b].mass / std::sqrt(square);
    }
  }
  return sum;
}

int main(int argc, char** argv) {
  return mobula::run(argc, argv, [&] {
    const std::size_t n = argc > 1 ? std::strtoul(argv[1], nullptr, 10) : 600;
    const int steps = argc > 2 ? std::atoi(argv[2]) : 50;
    std::mt19937_64 random(1);
    std::normal_distribution<double> normal;
    Bodies bodies(n);
    for (Body& body : bodies) {
      body.mass = 1.0 / static_cast<double>(n);
      for (double& x : body.at) x = normal(random);
      for (double& v : body.velocity) v = 0.3 * normal(random);
    }
    std::size_t workers = 0;
    for (const auto& rank : mobula::cluster().ranks) workers += rank.slots > 0 ? 1 : 0;

    mobula::Ref<Bodies> state = mobula::put(bodies);
    std::vector<mobula::Ref<double>> energies{mobula::remote<energy>(state)};
    for (int i = 1; i <= steps; ++i) {
      state = mobula::gang<step>(workers, state, 0.005)[0];
      if (i % 10 == 0) energies.push_back(mobula::remote<energy>(state));
    }
    const double first = mobula::get(energies.front());
    double worst = 0;
    for (const auto& e : energies) worst = std::max(worst, std::abs(mobula::get(e) / first - 1));
    const Body last = mobula::get(state).back();
    std::printf("%zu bodies, %d steps on %zu ranks: energy kept to %.2g; the last body ends at %.12g %.12g %.12g\n", n,
                steps, workers, worst, last.at[0], last.at[1], last.at[2]);
    return worst < 1e-3 ? 0 : 1;
  });
}
