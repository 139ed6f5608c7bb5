// Ray's C++ API: tasks and actors in a worker that loads this program.
#include <ray/api.h>

#include <chrono>
#include <cstdio>
#include <vector>

int Noop(int x) { return x; }
RAY_REMOTE(Noop);

class Counter {
 public:
  static Counter* Create() { return new Counter; }
  int Add(int x) { return n_ += x; }

 private:
  int n_ = 0;
};
RAY_REMOTE(Counter::Create, &Counter::Add);

static double seconds() {
  return std::chrono::duration<double>(std::chrono::steady_clock::now().time_since_epoch()).count();
}
template <class Run>
static void rate(const char* name, double n, Run run) {
  const double start = seconds();
  run();
  std::printf("%s %.6g\n", name, n / (seconds() - start));
}

int main(int argc, char** argv) {
  ray::RayConfig config;
  config.head_args = {"--num-cpus", "2", "--include-dashboard", "false", "--disable-usage-stats"};
  ray::Init(config, argc, argv);
  ray::Task(Noop).Remote(0).Get();
  std::printf("epoch %lld\n", static_cast<long long>(std::chrono::duration_cast<std::chrono::nanoseconds>(
                                                         std::chrono::system_clock::now().time_since_epoch())
                                                         .count()));
  constexpr int kSync = 300, kMany = 10'000;
  for (int i = 0; i < 200; ++i) ray::Task(Noop).Remote(i).Get();
  rate("task_sync", kSync, [] {
    for (int i = 0; i < kSync; ++i) ray::Task(Noop).Remote(i).Get();
  });
  rate("task_async", kMany, [] {
    std::vector<ray::ObjectRef<int>> refs;
    for (int i = 0; i < kMany; ++i) refs.push_back(ray::Task(Noop).Remote(i));
    for (auto& ref : refs) ref.Get();
  });
  auto counter = ray::Actor(Counter::Create).Remote();
  counter.Task(&Counter::Add).Remote(1).Get();
  rate("actor_sync", kSync, [&] {
    for (int i = 0; i < kSync; ++i) counter.Task(&Counter::Add).Remote(1).Get();
  });
  rate("actor_async", kMany, [&] {
    std::vector<ray::ObjectRef<int>> refs;
    for (int i = 0; i < kMany; ++i) refs.push_back(counter.Task(&Counter::Add).Remote(1));
    for (auto& ref : refs) ref.Get();
  });
  ray::Shutdown();
}
