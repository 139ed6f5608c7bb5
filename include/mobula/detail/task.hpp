// What the templates of the public API and the runtime agree on about running a task. Thin and type-erased: the
// runtime knows a function by its FunctionInfo, and a stretch of tasks of one function by a TaskRun.
#pragma once

#include <atomic>
#include <cstdint>
#include <cstring>
#include <functional>
#include <memory>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "mobula/detail/codec.hpp"

namespace mobula::detail {

struct TaskRun;

// Room for an encoded value of n bytes: in the rank's segment of the object store, if it is too large to travel inline.
// Waits while room is being made. Throws StoreFull.
Buffer room_for(std::size_t n);

// One per function named in `remote<F>` and `gang<F>`, and per constructor and class named in `actor<C>`, registered
// before main. All ranks of one binary hold the same table.
struct FunctionInfo {
  using Invoke = void (*)(TaskRun&);
  enum class Kind : std::uint8_t { task, constructor, method, destructor, member };
  using Save = void (*)(Encoder&, void* object);
  // `klass`: of constructors and methods, the class's destructor, which stands for the class. `save`: of a class whose
  // state can be saved.
  FunctionInfo(std::string_view signature, Invoke invoke, std::uint32_t args, std::uint32_t result,
               Kind kind = Kind::task, const FunctionInfo* klass = nullptr, Save save = nullptr);

  std::string name;            // short, for people
  std::string_view signature;  // full, for the digest
  Invoke invoke;
  std::uint32_t fixed_args;    // bytes of one task's encoded arguments, or kVariable
  std::uint32_t fixed_result;  // bytes of one encoded result, or kVariable
  Kind kind = Kind::task;
  const FunctionInfo* klass = nullptr;
  Save save = nullptr;
  std::uint32_t index = 0;  // in the table
  // It runs what it is about in a process of its own, and looks at TaskRun::stop meanwhile.
  bool isolates_itself = false;
};

// A stretch of tasks of one span, run one after the other by one thread. Results are appended in order; those that
// can't go inline (an error, a large value, a value that holds refs) are noted beside them.
struct TaskRun {
  struct Oddity {
    std::uint32_t index;
    std::exception_ptr error;  // or
    Buffer stored;             // a value over the inline limit
    std::vector<Handle> refs;  // objects that the value holds
    bool is_stored = false;
  };

  // Position in the span of the task that runs or comes next. The runtime looks at it while the task runs.
  std::atomic<std::uint32_t> next{0};
  std::uint32_t end = 0;
  std::uint32_t fixed_result = 0;
  std::size_t inline_limit = 0;
  Decoder args;
  std::uint64_t dep_mask = 0;       // bit i: argument i is a dependency
  std::span<const ByteView> deps;   // their values, in order of the arguments
  Encoder out;                      // the results
  std::size_t from = 0;             // where that of the task `next` begins
  std::vector<std::uint32_t> ends;  // where each result ends, if fixed_result is kVariable
  std::vector<Oddity> oddities;     // ascending by index
  std::shared_ptr<void> actor;      // what a constructor has made, or a method is called on
  ByteView checkpoint;              // of a constructor: the state that the object is to have
  std::atomic<bool> stop{false};    // set by the runtime: end after the task that runs
  bool lasts = true;                // the result may be kept for other jobs

  // To be called before each task, and to move on after it.
  void begin() { from = out.buffer.size(); }
  void advance() { next.store(next.load(std::memory_order_relaxed) + 1, std::memory_order_relaxed); }
  // Closes the result of the task `next`, which has been encoded.
  void finish() {
    if (fixed_result == kVariable || !out.refs.empty()) finish_variable();
  }
  void finish_variable();
  // The result of the task `next` is a value over the inline limit.
  void finish_large(Encoder&& value);
  // The result of the task `next` was encoded elsewhere.
  void give(ByteView value);
  // The task `next` threw the exception in flight; what it had encoded is dropped.
  void fail() noexcept;
};

// A parameter that looks at its argument in place, for as long as the task runs: what the argument travels as.
template <class P>
struct InPlace {
  using Travels = P;
};
template <class E>
struct InPlace<std::span<const E>> {
  using Travels = std::vector<E>;
};
template <>
struct InPlace<std::string_view> {
  using Travels = std::string;
};

template <class P>
struct Held {
  P value;
  explicit Held(Decoder& in) : value(decode<P>(in)) {}
};
template <class P>
requires(!std::is_same_v<typename InPlace<P>::Travels, P>) struct Held<P> {
  using Element = typename InPlace<P>::Travels::value_type;
  static_assert(is_bitwise<Element>, "mobula: a span parameter needs trivially copyable elements");
  std::vector<Element> copy;  // where the bytes don't lie as the elements must
  P value;
  explicit Held(Decoder& in) {
    const auto n = in.get<std::uint64_t>();
    if (n > in.remaining() / sizeof(Element)) throw_damaged("a length is larger than the rest");
    const std::byte* at = in.take(static_cast<std::size_t>(n) * sizeof(Element));
    const auto* elements = reinterpret_cast<const Element*>(at);
    if (reinterpret_cast<std::uintptr_t>(at) % alignof(Element) != 0) {
      copy.resize(static_cast<std::size_t>(n));
      std::memcpy(copy.data(), at, static_cast<std::size_t>(n) * sizeof(Element));
      elements = copy.data();
    }
    value = P(elements, static_cast<std::size_t>(n));
  }
};

// Argument i of the next task.
template <class P>
Held<P> take_held(TaskRun& run, std::size_t i, std::size_t& dep) {
  if ((run.dep_mask >> i & 1) == 0) return Held<P>(run.args);
  Decoder in(run.deps[dep++]);
  Held<P> held(in);
  in.finish();
  return held;
}

template <class F>
struct Signature;
template <class R, class... P>
struct Signature<R (*)(P...)> {
  using Result = R;
  using Values = std::tuple<typename InPlace<std::decay_t<P>>::Travels...>;  // as the arguments travel
  using Arguments = std::tuple<Held<std::decay_t<P>>...>;
  using Parameters = std::tuple<P...>;
  using Pointer = R (*)(P...);
  static constexpr std::size_t arity = sizeof...(P);
};
template <class R, class... P>
struct Signature<R (*)(P...) noexcept> : Signature<R (*)(P...)> {};
template <class L, class R, class... P>
struct Signature<R (L::*)(P...)> : Signature<R (*)(P...)> {};
template <class L, class R, class... P>
struct Signature<R (L::*)(P...) const> : Signature<R (*)(P...)> {};
template <class L, class R, class... P>
struct Signature<R (L::*)(P...)&> : Signature<R (*)(P...)> {};
template <class L, class R, class... P>
struct Signature<R (L::*)(P...) const&> : Signature<R (*)(P...)> {};
template <class L, class R, class... P>
struct Signature<R (L::*)(P...) noexcept> : Signature<R (*)(P...)> {};
template <class L, class R, class... P>
struct Signature<R (L::*)(P...) const noexcept> : Signature<R (*)(P...)> {};
template <class F>
requires requires { &F::operator(); }
struct Signature<F> : Signature<decltype(&F::operator())> {};

// Runs tasks whose arguments are those of SigOf, by Target::apply(run, arguments…).
template <class Target, class SigOf>
struct Runnable {
  using Sig = SigOf;
  using Result = typename Sig::Result;
  using StoredResult = std::decay_t<Result>;
  using Values = typename Sig::Values;
  static_assert(Sig::arity <= 64, "mobula: a remote function has at most 64 parameters");

  static void invoke(TaskRun& run) {
    for (; run.next.load(std::memory_order_relaxed) != run.end; run.advance()) {
      if (run.stop.load(std::memory_order_relaxed)) return;
      run.begin();
      try {
        call(run, std::make_index_sequence<Sig::arity>{});
      } catch (...) {
        run.fail();
      }
    }
  }

  template <std::size_t... I>
  static void call(TaskRun& run, std::index_sequence<I...>) {
    [[maybe_unused]] std::size_t dep = 0;
    // Braces, so that the arguments are decoded from left to right.
    [[maybe_unused]] typename Sig::Arguments values{
        take_held<std::decay_t<std::tuple_element_t<I, typename Sig::Parameters>>>(run, I, dep)...};
    if constexpr (std::is_void_v<Result>) {
      Target::apply(run, pass<I>(values)...);
      run.finish();
    } else {
      keep<StoredResult>(run, Target::apply(run, pass<I>(values)...));
    }
  }

  // Encodes the result: a large one straight to where it stays, if its size is known.
  template <class T>
  static void keep(TaskRun& run, const T& result) {
    if constexpr (fixed_size<T> == kVariable) {
      if (const std::size_t size = encoded_size(result); size > run.inline_limit) {
        Encoder large;
        large.buffer = room_for(size);
        encode<T>(large, result);
        run.finish_large(std::move(large));
        return;
      }
    }
    encode<T>(run.out, result);
    run.finish();
  }

  // A parameter by value or rvalue reference may take the value over; one by lvalue reference sees it.
  template <std::size_t I>
  static decltype(auto) pass(typename Sig::Arguments& values) {
    using P = std::tuple_element_t<I, typename Sig::Parameters>;
    if constexpr (std::is_lvalue_reference_v<P>) {
      return (std::get<I>(values).value);
    } else {
      return std::move(std::get<I>(values).value);
    }
  }

  static constexpr std::uint32_t args_size() {
    return []<class... V>(std::type_identity<std::tuple<V...>>) {
      return ((fixed_size<V> == kVariable) || ... || false) ? kVariable : (fixed_size<V> + ... + 0U);
    }(std::type_identity<Values>{});
  }
};

// In the signatures below F comes last: what the function or class is called is read from there.

template <auto F>
struct Function : Runnable<Function<F>, Signature<std::decay_t<decltype(F)>>> {
  template <class... A>
  static decltype(auto) apply(TaskRun&, A&&... arguments) {
    return F(std::forward<A>(arguments)...);
  }
  static constexpr std::string_view signature() { return __PRETTY_FUNCTION__; }
  static inline const FunctionInfo info{signature(), &Function::invoke, Function::args_size(),
                                        fixed_size<typename Function::StoredResult>};
};

// Folds values of type T by F, along the aligned binary tree over their positions: neighbours first. Its argument is
// how many there are, how many bytes those take that are no dependencies, and these, back to back; the first 64 may be
// dependencies.
template <class T, auto F>
struct Fold : Runnable<Fold<T, F>, Signature<T (*)()>> {
  struct Node {
    T value;
  };

  // Out of line, so that F is compiled once: the bits of a result must not depend on where it was called.
  [[gnu::noinline]] static void combine(T& left, T&& right) {
    left = static_cast<T>(F(std::move(left), std::move(right)));
  }

  static T apply(TaskRun& run) {
    const auto count = run.args.get<std::uint32_t>();
    const auto bytes = run.args.get<std::uint32_t>();
    Decoder args(ByteView(run.args.take(bytes), bytes));  // the next task's begin there, even if F throws
    std::size_t dep = 0;
    const auto next = [&](std::uint32_t i) {
      if (i >= 64 || (run.dep_mask >> i & 1) == 0) return decode<T>(args);
      Decoder in(run.deps[dep++]);
      T value = decode<T>(in);
      in.finish();
      return value;
    };
    // Results of ranges whose lengths are falling powers of two: those of the bits that are set in the number of values
    // that they are of.
    std::vector<Node> ranges;
    const auto merge = [&ranges] {
      T right = std::move(ranges.back().value);
      ranges.pop_back();
      combine(ranges.back().value, std::move(right));
    };
    for (std::uint32_t i = 0; i != count; ++i) {
      ranges.push_back({next(i)});
      for (std::uint32_t bits = i; (bits & 1) != 0; bits >>= 1) merge();
    }
    if (ranges.empty()) throw_damaged("it folds no values");
    while (ranges.size() > 1) merge();
    args.finish();
    return std::move(ranges.front().value);
  }
  static constexpr std::string_view signature() { return __PRETTY_FUNCTION__; }
  static inline const FunctionInfo info{signature(), &Fold::invoke, kVariable, fixed_size<T>};
};

// The end of an actor of class F.
template <class F>
struct ActorClass {
  static void end(TaskRun& run) { run.actor.reset(); }
  static constexpr FunctionInfo::Save saver() {
    if constexpr (has_serialize<F>)
      return [](Encoder& out, void* object) { save_state(out, *static_cast<F*>(object)); };
    return nullptr;
  }
  static constexpr std::string_view signature() { return __PRETTY_FUNCTION__; }
  static inline const FunctionInfo info{signature(), &end, 0, 0, FunctionInfo::Kind::destructor, nullptr, saver()};
};

template <class S>
struct WithoutFirst;
template <class R, class First, class... P>
struct WithoutFirst<R (*)(First, P...)> : Signature<R (*)(P...)> {};

// A call of F on an actor of class C: of a member function, or of a function whose first parameter is the actor.
template <class C, auto F, bool kMember = std::is_member_function_pointer_v<decltype(F)>>
struct MethodSignature : Signature<std::decay_t<decltype(F)>> {};
template <class C, auto F>
struct MethodSignature<C, F, false> : WithoutFirst<typename Signature<std::decay_t<decltype(F)>>::Pointer> {};

template <class C, auto F>
struct Method : Runnable<Method<C, F>, MethodSignature<C, F>> {
  template <class... A>
  static decltype(auto) apply(TaskRun& run, A&&... arguments) {
    return std::invoke(F, *static_cast<C*>(run.actor.get()), std::forward<A>(arguments)...);
  }
  static constexpr std::string_view signature() { return __PRETTY_FUNCTION__; }
  static inline const FunctionInfo info{signature(),
                                        &Method::invoke,
                                        Method::args_size(),
                                        fixed_size<typename Method::StoredResult>,
                                        FunctionInfo::Kind::method,
                                        &ActorClass<C>::info};
};

// The making of an actor of class F from values of the types in the tuple P.
template <class P, class F>
struct Constructor;
template <class F, class... P>
struct Constructor<std::tuple<P...>, F> : Runnable<Constructor<std::tuple<P...>, F>, Signature<void (*)(P...)>> {
  template <class... A>
  static void apply(TaskRun& run, A&&... arguments) {
    std::shared_ptr<F> made;
    if constexpr (std::is_constructible_v<F, A...>) {
      made = std::make_shared<F>(std::forward<A>(arguments)...);
    } else {
      made = std::shared_ptr<F>(new F{std::forward<A>(arguments)...});
    }
    if constexpr (has_serialize<F>) {
      if (!run.checkpoint.empty()) {
        Decoder in(run.checkpoint);
        restore_state(in, *made);
      }
    }
    run.actor = std::move(made);
  }
  static constexpr std::string_view signature() { return __PRETTY_FUNCTION__; }
  static inline const FunctionInfo info{
      signature(),         &Constructor::invoke, Constructor::args_size(), 0, FunctionInfo::Kind::constructor,
      &ActorClass<F>::info};
};

}  // namespace mobula::detail
