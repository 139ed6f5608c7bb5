// Which rare paths the programs of this run have reached; with SIM_MARKS=times, how often. scripts/soak fails where one
// was reached neither here nor by random programs.
#include <gtest/gtest.h>

#include <cstdio>
#include <cstdlib>
#include <string_view>

#include "core/mark.hpp"

namespace mobula::sim {
namespace {

class Marks final : public testing::Environment {
 public:
  void TearDown() override {
    const auto all = core::Mark::all();
    std::size_t reached = 0;
    for (const auto& [name, times] : all) reached += times != 0 ? 1 : 0;
    std::printf("marks reached: %zu of %zu\n", reached, all.size());
    for (const auto& [name, times] : all) {
      if (times == 0) std::printf("  not reached: %s\n", name.c_str());
    }
    const char* mode = std::getenv("SIM_MARKS");
    if (mode == nullptr || std::string_view(mode) != "times") return;
    for (const auto& [name, times] : all)
      std::printf("%12llu %s\n", static_cast<unsigned long long>(times), name.c_str());
  }
};

[[maybe_unused]] const testing::Environment* const kMarks = testing::AddGlobalTestEnvironment(new Marks);

}  // namespace
}  // namespace mobula::sim
