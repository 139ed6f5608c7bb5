#include <mobula/hdf5.hpp>
#include <mobula/mobula.hpp>

int main(int argc, char** argv) {
  return mobula::run(argc, argv, [] {
    mobula::save(mobula::put(std::vector<int>{1, 2, 3}), "saved.h5", "numbers", {.overwrite = true});
    return mobula::get(mobula::load<std::vector<int>>("saved.h5", "numbers")).size() == 3 ? 0 : 1;
  });
}
