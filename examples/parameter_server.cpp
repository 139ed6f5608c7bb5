// Linear regression by workers that each have part of the data: they read the weights from an actor, and push their
// gradients to it whenever they have one.
//   parameter_server [WORKERS [STEPS]]
#include <array>
#include <cmath>
#include <cstdlib>
#include <iostream>
#include <mobula/mobula.hpp>
#include <random>

constexpr std::size_t kWeights = 4;
using Weights = std::array<double, kWeights>;
constexpr Weights kTrue{3, -2, 0.5, 1};

class Server {
 public:
  explicit Server(double rate) : rate_(rate) {}
  Weights pull() const { return weights_; }
  void push(const Weights& gradient) {
    for (std::size_t i = 0; i < kWeights; ++i) weights_[i] -= rate_ * gradient[i];
    ++steps_;
  }
  int steps() const { return steps_; }

 private:
  double rate_;
  Weights weights_{};
  int steps_ = 0;
};

// One worker with its own points. Each gradient is of weights that others may have moved meanwhile.
void learn(mobula::Actor<Server> server, std::uint64_t seed, int steps) {
  std::mt19937_64 random(seed);
  std::normal_distribution<double> normal;
  for (int step = 0; step < steps; ++step) {
    const Weights weights = mobula::get(mobula::remote<&Server::pull>(server));
    Weights gradient{};
    constexpr int kPoints = 64;
    for (int point = 0; point < kPoints; ++point) {
      Weights x;
      for (double& value : x) value = normal(random);
      double error = 0.01 * normal(random);
      for (std::size_t i = 0; i < kWeights; ++i) error += (weights[i] - kTrue[i]) * x[i];
      for (std::size_t i = 0; i < kWeights; ++i) gradient[i] += error * x[i] / kPoints;
    }
    mobula::remote<&Server::push>(server, gradient);  // this worker's next pull comes after it
  }
  mobula::get(mobula::remote<&Server::pull>(server));
}

int main(int argc, char** argv) {
  return mobula::run(argc, argv, [&] {
    const int workers = argc > 1 ? std::atoi(argv[1]) : 4;
    const int steps = argc > 2 ? std::atoi(argv[2]) : 200;
    const auto server = mobula::actor<Server>(0.1);
    std::vector<mobula::Ref<void>> done;
    for (int i = 0; i < workers; ++i) {
      done.push_back(mobula::remote<learn>(server, static_cast<std::uint64_t>(i), steps));
    }
    mobula::get(done);
    const Weights found = mobula::get(mobula::remote<&Server::pull>(server));
    double error = 0;
    for (std::size_t i = 0; i < kWeights; ++i) error = std::max(error, std::abs(found[i] - kTrue[i]));
    std::cout << mobula::get(mobula::remote<&Server::steps>(server)) << " gradients of " << workers
              << " workers; the weights are right to " << error << '\n';
    return error < 0.05 ? 0 : 1;
  });
}
