// The driver runs the tests, so the same binary tests every launch: alone, mpirun, srun. After each test the store must
// be empty again.
#include "support.hpp"

namespace {

class EmptyStore : public testing::EmptyTestEventListener {
  void OnTestEnd(const testing::TestInfo& test) override {
    if (support::store_settles()) return;
    std::string left;
    for (const auto& object : mobula::store_stats().largest)
      left += " " + object.id + "@" + std::to_string(object.rank);
    ADD_FAILURE() << test.name() << " leaves values in the store:" << left;
  }
};

}  // namespace

int main(int argc, char** argv) {
  testing::InitGoogleTest(&argc, argv);
  mobula::Config config;
  config.resources = {{"license", 2}};
  config.gpus = 1;
  testing::UnitTest::GetInstance()->listeners().Append(new EmptyStore);
  return mobula::run(
      argc, argv, [] { return RUN_ALL_TESTS(); }, config);
}
