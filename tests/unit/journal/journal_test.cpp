#include "journal/journal.hpp"

#include <gtest/gtest.h>
#include <stdlib.h>

#include <cstring>
#include <filesystem>
#include <fstream>
#include <map>
#include <string>
#include <thread>
#include <vector>

#include "mobula/error.hpp"

namespace mobula::journal {
namespace {

namespace fs = std::filesystem;

ByteView bytes_of(std::string_view text) { return {reinterpret_cast<const std::byte*>(text.data()), text.size()}; }
std::string text_of(const Buffer& bytes) { return {reinterpret_cast<const char*>(bytes.data()), bytes.size()}; }
std::string found(Journal& journal, const std::string& name) {
  Buffer value;
  return journal.find(key_of_name(name), value) ? text_of(value) : "none";
}
std::string kept(Journal& journal, const std::string& name) {
  Buffer value;
  return journal.kept(name, value) ? text_of(value) : "none";
}

class JournalTest : public testing::Test {
 protected:
  JournalTest() {
    std::string name = (fs::temp_directory_path() / "mobula-XXXXXX").string();
    folder_ = mkdtemp(name.data());
  }
  ~JournalTest() override { fs::remove_all(folder_); }

  static Entry entry(const std::string& name) {
    Entry entry;
    entry.key = key_of_name(name);
    entry.name = name;
    return entry;
  }
  std::string folder(const char* name = "") const { return folder_ + "/a%b?c#d" + name; }
  // What the next job finds.
  std::string next(const std::string& name) const {
    Journal journal(folder());
    journal.take();
    return found(journal, name);
  }
  std::vector<fs::path> files(const char* part) const {
    std::vector<fs::path> all;
    for (const auto& file : fs::directory_iterator(folder() + "/" + part)) all.push_back(file.path());
    return all;
  }

  std::string folder_;
};

TEST_F(JournalTest, TheNextJobFindsWhatRanksAdded) {
  const std::string large(1 << 20, 'x');
  {
    Journal head(folder());
    head.take();
    Journal rank(folder());
    EXPECT_TRUE(rank.add(entry("small"), bytes_of("1")));
    EXPECT_TRUE(rank.add(entry("nothing"), {}));
    EXPECT_TRUE(head.add(entry("large"), bytes_of(large)));
    EXPECT_EQ(found(rank, "small"), "none");  // not before the next job
  }
  for (int job = 0; job < 2; ++job) {
    EXPECT_EQ(next("small"), "1");
    EXPECT_EQ(next("nothing"), "");
    EXPECT_EQ(next("large"), large);
    EXPECT_EQ(next("other"), "none");
  }
}

TEST_F(JournalTest, TheNewestOfAKeyStays) {
  for (const char* value : {"first", "second", "third"}) {
    Journal journal(folder());
    journal.take();
    journal.add(entry("x"), bytes_of("to be replaced"));
    journal.add(entry("x"), bytes_of(value));
  }
  EXPECT_EQ(next("x"), "third");
}

TEST_F(JournalTest, NamesAreFoundInTheSameJobToo) {
  Journal journal(folder());
  journal.take();
  EXPECT_EQ(kept(journal, "x"), "none");
  journal.keep("x", Buffer(bytes_of("1")));
  EXPECT_EQ(kept(journal, "x"), "1");
  journal.keep("x", Buffer(bytes_of("2")));
  EXPECT_EQ(kept(journal, "x"), "2");
}

TEST_F(JournalTest, WhatIsCutOffOrDamagedCountsAsNone) {
  {
    Journal journal(folder());
    journal.take();
    for (const char* name : {"a", "b", "c"}) journal.add(entry(name), bytes_of(name));
    journal.add(entry("large"), bytes_of(std::string(100'000, 'x')));
    journal.add(entry("last"), bytes_of("last"));
  }
  const fs::path file = files("results").at(0);
  std::string all;
  {
    std::ifstream in(file, std::ios::binary);
    all.assign(std::istreambuf_iterator<char>(in), {});
  }
  const auto with = [&](const std::string& content, const std::string& name) {
    fs::remove(folder() + "/book.db");
    std::ofstream(file, std::ios::binary) << content;
    return next(name);
  };
  EXPECT_EQ(with(all, "last"), "last");
  for (std::size_t size = 0; size < all.size(); size += 7) {
    EXPECT_EQ(with(all.substr(0, size), "last"), "none");
    if (size > all.size() / 2) {
      EXPECT_EQ(next("a"), "a");
    }
  }
  for (std::size_t at = 0; at < all.size(); at += 5) {
    std::string damaged = all;
    damaged[at] = static_cast<char>(damaged[at] ^ 0x40);
    const std::string seen = with(damaged, "c");
    EXPECT_TRUE(seen == "c" || seen == "none") << at;
  }
  EXPECT_EQ(with(all, "large"), std::string(100'000, 'x'));
  std::fstream(files("values").at(0), std::ios::in | std::ios::out | std::ios::binary) << "y";
  EXPECT_EQ(next("large"), "none");
  fs::remove(files("values").at(0));
  EXPECT_EQ(next("large"), "none");
}

TEST_F(JournalTest, OneJobAtATimeHasIt) {
  Journal first(folder());
  first.take();
  Journal second(folder());
  EXPECT_THROW(second.take(), ConfigError);
  EXPECT_TRUE(Reader(folder(), false).in_use());
  EXPECT_THROW(Reader(folder(), true), Error);
  EXPECT_THROW(Reader(folder("none"), false), Error);
}

TEST_F(JournalTest, WithoutAFolderTheJobGoesOn) {
  Journal rank(folder("elsewhere"));
  EXPECT_FALSE(rank.add(entry("x"), bytes_of("1")));
  EXPECT_EQ(found(rank, "x"), "none");
  EXPECT_THROW(rank.keep("x", Buffer(bytes_of("1"))), Error);
  Journal head("/proc/none");
  EXPECT_THROW(head.take(), ConfigError);
}

TEST_F(JournalTest, ManyThreadsAdd) {
  constexpr int kThreads = 4;
  constexpr int kEach = 300;
  {
    Journal journal(folder());
    journal.take();
    std::vector<std::thread> threads;
    for (int t = 0; t < kThreads; ++t) {
      threads.emplace_back([&journal, t] {
        for (int i = 0; i < kEach; ++i) {
          const std::string name = std::to_string(t) + "." + std::to_string(i);
          journal.add(entry(name), bytes_of(name + std::string(i % 50 == 0 ? 70'000 : 10, 'x')));
        }
      });
    }
    for (std::thread& thread : threads) thread.join();
  }
  Reader reader(folder(), true);
  std::map<std::string, Key> all;
  reader.for_each([&](const Entry& of) { all[of.name] = of.key; });
  ASSERT_EQ(all.size(), std::size_t{kThreads} * kEach);
  for (const auto& [name, key] : all) {
    Entry entry;
    Buffer value;
    EXPECT_TRUE(reader.find(key, entry, value));
    EXPECT_EQ(text_of(value).substr(0, name.size()), name);
  }
  reader.remove(all["0.0"]);
  Entry entry;
  Buffer value;
  EXPECT_FALSE(reader.find(all["0.0"], entry, value));
  EXPECT_EQ(files("values").size(), std::size_t{kThreads} * (kEach / 50) - 1);
}

TEST(JournalKey, DependsOnAllThatMakesTheResult) {
  const std::vector<ByteView> deps{bytes_of("in")};
  const Key key = key_of_task("f", "1", bytes_of("args"), 1, deps);
  EXPECT_EQ(key, key_of_task("f", "1", bytes_of("args"), 1, deps));
  EXPECT_NE(key, key_of_task("g", "1", bytes_of("args"), 1, deps));
  EXPECT_NE(key, key_of_task("f", "2", bytes_of("args"), 1, deps));
  EXPECT_NE(key, key_of_task("f1", "", bytes_of("args"), 1, deps));
  EXPECT_NE(key, key_of_task("f", "1", bytes_of("argsin"), 1, {}));
  EXPECT_NE(key, key_of_task("f", "1", bytes_of("args"), 2, deps));
  EXPECT_EQ(to_key(to_string(key)), key);
  EXPECT_FALSE(to_key("short"));
  EXPECT_FALSE(to_key(std::string(32, 'g')));
}

}  // namespace
}  // namespace mobula::journal
