#include <gtest/gtest.h>

#include <boost/serialization/nvp.hpp>
#include <boost/serialization/split_member.hpp>
#include <deque>
#include <list>
#include <map>
#include <random>
#include <set>
#include <unordered_map>
#include <unordered_set>

#include "mobula/error.hpp"
#include "mobula/ref.hpp"

namespace mobula::detail {
namespace {

template <class T>
Buffer bytes_of(const T& value) {
  Encoder out;
  encode(out, value);
  return std::move(out.buffer);
}

template <class T>
void expect_round_trip(const T& value) {
  const Buffer bytes = bytes_of(value);
  EXPECT_EQ(decode_value<T>(bytes.view()), value);
  if (encoded_size(value) != 0) {
    EXPECT_EQ(encoded_size(value), bytes.size());
  }
  // Every truncation is damage, never a crash; so are bytes left over.
  for (std::size_t n = 0; n < bytes.size(); ++n)
    EXPECT_THROW(decode_value<T>(bytes.view().first(n)), ProtocolError) << n;
  Buffer longer(bytes.view());
  longer.extend(1)[0] = std::byte{0};
  EXPECT_THROW(decode_value<T>(longer.view()), ProtocolError);
}

struct Point {
  int x = 0;
  double y = 0;
  bool operator==(const Point&) const = default;
};

struct Intrusive {
  std::string name;
  std::map<int, std::vector<double>> table;
  bool operator==(const Intrusive&) const = default;
  template <class Archive>
  void serialize(Archive& archive, unsigned) {
    archive& BOOST_SERIALIZATION_NVP(name);
    archive& table;
  }
};

struct Split {
  int a = 0;
  std::string b;
  bool operator==(const Split&) const = default;
  template <class Archive>
  void save(Archive& archive, unsigned) const {
    archive << b << a;
  }
  template <class Archive>
  void load(Archive& archive, unsigned) {
    archive >> b >> a;
  }
  BOOST_SERIALIZATION_SPLIT_MEMBER()
};

struct Derived : Intrusive {
  int extra = 0;
  bool operator==(const Derived&) const = default;
  template <class Archive>
  void serialize(Archive& archive, unsigned) {
    archive& static_cast<Intrusive&>(*this);
    archive& extra;
  }
};

TEST(Codec, Scalars) {
  expect_round_trip(42);
  expect_round_trip(-1.5);
  expect_round_trip('c');
  expect_round_trip(true);
  expect_round_trip(std::uint64_t{1} << 63);
  expect_round_trip(Point{3, 4.5});
  expect_round_trip(std::array<int, 3>{1, 2, 3});
  expect_round_trip(std::chrono::milliseconds(5));
}

TEST(Codec, Sequences) {
  expect_round_trip(std::string("hello"));
  expect_round_trip(std::string());
  expect_round_trip(std::vector<int>{1, 2, 3});
  expect_round_trip(std::vector<Point>{{1, 2}, {3, 4}});
  expect_round_trip(std::vector<bool>{true, false, true});
  expect_round_trip(std::vector<std::string>{"a", "", "ccc"});
  expect_round_trip(std::vector<std::vector<std::vector<int>>>{{{1}, {}}, {{2, 3}}});
  expect_round_trip(std::deque<int>{1, 2});
  expect_round_trip(std::list<std::string>{"x", "y"});
  expect_round_trip(std::u16string(u"héllo"));
  expect_round_trip(std::array<std::string, 2>{"a", "b"});
}

TEST(Codec, AssociativeContainers) {
  expect_round_trip(std::map<std::string, int>{{"a", 1}, {"b", 2}});
  expect_round_trip(std::multimap<int, int>{{1, 1}, {1, 2}});
  expect_round_trip(std::set<int>{3, 1, 2});
  expect_round_trip(std::unordered_map<std::string, std::vector<int>>{{"a", {1}}, {"b", {}}});
  expect_round_trip(std::unordered_set<int>{5, 6});
}

TEST(Codec, SumsAndProducts) {
  expect_round_trip(std::pair<int, std::string>{1, "x"});
  expect_round_trip(std::tuple<int, double, std::string>{1, 2.0, "3"});
  expect_round_trip(std::optional<int>{});
  expect_round_trip(std::optional<std::string>{"x"});
  expect_round_trip(std::variant<int, std::string>{"text"});
  expect_round_trip(std::variant<std::monostate, double>{2.5});
}

TEST(Codec, UserTypes) {
  expect_round_trip(Intrusive{"n", {{1, {1.5}}, {2, {}}}});
  expect_round_trip(Split{7, "b"});
  Derived derived;
  derived.name = "d";
  derived.extra = 9;
  expect_round_trip(derived);
  expect_round_trip(std::vector<Intrusive>{{"a", {}}, {"b", {{1, {}}}}});
}

TEST(Codec, HugeLengthsAreRejectedBeforeMemoryIsTaken) {
  Buffer bytes = bytes_of(std::vector<double>{1, 2, 3});
  for (const std::uint64_t n : {std::uint64_t{4}, std::uint64_t{1} << 40, ~std::uint64_t{0}, std::uint64_t{1} << 61}) {
    std::memcpy(bytes.data(), &n, sizeof n);
    EXPECT_THROW(decode_value<std::vector<double>>(bytes.view()), ProtocolError);
    EXPECT_THROW(decode_value<std::string>(bytes.view()), ProtocolError);
    EXPECT_THROW((decode_value<std::map<int, int>>(bytes.view())), ProtocolError);
    EXPECT_THROW(decode_value<std::vector<std::string>>(bytes.view()), ProtocolError);
  }
}

TEST(Codec, BadTagsAreRejected) {
  const std::byte two{2};
  EXPECT_THROW(decode_value<bool>(ByteView(&two, 1)), ProtocolError);
  EXPECT_THROW(decode_value<std::optional<int>>(ByteView(&two, 1)), ProtocolError);
  Buffer bytes = bytes_of(std::variant<int, double>{1});
  bytes.data()[0] = std::byte{9};
  EXPECT_THROW((decode_value<std::variant<int, double>>(bytes.view())), ProtocolError);
}

TEST(Codec, RandomBytesNeverCrash) {
  using Deep =
      std::vector<std::variant<std::map<std::string, std::optional<int>>, std::tuple<bool, std::vector<std::string>>>>;
  const auto seed = std::random_device{}();
  SCOPED_TRACE("seed " + std::to_string(seed));
  std::mt19937 random(seed);
  const Buffer good = bytes_of(Deep{std::map<std::string, std::optional<int>>{{"k", 1}, {"l", std::nullopt}},
                                    std::tuple(true, std::vector<std::string>{"a", "b"})});
  for (int i = 0; i < 20'000; ++i) {
    Buffer bytes(good.view());
    for (auto n = 1 + random() % 4; n != 0; --n)
      bytes.data()[random() % bytes.size()] = static_cast<std::byte>(random());
    try {
      decode_value<Deep>(bytes.view());
    } catch (const ProtocolError&) {
    }
  }
}

}  // namespace
}  // namespace mobula::detail
