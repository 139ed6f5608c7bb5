// Values in HDF5 files and back.
#include "mobula/hdf5.hpp"

#include <unistd.h>

#include <cstdio>
#include <filesystem>
#include <numeric>

#include "support.hpp"

namespace {

struct Atom {
  double x;
  std::int32_t charge;
  std::array<float, 3> velocity;
  bool bound;
  bool operator==(const Atom&) const = default;
};

class Hdf5 : public testing::Test {
 protected:
  void SetUp() override {
    file_ = (std::filesystem::temp_directory_path() / ("mobula-" + std::to_string(getpid()) + ".h5")).string();
  }
  void TearDown() override { std::filesystem::remove(file_); }

  template <class T>
  void round_trip(const std::string& name, const T& value, mobula::SaveOptions options = {}) {
    mobula::save(mobula::put(value), file_, name, options);
    EXPECT_EQ(mobula::get(mobula::load<T>(file_, name)), value) << name;
  }
  std::string h5dump(const std::string& arguments) const {
    std::string text;
    FILE* out = popen(("h5dump " + arguments + " " + file_ + " 2>&1").c_str(), "r");
    for (int c = 0; (c = std::fgetc(out)) != EOF;) text += static_cast<char>(c);
    EXPECT_EQ(pclose(out), 0) << text;
    return text;
  }
  std::string file_;
};

}  // namespace

template <>
struct mobula::Hdf5Fields<Atom> {
  static constexpr auto fields = std::tuple{std::pair{"x", &Atom::x}, std::pair{"charge", &Atom::charge},
                                            std::pair{"velocity", &Atom::velocity}, std::pair{"bound", &Atom::bound}};
};

namespace {

TEST_F(Hdf5, ValuesOfAllKinds) {
  round_trip("int", 42);
  round_trip("real", 2.5F);
  round_trip("text", std::string("mobula"));
  round_trip("no text", std::string());
  round_trip("deep/down/numbers", std::vector<std::uint16_t>{1, 2, 65535});
  round_trip("none", std::vector<double>());
  round_trip("grid", std::vector<std::array<int, 2>>{{1, 2}, {3, 4}, {5, 6}});
  round_trip("complex", std::vector<std::complex<double>>{{1, 2}, {3, -4}});
  round_trip("atom", Atom{1.5, -1, {1, 2, 3}, true});
  round_trip("atoms", std::vector<Atom>(1000, Atom{1.5, -1, {1, 2, 3}, true}));
}

TEST_F(Hdf5, LargeAndCompressed) {
  std::vector<double> numbers(1'000'000);
  std::iota(numbers.begin(), numbers.end(), 0.0);
  round_trip("plain", numbers);
  const auto plain = std::filesystem::file_size(file_);
  round_trip("packed", numbers, {.compression = 4});
  EXPECT_LT(std::filesystem::file_size(file_) - plain, plain / 2);
}

TEST_F(Hdf5, ResultsOfTasksAndConversions) {
  const auto ref = mobula::remote<[](int n) { return std::vector<int>(static_cast<std::size_t>(n), 7); }>(5000);
  mobula::save(ref, file_, "sevens");
  EXPECT_EQ(mobula::get(mobula::load<std::vector<double>>(file_, "sevens")), std::vector<double>(5000, 7.0));
}

TEST_F(Hdf5, ErrorsSayWhatIsWrong) {
  const auto ref = mobula::put(std::vector<int>{1, 2, 3});
  mobula::save(ref, file_, "a/numbers");
  const auto message_of = [](auto&& act) -> std::string {
    try {
      act();
    } catch (const mobula::Error& e) {
      return e.what();
    }
    return "nothing was thrown";
  };
  EXPECT_NE(message_of([&] { mobula::save(ref, file_, "a/numbers"); }).find("there already"), std::string::npos);
  mobula::save(ref, file_, "a/numbers", {.overwrite = true});
  EXPECT_NE(message_of([&] { mobula::load<int>(file_, "a/numbers"); }).find("its shape (3)"), std::string::npos);
  EXPECT_NE(message_of([&] { mobula::load<int>(file_, "b"); }).find("no such dataset"), std::string::npos);
  EXPECT_NE(message_of([&] { mobula::load<int>(file_ + ".missing", "b"); }).find("can't be opened"), std::string::npos);
  EXPECT_NE(message_of([&] { mobula::load<std::vector<Atom>>(file_, "a/numbers"); }).find("not of the type"),
            std::string::npos);
  EXPECT_NE(message_of([&] { mobula::save(ref, "/nowhere/at/all.h5", "x"); }).find("can't be opened for writing"),
            std::string::npos);
}

TEST_F(Hdf5, H5dumpReadsIt) {
  if (std::system("command -v h5dump >/dev/null") != 0) GTEST_SKIP() << "SKIPPED: h5dump (hdf5-tools) is not installed";
  mobula::save(mobula::put(std::vector<Atom>(2, Atom{1.5, -1, {1, 2, 3}, true})), file_, "atoms");
  const std::string text = h5dump("-d /atoms");
  for (const char* expected :
       {"H5T_COMPOUND", "\"charge\"", "TRUE", "-1", "DATASET \"/atoms\"", "Atom", "ATTRIBUTE \"shape\""}) {
    EXPECT_NE(text.find(expected), std::string::npos) << expected << " is not in\n" << text;
  }
}

}  // namespace
