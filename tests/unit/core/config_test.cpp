#include "core/config.hpp"

#include <gtest/gtest.h>

#include <filesystem>
#include <fstream>

#include "mobula/error.hpp"

namespace mobula::core {
namespace {

class ConfigTest : public testing::Test {
 protected:
  ConfigTest()
      : before_(std::filesystem::current_path()),
        folder_(std::filesystem::temp_directory_path() / ("mobula-config-" + std::to_string(getpid()))) {
    std::filesystem::create_directories(folder_);
    std::filesystem::current_path(folder_);
  }
  ~ConfigTest() override {
    std::filesystem::current_path(before_);
    std::filesystem::remove_all(folder_);
  }
  Config load(std::vector<std::string> args, const std::vector<std::string>& environment = {}) {
    args.insert(args.begin(), "app");
    std::vector<char*> argv;
    for (std::string& a : args) argv.push_back(a.data());
    argv.push_back(nullptr);
    int argc = static_cast<int>(args.size());
    Config config = load_config({}, argc, argv.data(), environment);
    left_.assign(argv.begin(), argv.begin() + argc);
    return config;
  }
  std::string error(const std::vector<std::string>& args, const std::vector<std::string>& environment = {}) {
    try {
      load(args, environment);
    } catch (const ConfigError& e) {
      return e.what();
    }
    return "";
  }
  std::vector<std::string> left_;

 private:
  std::filesystem::path before_;
  std::filesystem::path folder_;
};

TEST_F(ConfigTest, LaterLayersWin) {
  std::ofstream("mobula.toml") << "slots = 2\nlog = \"info\"\n[resources]\nlicense = 3\n";
  EXPECT_EQ(load({}).slots, 2);
  EXPECT_EQ(load({}).resources.at("license"), 3);
  EXPECT_EQ(load({}, {"MOBULA_SLOTS=5"}).slots, 5);
  EXPECT_EQ(load({"--mobula-slots=7"}, {"MOBULA_SLOTS=5"}).slots, 7);
  EXPECT_EQ(load({"--mobula-slots=7"}).log, "info");
}

TEST_F(ConfigTest, FlagsAreTakenOut) {
  EXPECT_EQ(load({"a", "--mobula-slots", "3", "--other", "--mobula-inline-limit=1k", "b"}).slots, 3);
  EXPECT_EQ(left_, (std::vector<std::string>{"app", "a", "--other", "b"}));
}

TEST_F(ConfigTest, MistakesAreNamed) {
  EXPECT_NE(error({"--mobula-slotz=3"}).find("--mobula-slotz"), std::string::npos);
  EXPECT_NE(error({"--mobula-slots=many"}).find("'many'"), std::string::npos);
  EXPECT_NE(error({"--mobula-slots"}).find("needs a value"), std::string::npos);
  EXPECT_NE(error({}, {"MOBULA_COLOUR=red"}).find("MOBULA_COLOUR"), std::string::npos);
  EXPECT_NE(error({}, {"MOBULA_CONFIG=/no/such/file"}).find("/no/such/file"), std::string::npos);
  EXPECT_NE(error({"--mobula-resources=license"}).find("license=4"), std::string::npos);
  EXPECT_NE(error({"--mobula-resources=license=1", "--mobula-node-resources=license=2"}).find("both"),
            std::string::npos);
  EXPECT_NE(error({"--mobula-log=loud"}).find("loud"), std::string::npos);
  std::ofstream("mobula.toml") << "slots = \n";
  EXPECT_NE(error({}).find("line 1"), std::string::npos);
  std::ofstream("mobula.toml") << "slotz = 1\n";
  EXPECT_NE(error({}).find("slotz"), std::string::npos);
}

TEST_F(ConfigTest, Sizes) {
  EXPECT_EQ(load({"--mobula-memory=3GiB"}).memory, std::size_t{3} << 30);
  EXPECT_EQ(load({"--mobula-memory=64k"}).memory, std::size_t{64} << 10);
  EXPECT_EQ(load({"--mobula-memory=100"}).memory, 100U);
  EXPECT_FALSE(error({"--mobula-memory=1x"}).empty());
  EXPECT_FALSE(error({"--mobula-memory=-1"}).empty());
}

}  // namespace
}  // namespace mobula::core
