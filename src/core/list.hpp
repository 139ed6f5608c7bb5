// A list that is linked through its elements: whatever leaves it, from either end or from the middle, does so in
// constant time. An element is in one list at most, and knows in which. The list owns nothing.
#pragma once

#include <cstddef>
#include <utility>

#include "core/error.hpp"

namespace mobula::core {

template <class T>
class List;

// What an element derives from. Copies of it are in no list.
template <class T>
struct Listed {
  Listed() = default;
  Listed(const Listed&) {}
  Listed& operator=(const Listed&) { return *this; }  // NOLINT(bugprone-unhandled-self-assignment)

  List<T>* list = nullptr;  // in which it is; nullptr: in none
  T* before = nullptr;
  T* behind = nullptr;
};

// It must not move while something is in it.
template <class T>
class List {
 public:
  List() = default;
  List(const List&) = delete;
  List& operator=(const List&) = delete;
  List(List&& other) noexcept { *this = std::move(other); }
  List& operator=(List&& other) noexcept {
    MOBULA_CHECK(empty() && other.empty(), "a list moves only while it is empty");
    return *this;
  }

  bool empty() const { return front_ == nullptr; }
  std::size_t size() const { return size_; }
  T* front() const { return front_; }
  T* back() const { return back_; }

  // REQUIRES for all: the element is in no list.
  void push_front(T& element) { insert(element, nullptr, front_); }
  void push_back(T& element) { insert(element, back_, nullptr); }
  void insert_behind(T& element, T& other) { insert(element, &other, other.behind); }  // other: in this list

  // REQUIRES: the element is in this list.
  void erase(T& element) {
    MOBULA_CHECK(element.list == this, "an element leaves the list in which it is");
    (element.before != nullptr ? element.before->behind : front_) = element.behind;
    (element.behind != nullptr ? element.behind->before : back_) = element.before;
    element.list = nullptr;
    element.before = element.behind = nullptr;
    --size_;
  }

  // Elements may be erased behind the one that is looked at, not itself.
  class Iterator {
   public:
    explicit Iterator(T* at) : at_(at) {}
    T& operator*() const { return *at_; }
    Iterator& operator++() {
      at_ = at_->behind;
      return *this;
    }
    bool operator==(const Iterator&) const = default;

   private:
    T* at_;
  };
  Iterator begin() const { return Iterator(front_); }
  Iterator end() const { return Iterator(nullptr); }

 private:
  void insert(T& element, T* before, T* behind) {
    MOBULA_CHECK(element.list == nullptr, "an element is in one list at most");
    element.list = this;
    element.before = before;
    element.behind = behind;
    (before != nullptr ? before->behind : front_) = &element;
    (behind != nullptr ? behind->before : back_) = &element;
    ++size_;
  }

  T* front_ = nullptr;
  T* back_ = nullptr;
  std::size_t size_ = 0;
};

}  // namespace mobula::core
