#include "topology/gpus.hpp"

#include <gtest/gtest.h>
#include <stdlib.h>

#include <cstdlib>
#include <filesystem>
#include <fstream>

namespace mobula::topology {
namespace {

namespace fs = std::filesystem;

// A machine as its drivers describe it, in files of a folder.
class GpusTest : public testing::Test {
 protected:
  void SetUp() override {
    std::string name = (fs::temp_directory_path() / "mobula-gpus-XXXXXX").string();
    ASSERT_NE(mkdtemp(name.data()), nullptr);
    root = name;
  }
  void TearDown() override {
    unsetenv("HWLOC_XMLFILE");
    fs::remove_all(root);
  }
  void write(const std::string& path, const std::string& text) const {
    fs::create_directories((root + path).substr(0, (root + path).rfind('/')));
    std::ofstream(root + path) << text;
  }
  void nvidia(const std::string& bus, int minor, bool usable = true) const {
    write("/proc/driver/nvidia/gpus/" + bus + "/information",
          "Model: \t\t Some GPU\nIRQ:   \t\t 100\nGPU UUID: \t GPU-" + std::to_string(minor) +
              "f00-1\nDevice Minor: \t " + std::to_string(minor) + "\n");
    if (usable) write("/dev/nvidia" + std::to_string(minor), "");
  }
  void amd(int node, const std::string& properties, int render = -1) const {
    write("/sys/class/kfd/kfd/topology/nodes/" + std::to_string(node) + "/properties", properties);
    if (render >= 0) write("/dev/dri/renderD" + std::to_string(render), "");
  }
  std::string root;
};

TEST_F(GpusTest, NoDriverNoGpus) {
  EXPECT_TRUE(find_gpus(root).found.empty());
  nvidia("0000:3b:00.0", 0, false);
  EXPECT_TRUE(find_gpus(root).found.empty()) << "a container that was not given the device";
}

TEST_F(GpusTest, NvidiasInOrderOfTheirAddresses) {
  nvidia("0000:b1:00.0", 0);
  nvidia("0000:18:00.0", 1);
  nvidia("0000:86:00.0", 2, false);
  const Gpus gpus = find_gpus(root);
  EXPECT_EQ(gpus.variable, "CUDA_VISIBLE_DEVICES");
  ASSERT_EQ(gpus.found.size(), 2U);
  EXPECT_EQ(gpus.found[0].bus, "0000:18:00.0");
  EXPECT_EQ(gpus.found[0].uuid, "GPU-1f00-1");
  EXPECT_EQ(gpus.found[1].name, "1");
}

TEST_F(GpusTest, AmdsInOrderOfTheDriver) {
  amd(0, "cpu_cores_count 64\nsimd_count 0\ndrm_render_minor 0\n");
  amd(10, "simd_count 440\nlocation_id 12544\ndomain 0\ndrm_render_minor 129\n", 129);
  amd(2, "simd_count 440\nlocation_id 49408\ndomain 1\ndrm_render_minor 128\n", 128);
  const Gpus gpus = find_gpus(root);
  EXPECT_EQ(gpus.variable, "ROCR_VISIBLE_DEVICES");
  ASSERT_EQ(gpus.found.size(), 2U);
  EXPECT_EQ(gpus.found[0].bus, "0001:c1:00.0");
  EXPECT_EQ(gpus.found[1].bus, "0000:31:00.0");
}

TEST_F(GpusTest, HwlocTellsWhatLiesBeside) {
  // Two packages of two cores, with a GPU on each.
  const auto package = [](int i, const std::string& bus) {
    const auto set = [](unsigned mask) {
      char text[16];
      std::snprintf(text, sizeof text, "0x%08x", mask);
      return std::string(text);
    };
    const auto sets = [&](unsigned mask) {
      return " cpuset=\"" + set(mask) + "\" complete_cpuset=\"" + set(mask) + "\" nodeset=\"0x00000001\"" +
             " complete_nodeset=\"0x00000001\"";
    };
    const unsigned both = 3U << 2 * i;
    std::string text = "<object type=\"Package\" os_index=\"" + std::to_string(i) + "\"" + sets(both) + " gp_index=\"" +
                       std::to_string(10 + 10 * i) + "\">";
    for (int cpu = 2 * i; cpu < 2 * i + 2; ++cpu) {
      text += "<object type=\"PU\" os_index=\"" + std::to_string(cpu) + "\"" + sets(1U << cpu) + " gp_index=\"" +
              std::to_string(100 + cpu) + "\"/>";
    }
    const std::string number = bus.substr(5, 2);
    text += "<object type=\"Bridge\" gp_index=\"" + std::to_string(200 + i) + "\" bridge_type=\"0-1\" depth=\"0\"" +
            " bridge_pci=\"0000:[" + number + "-" + number + "]\">" + "<object type=\"PCIDev\" gp_index=\"" +
            std::to_string(300 + i) + "\" pci_busid=\"" + bus +
            "\" pci_type=\"0302 [10de:20b0] [10de:134f] a1\" pci_link_speed=\"0.000000\"/></object></object>";
    return text;
  };
  const std::string sets =
      " cpuset=\"0x0000000f\" complete_cpuset=\"0x0000000f\" nodeset=\"0x00000001\" complete_nodeset=\"0x00000001\"";
  write("/topology.xml",
        "<?xml version=\"1.0\" encoding=\"UTF-8\"?>\n<!DOCTYPE topology SYSTEM \"hwloc2.dtd\">\n<topology "
        "version=\"2.0\"><object type=\"Machine\" os_index=\"0\"" +
            sets + " allowed_cpuset=\"0x0000000f\" allowed_nodeset=\"0x00000001\" gp_index=\"1\">" +
            "<object type=\"NUMANode\" os_index=\"0\"" + sets + " gp_index=\"5\" local_memory=\"1000000\"/>" +
            package(0, "0000:18:00.0") + package(1, "0000:b1:00.0") + "</object></topology>\n");
  setenv("HWLOC_XMLFILE", (root + "/topology.xml").c_str(), 1);
  nvidia("0000:18:00.0", 0);
  nvidia("0000:b1:00.0", 1);
  const Gpus gpus = find_gpus(root);
  ASSERT_EQ(gpus.found.size(), 2U);
  EXPECT_EQ(gpus.found[0].cpus, (std::vector<int>{0, 1}));
  EXPECT_EQ(gpus.found[1].cpus, (std::vector<int>{2, 3}));
}

std::vector<Gpu> four() {
  std::vector<Gpu> gpus;
  for (int i = 0; i < 4; ++i) {
    const std::string n = std::to_string(i);
    gpus.push_back({n, "0000:0" + n + ":00.0", "GPU-" + n + "abc", i < 2 ? std::vector{0, 1} : std::vector{2, 3}});
  }
  return gpus;
}

std::string names(const std::vector<Gpu>& gpus) {
  std::string text;
  for (const Gpu& gpu : gpus) text += gpu.name + "@" + gpu.bus.substr(6, 1) + " ";
  return text;
}

TEST(Gpus, TheVariableNamesThem) {
  EXPECT_EQ(named_gpus(four(), nullptr).size(), 4U);
  EXPECT_EQ(names(named_gpus(four(), "2, 0")), "2@2 0@0 ");
  EXPECT_EQ(names(named_gpus(four(), "GPU-3a,1")), "GPU-3a@3 1@1 ");
  EXPECT_EQ(names(named_gpus(four(), "1,9,2")), "1@1 ") << "none counts after one that is not there";
  EXPECT_EQ(named_gpus(four(), "MIG-1234").size(), 1U);
  EXPECT_TRUE(named_gpus(four(), "").empty());
  EXPECT_TRUE(named_gpus(four(), "NoDevFiles").empty());
}

TEST(Gpus, EachRankHasThoseNearIt) {
  const auto gpus = four();
  const Cores left{{0}, {1}};
  const Cores right{{2}, {3}};
  using Indexes = std::vector<std::size_t>;
  EXPECT_EQ(divide_gpus(gpus, {left}, 0), (Indexes{0, 1, 2, 3}));
  EXPECT_EQ(divide_gpus(gpus, {right, left}, 0), (Indexes{2, 3}));
  EXPECT_EQ(divide_gpus(gpus, {left, left}, 0), (Indexes{0, 2}));
  EXPECT_EQ(divide_gpus(gpus, {left, left, right, right, left}, 2), (Indexes{2}));
  EXPECT_EQ(divide_gpus(gpus, {left, left, right, right, left}, 4), (Indexes{}));
  std::size_t all = 0;
  for (std::size_t r = 0; r < 3; ++r) all += divide_gpus(gpus, {left, right, right}, r).size();
  EXPECT_EQ(all, 4U);
}

}  // namespace
}  // namespace mobula::topology
