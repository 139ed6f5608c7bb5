// The pieces that wait for one object. Most objects have few; where there are many, each is still found in constant
// time.
#pragma once

#include <algorithm>
#include <memory>
#include <unordered_map>
#include <vector>

#include "core/small.hpp"

namespace mobula::head {

template <class T>
class Dependents {
 public:
  bool empty() const { return pieces_.empty(); }
  std::size_t size() const { return pieces_.size(); }
  auto begin() const { return pieces_.begin(); }
  auto end() const { return pieces_.end(); }

  bool contains(T* piece) const { return position(piece) != pieces_.size(); }
  // REQUIRES: it does not contain the piece.
  void push_back(T* piece) {
    pieces_.push_back(piece);
    if (index_ != nullptr) {
      index_->emplace(piece, pieces_.size() - 1);
    } else if (pieces_.size() > kFew) {
      index_ = std::make_unique<std::unordered_map<T*, std::size_t>>();
      for (std::size_t i = 0; i < pieces_.size(); ++i) index_->emplace(pieces_[i], i);
    }
  }
  // The last one takes its place. Nothing happens where it is not there.
  void erase(T* piece) {
    const std::size_t place = position(piece);
    if (place == pieces_.size()) return;
    pieces_[place] = pieces_.back();
    if (index_ != nullptr) {
      (*index_)[pieces_[place]] = place;
      index_->erase(piece);
    }
    pieces_.pop_back();
  }

 private:
  static constexpr std::size_t kFew = 16;

  std::size_t position(T* piece) const {
    if (index_ == nullptr) return static_cast<std::size_t>(std::find(begin(), end(), piece) - begin());
    const auto found = index_->find(piece);
    return found != index_->end() ? found->second : pieces_.size();
  }

  core::Small<T*, 4> pieces_;
  std::unique_ptr<std::unordered_map<T*, std::size_t>> index_;  // where each stands
};

}  // namespace mobula::head
