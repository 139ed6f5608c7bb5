// Virtual threads: coroutines that wait for time to pass, or for a wish to be met.
//
// GCC 12 destroys temporaries of a co_await twice, if they have anything to destroy. So what is awaited here has not,
// and nothing else may be made inside such an expression.
#pragma once

#include <coroutine>
#include <type_traits>
#include <utility>

namespace mobula::sim {

// A virtual thread, or a part of one: begun by `start` or by who awaits it. It goes when it has ended, or all are
// dropped.
class Body {
 public:
  struct promise_type;
  using Place = std::coroutine_handle<promise_type>;
  struct Final {
    bool await_ready() const noexcept { return false; }
    std::coroutine_handle<> await_suspend(Place ended) const noexcept;
    void await_resume() const noexcept {}
  };
  struct promise_type {
    promise_type();
    ~promise_type();
    Body get_return_object() { return Body(Place::from_promise(*this)); }
    std::suspend_always initial_suspend() noexcept { return {}; }
    Final final_suspend() noexcept { return {}; }
    void return_void() {}
    void unhandled_exception() { throw; }  // to whoever runs the cluster
    std::coroutine_handle<> waiter;
    promise_type* before = nullptr;
    promise_type* after = nullptr;
  };

  explicit Body(Place place) : place_(place) {}
  void start() const { place_.resume(); }
  bool await_ready() const { return false; }
  std::coroutine_handle<> await_suspend(std::coroutine_handle<> waiter) const {
    place_.promise().waiter = waiter;
    return place_;
  }
  void await_resume() const {}

  // Those that have not ended, the youngest first.
  static void drop_all();

 private:
  static inline promise_type* youngest_ = nullptr;
  Place place_;
};

inline Body::promise_type::promise_type() : before(youngest_) {
  if (before != nullptr) before->after = this;
  youngest_ = this;
}

inline Body::promise_type::~promise_type() {
  if (before != nullptr) before->after = after;
  (after != nullptr ? after->before : youngest_) = before;
}

inline std::coroutine_handle<> Body::Final::await_suspend(Place ended) const noexcept {
  const std::coroutine_handle<> waiter = ended.promise().waiter;
  ended.destroy();
  return waiter ? waiter : std::noop_coroutine();
}

inline void Body::drop_all() {
  while (youngest_ != nullptr) Place::from_promise(*youngest_).destroy();
}

// What a virtual thread waits for. Looked at after each step of its rank.
class Wish {
 public:
  virtual bool met() = 0;

 protected:
  ~Wish() = default;
};

}  // namespace mobula::sim
