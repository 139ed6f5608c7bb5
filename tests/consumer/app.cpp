#include <mobula/mobula.hpp>

int square(int x) { return x * x; }

int main(int argc, char** argv) {
  return mobula::run(argc, argv, [] { return mobula::get(mobula::remote<square>(3)) == 9 ? 0 : 1; });
}
