// The object store under pressure, alone or over ranks. What is read is compared with what was written.
//   pressure ten_times        values of ten times the store's size, all kept, all read back
//   pressure queued           tasks wait in line with inputs that take all memory, and those that run need some
//   pressure full             without scratch: StoreFull says who holds the space, and room comes back
//   pressure disk_full        scratch that is full or fails: an error, and what memory has is whole
//   pressure broadcast MIB    one value, read by a task on each rank
//   pressure shm_full FILE    other users take all of /dev/shm, and give it back
//   pressure random SECONDS   puts, tasks, gets, views, Refs in Refs, drops; SEED in the environment
#include <cstdio>
#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <mobula/mobula.hpp>
#include <random>
#include <string>
#include <thread>

namespace {

using Words = std::vector<std::uint64_t>;

std::uint64_t mix(std::uint64_t x) {
  x = (x ^ (x >> 31)) * 0x9E37'79B9'7F4A'7C15ULL;
  return x ^ (x >> 29);
}

Words make(std::uint64_t seed, std::size_t n) {
  Words words(n);
  for (std::size_t i = 0; i < n; ++i) words[i] = mix(seed + i);
  return words;
}

void require(bool condition, const std::string& what) {
  if (!condition) throw std::logic_error(what);
}

template <class R>
void check(const R& words, std::uint64_t seed, std::size_t n) {
  require(words.size() == n, "a value has " + std::to_string(words.size()) + " words in place of " + std::to_string(n));
  for (std::size_t i = 0; i < n; ++i) {
    require(words[i] == mix(seed + i), "word " + std::to_string(i) + " of seed " + std::to_string(seed) + " is wrong");
  }
}

std::uint64_t sum(const Words& words) {
  std::uint64_t result = 0;
  for (const std::uint64_t word : words) result += word;
  return result;
}
std::uint64_t sum_in_place(mobula::Ref<Words> ref) {
  const auto words = mobula::view(ref);
  std::uint64_t result = 0;
  for (const std::uint64_t word : words) result += word;
  return result;
}
std::uint64_t sum_of_all(const std::vector<mobula::Ref<Words>>& refs) {
  std::uint64_t result = 0;
  for (const auto& ref : refs) result += sum_in_place(ref);
  return result;
}
std::uint64_t expected_sum(std::uint64_t seed, std::size_t n) {
  std::uint64_t result = 0;
  for (std::size_t i = 0; i < n; ++i) result += mix(seed + i);
  return result;
}

std::size_t capacity() { return mobula::store_stats(0).ranks.front().capacity; }

void wait_until_empty() {
  for (int i = 0; i < 2000; ++i) {
    if (mobula::store_stats(0).objects() == 0) return;
    std::this_thread::sleep_for(std::chrono::milliseconds(5));
  }
  std::string left;
  for (const auto& object : mobula::store_stats().largest) left += " " + object.id + "@" + std::to_string(object.rank);
  throw std::logic_error("values are left in the store:" + left);
}

void ten_times() {
  const std::size_t words = capacity() / 16 / sizeof(std::uint64_t);
  std::vector<mobula::Ref<Words>> refs;
  for (std::uint64_t i = 0; i < 160; ++i) refs.push_back(mobula::put(make(i, words)));
  const auto stats = mobula::store_stats();
  std::printf("%zu objects, %zu MiB in memory, %zu MiB in files, %llu written\n", stats.objects(),
              stats.nodes.front().used >> 20, stats.nodes.front().spilled >> 20,
              static_cast<unsigned long long>(stats.nodes.front().spills));
  require(stats.nodes.front().spilled > 8 * capacity(), "most of it is in files");
  for (std::uint64_t i = 0; i < refs.size(); ++i) check(mobula::view(refs[i]), i, words);
  for (std::uint64_t i = 0; i < refs.size(); ++i) {
    require(mobula::get(mobula::remote<sum>(refs[i])) == expected_sum(i, words), "a task saw another value");
  }
}

Words mixed(Words words) {
  for (std::uint64_t& word : words) word = mix(word);
  return words;
}

// Waits, with an input of its own, for a task that has one too.
std::uint64_t sum_of_both(const Words& mine, const mobula::Ref<Words>& other) {
  const std::vector children{mobula::remote<sum>(other)};
  mobula::wait(children);
  return sum(mine) + mobula::get(children.front());
}

// Of each rank's memory an input takes a third, and so does a result.
void queued() {
  const std::size_t words = capacity() / 10 * 3 / sizeof(std::uint64_t);
  std::vector<mobula::Ref<Words>> inputs;
  std::vector<mobula::Ref<Words>> results;
  const auto start = std::chrono::steady_clock::now();
  for (std::uint64_t i = 0; i < 12; ++i) {
    inputs.push_back(mobula::remote<make>.with({.placement = mobula::spread})(i, words));
    results.push_back(mobula::remote<mixed>.with({.placement = mobula::near(inputs.back())})(inputs.back()));
  }
  for (std::uint64_t i = 0; i < results.size(); ++i) {
    Words expected = make(i, words);
    for (std::uint64_t& word : expected) word = mix(word);
    require(mobula::get(results[i]) == expected, "a result is wrong");
  }
  inputs.resize(4);
  for (std::uint64_t i = 0; i < 2; ++i) {
    const auto both = mobula::remote<sum_of_both>(inputs[i], inputs[i + 2]);
    require(mobula::get(both) == expected_sum(i, words) + expected_sum(i + 2, words), "a sum is wrong");
  }
  std::printf("%.2f s\n", std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count());
}

void full() {
  const std::size_t words = capacity() / 8 / sizeof(std::uint64_t);
  std::vector<mobula::Ref<Words>> refs;
  std::string message;
  try {
    for (std::uint64_t i = 0; i < 9; ++i) refs.push_back(mobula::put(make(i, words)));
  } catch (const mobula::StoreFull& e) {
    message = e.what();
  }
  std::printf("%s\n", message.c_str());
  require(refs.size() >= 6 && refs.size() <= 8, "the store took " + std::to_string(refs.size()) + " values");
  require(message.find("Holders of the largest values: 0.") != std::string::npos, "the message names holders");
  for (std::uint64_t i = 0; i < refs.size(); ++i) check(mobula::view(refs[i]), i, words);
  refs.resize(refs.size() - 2);
  const auto again = mobula::put(make(99, words));
  check(mobula::get(again), 99, words);
  try {
    mobula::put(make(1, 9 * words));
    require(false, "a value larger than the segment was taken");
  } catch (const mobula::StoreFull& e) {
    std::printf("%s\n", e.what());
  }
}

void disk_full() {
  const std::size_t words = capacity() / 16 / sizeof(std::uint64_t);
  std::vector<mobula::Ref<Words>> refs;
  std::string message;
  try {
    for (std::uint64_t i = 0; i < 200; ++i) refs.push_back(mobula::put(make(i, words)));
  } catch (const mobula::StoreFull& e) {
    message = e.what();
  }
  std::printf("%zu values; %s\n", refs.size(), message.c_str());
  require(message.find("can't be written to files: mobula: the scratch folder") != std::string::npos,
          "the message says what failed");
  for (std::uint64_t i = 0; i < refs.size(); ++i) {
    check(mobula::view(refs[i]), i, words);
    refs[i] = {};  // makes room for those that come back
  }
}

void shm_full(const std::string& file) {
  const std::size_t words = capacity() / 8 / sizeof(std::uint64_t);
  std::vector<mobula::Ref<Words>> refs{mobula::put(make(0, words))};
  {
    std::ofstream other(file, std::ios::binary);
    const std::vector<char> mib(1 << 20, 1);
    while (other.write(mib.data(), static_cast<std::streamsize>(mib.size()))) {
    }
  }
  std::string message;
  try {
    for (std::uint64_t i = 1; i < 8; ++i) refs.push_back(mobula::put(make(i, words)));
  } catch (const mobula::StoreFull& e) {
    message = e.what();
  }
  std::printf("%zu values; %s\n", refs.size(), message.c_str());
  require(message.find("the machine has no memory left") != std::string::npos, "the message says what is short");
  std::filesystem::remove(file);
  for (std::uint64_t i = refs.size(); i < 6; ++i) refs.push_back(mobula::put(make(i, words)));
  for (std::uint64_t i = 0; i < refs.size(); ++i) {
    check(mobula::view(refs[i]), i, words);
    require(mobula::get(mobula::remote<sum>(refs[i])) == expected_sum(i, words), "a task saw another value");
  }
}

void broadcast(std::size_t mib) {
  const std::size_t words = (mib << 20) / sizeof(std::uint64_t);
  const auto value = mobula::put(make(1, words));
  const std::uint64_t expected = expected_sum(1, words);
  for (int round = 0; round < 2; ++round) {
    const auto start = std::chrono::steady_clock::now();
    std::vector<mobula::Ref<std::uint64_t>> sums;
    for (const auto& rank : mobula::cluster().ranks) {
      if (rank.slots == 0) continue;
      for (int i = 0; i < 2; ++i) {
        sums.push_back(mobula::remote<sum_in_place>.with({.placement = mobula::on_rank(rank.rank)})(value));
      }
    }
    for (const std::uint64_t s : mobula::get(sums)) require(s == expected, "a task saw another value");
    const std::chrono::duration<double> took = std::chrono::steady_clock::now() - start;
    std::printf("%zu MiB to %zu tasks: %.3f s\n", mib, sums.size(), took.count());
  }
  const auto stats = mobula::store_stats(1);
  std::size_t nodes = stats.nodes.size();
  std::printf("%zu copies on %zu nodes\n", stats.objects(), nodes);
  // Ranks that ask at the same moment may, seldom, fetch it for their node twice.
  require(stats.objects() >= nodes && stats.objects() <= nodes + 1, "each node has the value once");
}

void random_use(double seconds) {
  const char* given = std::getenv("SEED");
  const std::uint64_t seed = given != nullptr ? std::strtoull(given, nullptr, 10) : std::random_device()();
  std::printf("SEED=%llu\n", static_cast<unsigned long long>(seed));
  std::fflush(stdout);
  std::mt19937_64 random(seed);
  const std::size_t most = capacity() / 12 / sizeof(std::uint64_t);
  struct Known {
    mobula::Ref<Words> ref;
    std::uint64_t seed;
    std::size_t n;
  };
  struct Held {
    mobula::View<Words> view;
    std::uint64_t seed;
    std::size_t n;
  };
  std::vector<Known> known;
  std::vector<Held> held;
  std::vector<std::pair<mobula::Ref<std::uint64_t>, std::uint64_t>> sums;
  const auto end = std::chrono::steady_clock::now() + std::chrono::duration<double>(seconds);
  std::uint64_t steps = 0;
  const auto pick = [&]() -> Known& { return known[random() % known.size()]; };
  while (std::chrono::steady_clock::now() < end) {
    ++steps;
    const std::uint64_t value_seed = random();
    const std::size_t n = random() % 4 == 0 ? random() % most : random() % 2000;
    const auto what = known.empty() ? random() % 2 : random() % 10;
    if (what == 0) known.push_back({mobula::put(make(value_seed, n)), value_seed, n});
    if (what == 1) known.push_back({mobula::remote<make>(value_seed, n), value_seed, n});
    if (what == 2) {
      const Known& k = pick();
      check(mobula::get(k.ref), k.seed, k.n);
    }
    if (what == 3) {
      const Known& k = pick();
      held.push_back({mobula::view(k.ref), k.seed, k.n});
      if (held.size() > 2) {
        const std::size_t at = random() % held.size();
        check(held[at].view, held[at].seed, held[at].n);
        held.erase(held.begin() + static_cast<std::ptrdiff_t>(at));
      }
    }
    if (what == 4) {
      const Known& k = pick();
      sums.emplace_back(random() % 2 == 0 ? mobula::remote<sum>(k.ref) : mobula::remote<sum_in_place>(k.ref),
                        expected_sum(k.seed, k.n));
    }
    if (what == 5) {
      std::vector<mobula::Ref<Words>> list;
      std::uint64_t total = 0;
      for (int i = 0; i < 3; ++i) {
        const Known& k = pick();
        list.push_back(k.ref);
        total += expected_sum(k.seed, k.n);
      }
      if (random() % 2 == 0) {
        sums.emplace_back(mobula::remote<sum_of_all>(list), total);
      } else {
        sums.emplace_back(mobula::remote<sum_of_all>(mobula::put(list)), total);
      }
    }
    if (what == 6) {
      const Known copy = pick();
      known.push_back(copy);
    }
    if (what == 7) {
      for (const auto& [ref, expected] : sums) require(mobula::get(ref) == expected, "a task saw another value");
      sums.clear();
    }
    if (what >= 8 || known.size() > 100) {
      known[random() % known.size()] = known.back();
      known.pop_back();
    }
  }
  for (const auto& [ref, expected] : sums) require(mobula::get(ref) == expected, "a task saw another value");
  for (const Known& k : known) check(mobula::view(k.ref), k.seed, k.n);
  for (const Held& h : held) check(h.view, h.seed, h.n);
  std::size_t spills = 0;
  for (const auto& use : mobula::store_stats(0).ranks) spills += use.spills;
  std::printf("%llu steps, %zu values written to files\n", static_cast<unsigned long long>(steps), spills);
}

}  // namespace

int main(int argc, char** argv) {
  return mobula::run(argc, argv, [&] {
    const std::string mode = argc > 1 ? argv[1] : "";
    if (mode == "ten_times") {
      ten_times();
    } else if (mode == "queued") {
      queued();
    } else if (mode == "full") {
      full();
    } else if (mode == "disk_full") {
      disk_full();
    } else if (mode == "shm_full") {
      shm_full(argc > 2 ? argv[2] : "/dev/shm/mobula-test-filler");
    } else if (mode == "broadcast") {
      broadcast(argc > 2 ? std::strtoull(argv[2], nullptr, 10) : 64);
    } else if (mode == "random") {
      random_use(argc > 2 ? std::atof(argv[2]) : 10);
    } else {
      throw std::invalid_argument("no such mode: " + mode);
    }
    wait_until_empty();
  });
}
