// One counter for all ranks: tasks compute, an actor adds up.
#include <iostream>
#include <mobula/mobula.hpp>

int square(int x) { return x * x; }

struct Counter {
  long total = 0;
  long add(long n) { return total += n; }
};

// Any task may hold a handle.
void add_range(mobula::Actor<Counter> counter, int from, int to) {
  for (int i = from; i < to; ++i) mobula::remote<&Counter::add>(counter, square(i));
}

int main(int argc, char** argv) {
  return mobula::run(argc, argv, [] {
    const auto counter = mobula::actor<Counter>();
    for (int i = 0; i < 500; ++i) {
      mobula::remote<&Counter::add>(counter, mobula::remote<square>(i));  // a Ref is a fine argument
    }
    // The calls of one caller run in the order made; those of different callers in any.
    const auto rest = mobula::remote<add_range>(counter, 500, 1000);
    mobula::get(rest);
    long total = 0;
    while ((total = mobula::get(mobula::remote<&Counter::add>(counter, 0))) != 332'833'500) {
    }
    std::cout << "the squares below 1000 add up to " << total << '\n';
  });
}
