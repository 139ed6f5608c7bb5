// The driver runs the tests, so the same binary tests every launch: alone, mpirun, srun.
#include <gtest/gtest.h>

#include <mobula/mobula.hpp>

int main(int argc, char** argv) {
  testing::InitGoogleTest(&argc, argv);
  mobula::Config config;
  config.resources = {{"license", 2}};
  config.gpus = 1;
  return mobula::run(
      argc, argv, [] { return RUN_ALL_TESTS(); }, config);
}
