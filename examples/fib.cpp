// Fibonacci numbers by tasks that make tasks. A task that waits lends its slot, so the recursion never blocks.
#include <cstdlib>
#include <iostream>
#include <mobula/mobula.hpp>

long fib(int n) {
  if (n < 2) return n;
  const auto a = mobula::remote<fib>(n - 1);
  const auto b = mobula::remote<fib>(n - 2);
  return mobula::get(a) + mobula::get(b);
}

int main(int argc, char** argv) {
  return mobula::run(argc, argv, [&] {
    const int n = argc > 1 ? std::atoi(argv[1]) : 20;
    std::cout << "fib(" << n << ") = " << mobula::get(mobula::remote<fib>(n)) << '\n';
  });
}
