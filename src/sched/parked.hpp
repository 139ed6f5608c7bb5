// How a rank that has something back finds the classes that found no room, without a look at each of them.
//
// Classes of one place that ask for the same things, each for its own amounts, are a family. Its parked ones are in a
// tree by turn, in which each knows the least amounts that are asked for at and below it: what asks for more than there
// is need not be looked at. Where they differ in one thing, a search looks at no more than the tree is deep. Where they
// differ in several, the least amounts may be those of different classes: then it may look at many in vain, and so it
// has a bound, and goes on later where it was.
//
// The other way round, a class that is tried learns from a log which ranks have had something back meanwhile.
#pragma once

#include <algorithm>
#include <array>
#include <bit>
#include <compare>
#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "mobula/detail/ids.hpp"

namespace mobula::sched {

struct Class;
// When a class is tried: the highest priority first (its negative), and of equal ones the newest class.
using Turn = std::pair<std::int64_t, std::uint64_t>;

// Of what a family asks for, the first few: cpus, gpus, memory, and others in order. What it does not ask for is 0.
using Amounts = std::array<double, 4>;
inline void lower(Amounts& least, const Amounts& by) {
  for (std::size_t i = 0; i < least.size(); ++i) least[i] = std::min(least[i], by[i]);
}

// Where a class is among the parked ones of its family. What a search passes by comes first.
struct Spot {
  Amounts least{};  // of those at and below it
  Spot* left = nullptr;
  Spot* right = nullptr;
  Turn turn;
  Amounts asks{};
  std::uint64_t weight = 0;  // as if by chance; those below have less
  Class* klass = nullptr;
};

class ParkedTree {
 public:
  bool empty() const { return root_ == nullptr; }

  // REQUIRES: the spot is in no tree; its class, its turn and what it asks for are set, and stay until it is erased.
  void insert(Spot& spot) {
    spot.left = spot.right = nullptr;
    spot.weight = (spot.turn.second + 1) * 0x9E37'79B9'7F4A'7C15ULL;
    spot.weight = (spot.weight ^ (spot.weight >> 29)) * 0xBF58'476D'1CE4'E5B9ULL;
    Spot** link = &root_;
    while (*link != nullptr && (*link)->weight >= spot.weight) {
      lower((*link)->least, spot.asks);
      link = spot.turn < (*link)->turn ? &(*link)->left : &(*link)->right;
    }
    split(*link, spot.turn, spot.left, spot.right);
    *link = &spot;
    sum_up(spot);
  }

  // REQUIRES: the spot is in this tree.
  void erase(Spot& spot) { erase_below(root_, spot); }

  // A search goes from turn to turn, and is `out` when `looks` are used up. `after`: what comes first is behind that.
  struct Search {
    std::optional<Turn> after;
    int looks = 0;
    Spot* found = nullptr;
    bool out = false;
  };
  // Finds the first that `fits(klass)`, which holds for none that asks for more than `has()`.
  template <class G, class F>
  void search(Search& search, G&& has, F&& fits) const {
    const std::optional<Turn> begin = search.after;
    const bool alone = root_ != nullptr && root_->left == nullptr && root_->right == nullptr;
    search_below(root_, begin, search, alone ? root_->asks : has(), fits);
  }

 private:
  static bool within(const Amounts& asks, const Amounts& has) {
    for (std::size_t i = 0; i < asks.size(); ++i) {
      if (asks[i] > has[i]) return false;
    }
    return true;
  }
  static void sum_up(Spot& spot) {
    spot.least = spot.asks;
    for (const Spot* below : {spot.left, spot.right}) {
      if (below != nullptr) lower(spot.least, below->least);
    }
  }
  // What comes before the turn, and the rest.
  static void split(Spot* spot, const Turn& turn, Spot*& before, Spot*& rest) {
    if (spot == nullptr) {
      before = rest = nullptr;
    } else if (spot->turn < turn) {
      before = spot;
      split(spot->right, turn, spot->right, rest);
      sum_up(*spot);
    } else {
      rest = spot;
      split(spot->left, turn, before, spot->left);
      sum_up(*spot);
    }
  }
  static Spot* join(Spot* before, Spot* behind) {
    if (before == nullptr || behind == nullptr) return before != nullptr ? before : behind;
    Spot* const top = before->weight > behind->weight ? before : behind;
    if (top == before) {
      top->right = join(top->right, behind);
    } else {
      top->left = join(before, top->left);
    }
    sum_up(*top);
    return top;
  }
  static void erase_below(Spot*& top, Spot& spot) {
    if (top == &spot) {
      top = join(spot.left, spot.right);
      return;
    }
    erase_below(spot.turn < top->turn ? top->left : top->right, spot);
    sum_up(*top);
  }
  // True: the search ends.
  template <class F>
  static bool search_below(Spot* top, const std::optional<Turn>& begin, Search& search, const Amounts& has, F& fits) {
    if (top == nullptr || !within(top->least, has)) return false;
    if (!begin || *begin < top->turn) {
      if (search_below(top->left, begin, search, has, fits)) return true;
      if (search.looks == 0) {
        search.out = true;
        return true;
      }
      --search.looks;
      search.after = top->turn;
      if (within(top->asks, has) && fits(*top->klass)) {
        search.found = top;
        return true;
      }
    }
    return search_below(top->right, begin, search, has, fits);
  }

  Spot* root_ = nullptr;
};

struct Family {
  // What all its classes ask for, whatever the amounts, and what its ranks must have.
  struct Asks {
    bool ordinary = false;  // only for room beside plain tasks
    bool cpus = false;
    bool gpus = false;
    bool memory = false;
    std::vector<std::string> resources;
    std::string needs;
    bool operator==(const Asks&) const = default;
  };
  Asks asks;
  ParkedTree parked;
};
using FamilyRef = std::shared_ptr<Family>;

// The last ranks that had something back.
class News {
 public:
  void resize(std::uint32_t ranks) { last_.resize(std::bit_ceil(std::max(ranks, 1U))); }
  std::uint64_t end() const { return end_; }
  void add(detail::RankId rank) { last_[end_++ & (last_.size() - 1)] = rank; }
  // False: since then there were more than are kept.
  template <class F>
  bool for_each_since(std::uint64_t since, F&& visit) const {
    if (end_ - since > last_.size()) return false;
    for (; since != end_; ++since) visit(last_[since & (last_.size() - 1)]);
    return true;
  }

 private:
  std::vector<detail::RankId> last_;
  std::uint64_t end_ = 0;
};

}  // namespace mobula::sched
