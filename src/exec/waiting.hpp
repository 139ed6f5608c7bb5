// Threads that wait, and the lists in which they are found by what they wait for. Whoever brings about what a thread
// waits for signals that thread, and no other. Nothing here is thread-safe: all is used under the rank's lock.
#pragma once

#include <cstddef>
#include <cstdint>
#include <string>

#include "store/objects.hpp"
#include "transport/doorbell.hpp"
#include "transport/wire.hpp"

namespace mobula::exec {

class Waiter;

// A waiter's place in a list of those who wait for the same. It leaves the list when it goes, also where an exception
// unwinds the wait.
class Place {
 public:
  explicit Place(Waiter& waiter) : waiter_(waiter) {}
  Place(const Place&) = delete;
  Place& operator=(const Place&) = delete;
  ~Place() { leave(); }

  void leave();
  bool is_listed() const { return list_ != nullptr; }
  Waiter& waiter() const { return waiter_; }

 private:
  friend class WaitList;
  Waiter& waiter_;
  class WaitList* list_ = nullptr;
  Place* before_ = nullptr;
  Place* after_ = nullptr;
};

// All operations but signal_all take the same time, however many wait.
class WaitList {
 public:
  WaitList() = default;
  WaitList(const WaitList&) = delete;
  WaitList& operator=(const WaitList&) = delete;

  bool empty() const { return first_ == nullptr; }
  std::size_t size() const { return size_; }
  Place& front() { return *first_; }
  Place& back() { return *last_; }
  // REQUIRES: the place is in no list.
  void push_back(Place& place) {
    place.list_ = this;
    place.before_ = last_;
    place.after_ = nullptr;
    (last_ != nullptr ? last_->after_ : first_) = &place;
    last_ = &place;
    ++size_;
  }
  // They stay in the list: each leaves it when its thread goes on.
  void signal_all();

 private:
  friend class Place;
  Place* first_ = nullptr;
  Place* last_ = nullptr;
  std::size_t size_ = 0;
};

inline void Place::leave() {
  if (list_ == nullptr) return;
  (before_ != nullptr ? before_->after_ : list_->first_) = after_;
  (after_ != nullptr ? after_->before_ : list_->last_) = before_;
  --list_->size_;
  list_ = nullptr;
}

// One thread that waits, on its own stack. It sleeps on a bell of its own, or, one thread of the rank at a time, on the
// rank's, which other ranks ring.
class Waiter : public store::Watcher {
 public:
  // `rests_in`: where it is found while it sleeps.
  explicit Waiter(WaitList* rests_in = nullptr) : sleeps_(*this), rests_(*this), stays_(*this), rests_in_(rests_in) {}

  // What it waits for may have come about: it looks.
  void signal() {
    if (signalled_) return;
    signalled_ = true;
    sleeps_.leave();
    rests_.leave();
    if (wire_ != nullptr) {
      wire_->interrupt();
    } else {
      bell_.ring();
    }
  }
  void ready(std::size_t) override { signal(); }
  // Called before it sleeps for the first time: until then it looks by itself, and what must be known to be signalled
  // need not be made known for it.
  virtual void listen() {}
  // It is not to wait any longer: its wait throws an Error with this text.
  void refuse(std::string why) {
    refused_ = std::move(why);
    signal();
  }

 private:
  friend class Engine;
  bool signalled_ = false;
  bool listens_ = false;
  transport::Wire* wire_ = nullptr;  // on whose bell it sleeps
  transport::Doorbell bell_;
  Place sleeps_;  // among those that sleep on bells of their own
  Place rests_;   // see above
  Place stays_;   // among all that wait
  WaitList* rests_in_;
  std::string refused_;
};

inline void WaitList::signal_all() {
  for (Place* place = first_; place != nullptr;) {
    Place* const next = place->after_;
    place->waiter().signal();
    place = next;
  }
}

// A question that is asked again and again while a thread waits. It refers to a function that outlives it.
class Condition {
 public:
  template <class F>
  Condition(const F& function)  // NOLINT: any function is meant to be one
      : function_(&function), call_([](const void* f) -> bool { return (*static_cast<const F*>(f))(); }) {}
  bool operator()() const { return call_(function_); }

 private:
  const void* function_;
  bool (*call_)(const void*);
};

}  // namespace mobula::exec
