// remote<F>(args…): std::invoke(F, args…), elsewhere.
#pragma once

#include <iterator>
#include <memory>
#include <ranges>
#include <tuple>
#include <type_traits>
#include <utility>
#include <vector>

#include "mobula/ref.hpp"

namespace mobula {

template <class C>
class Actor;

// One value for all items of a map. Encoded once; sent once to each rank that runs items.
template <class T>
struct Same {
  T value;
};
template <class T>
Same<std::decay_t<T>> same(T&& value) {
  return {std::forward<T>(value)};
}

namespace detail {

template <class T>
inline constexpr bool is_same_item = false;
template <class T>
inline constexpr bool is_same_item<Same<T>> = true;

template <class A>
struct RefTarget {
  using type = void;
};
template <class T>
struct RefTarget<Ref<T>> {
  using type = T;
};

// A Ref<T> stands for a parameter of type T, unless the parameter is itself a Ref.
template <class A, class P>
inline constexpr bool is_dependency = is_ref<std::remove_cvref_t<A>> && !is_ref<P> &&
                                      std::is_convertible_v<typename RefTarget<std::remove_cvref_t<A>>::type, P>;

template <class A, class P>
inline constexpr bool is_argument = is_dependency<A, P> || std::is_convertible_v<A, P>;

template <auto F>
struct RemoteCall;

template <class From, class To>
To converted(const From& value) {
  return static_cast<To>(value);
}

template <class P, class A>
void add_argument(Draft::State& draft, std::size_t i, A&& argument) {
  using Value = std::remove_cvref_t<A>;
  if constexpr (is_dependency<A, P>) {
    using T = typename RefTarget<Value>::type;
    if constexpr (std::is_same_v<T, P>) {
      add_dep(draft, i, argument.handle());
    } else {  // its bytes are another type's: a task of its own makes them those of P
      add_dep(draft, i, RemoteCall<&converted<T, P>>::submit(nullptr, argument).handle());
    }
  } else if constexpr (std::is_same_v<Value, P>) {
    add_value(draft, i, argument);
  } else {
    add_value<P>(draft, i, static_cast<P>(std::forward<A>(argument)));
  }
}

// What all calls have in common: Fn is a Runnable.
template <class Fn>
struct Arguments {
  using Sig = typename Fn::Sig;
  using Result = typename Fn::StoredResult;
  template <std::size_t I>
  using Parameter = std::tuple_element_t<I, typename Sig::Values>;

  static_assert(
      []<class... P>(std::type_identity<std::tuple<P...>>) {
        return !((std::is_lvalue_reference_v<P> && !std::is_const_v<std::remove_reference_t<P>>) || ... || false);
      }(std::type_identity<typename Sig::Parameters>{}),
      "mobula: a remote function can't take a T& parameter: it runs elsewhere; take T or const T&, and "
      "return what it changes");
  static_assert(!std::is_pointer_v<Result>, "mobula: a remote function can't return a pointer: return the value");

  template <class... A>
  static constexpr bool check() {
    static_assert(sizeof...(A) == Sig::arity, "mobula: wrong number of arguments for this remote function");
    if constexpr (sizeof...(A) == Sig::arity) {
      []<std::size_t... I>(std::index_sequence<I...>) {
        static_assert((is_argument<A, Parameter<I>> && ...),
                      "mobula: an argument's type does not convert to the remote function's parameter");
      }
      (std::index_sequence_for<A...>{});
    }
    return true;
  }

  // Encodes the arguments and calls submit(draft).
  template <class Submit, class... A>
  static auto encode(Submit&& submit, A&&... args) {
    check<A...>();
    Draft draft;
    if constexpr (sizeof...(A) == Sig::arity) {
      [&]<std::size_t... I>(std::index_sequence<I...>) {
        (add_argument<Parameter<I>>(*draft, I, std::forward<A>(args)), ...);
      }
      (std::index_sequence_for<A...>{});
    }
    return submit(*draft);
  }
  template <class Submit, class... A>
  static Ref<Result> pass(Submit&& submit, A&&... args) {
    return Ref<Result>(encode(submit, std::forward<A>(args)...));
  }
};

template <auto F>
struct RemoteCall : Arguments<Function<F>> {
  using Fn = Function<F>;
  using Base = Arguments<Fn>;
  using Sig = typename Fn::Sig;
  using Result = typename Fn::StoredResult;
  template <std::size_t I>
  using Parameter = typename Base::template Parameter<I>;

  template <class... A>
  static Ref<Result> submit(const TaskOptions* options, A&&... args) {
    return Base::pass([&](Draft::State& draft) { return detail::submit(Fn::info, options, draft); },
                      std::forward<A>(args)...);
  }

  template <class R>
  struct Item {
    // Not std::ranges: Clang before 16 takes the standard library's views for no ranges.
    using type = decltype(*std::begin(std::declval<R&>()));
  };
  template <class T>
  struct Item<Same<T>> {
    using type = T;
  };

  template <class... R>
  static Batch<Result> map(const TaskOptions* options, R&&... ranges) {
    static_assert((!is_same_item<std::remove_cvref_t<R>> || ... || false),
                  "mobula: map needs at least one range; same(x) alone has no length");
    Base::template check<typename Item<std::remove_reference_t<R>>::type...>();
    if constexpr (sizeof...(R) == Sig::arity) {
      return map_indexed(std::index_sequence_for<R...>{}, options, ranges...);
    } else {
      return {};
    }
  }

  template <std::size_t... I, class... R>
  static Batch<Result> map_indexed(std::index_sequence<I...>, const TaskOptions* options, R&... ranges) {
    BatchWriter writer(Fn::info, options);
    (share<I>(writer, ranges), ...);
    std::tuple its{begin_of(ranges)...};
    while (!(at_end(std::get<I>(its), ranges) || ...)) {
      (add_item<I>(writer.item(), std::get<I>(its)), ...);
      writer.next();
      (advance(std::get<I>(its)), ...);
    }
    return Batch<Result>(writer.finish());
  }

  struct NoIterator {};
  template <class R>
  static auto begin_of(R& range) {
    if constexpr (is_same_item<R>) {
      return NoIterator{};
    } else {
      return std::begin(range);
    }
  }
  template <class It, class R>
  static bool at_end(const It& it, R& range) {
    if constexpr (is_same_item<R>) {
      return false;
    } else {
      return it == std::end(range);
    }
  }
  template <class It>
  static void advance(It& it) {
    if constexpr (!std::is_same_v<It, NoIterator>) ++it;
  }
  template <std::size_t I, class R>
  static void share(BatchWriter& writer, R& range) {
    if constexpr (is_same_item<R>) {
      using T = decltype(range.value);
      if constexpr (is_dependency<T, Parameter<I>>) {
        Draft draft;
        add_argument<Parameter<I>>(*draft, I, range.value);
        writer.share(I, draft->deps.front());
      } else {
        writer.share(I, mobula::put(static_cast<Parameter<I>>(range.value)).handle());
      }
    }
  }
  template <std::size_t I, class It>
  static void add_item(Draft::State& draft, It& it) {
    if constexpr (!std::is_same_v<It, NoIterator>) add_argument<Parameter<I>>(draft, I, *it);
  }
};

}  // namespace detail

namespace detail {

template <class T>
struct ActorOf {
  using type = void;
};
template <class C>
struct ActorOf<Actor<C>> {
  using type = C;
};

template <auto F>
inline constexpr bool is_member = std::is_member_function_pointer_v<decltype(F)>;

// Whether F is a function whose first parameter is C& or const C&.
template <class C, class Parameters>
inline constexpr bool takes_actor = false;
template <class C, class First, class... P>
inline constexpr bool takes_actor<C, std::tuple<First, P...>> =
    std::is_lvalue_reference_v<First>&& std::is_base_of_v<std::remove_cvref_t<First>, C>;

template <auto F, class... A>
struct IsCall : std::bool_constant<is_member<F>> {};
template <auto F, class First, class... A>
requires(!is_member<F> &&
         !std::is_void_v<typename ActorOf<std::remove_cvref_t<First>>::type>) struct IsCall<F, First, A...>
    : std::bool_constant<takes_actor<typename ActorOf<std::remove_cvref_t<First>>::type,
                                     typename Signature<std::decay_t<decltype(F)>>::Parameters>> {
};

template <auto F, class Handle, class... A>
auto call_actor(const Handle& actor, A&&... args) {
  using C = typename ActorOf<Handle>::type;
  static_assert(!std::is_void_v<C>, "mobula: a method is called on an Actor: remote<&C::method>(actor, arguments…)");
  using Fn = Method<C, F>;
  return Arguments<Fn>::pass([&](Draft::State& draft) { return detail::call(actor, Fn::info, draft); },
                             std::forward<A>(args)...);
}

}  // namespace detail

// F with options bound to it: remote<F>.with(…).
template <auto F>
class RemoteWith {
 public:
  explicit RemoteWith(TaskOptions options) : options_(std::make_shared<TaskOptions>(std::move(options))) {}
  template <class... A>
  auto operator()(A&&... args) const {
    static_assert(!detail::IsCall<F, A...>::value,
                  "mobula: options are for tasks; those of calls are the actor's (ActorOptions)");
    return detail::RemoteCall<F>::submit(options_.get(), std::forward<A>(args)...);
  }
  template <class... R>
  auto map(R&&... ranges) const {
    return detail::RemoteCall<F>::map(options_.get(), std::forward<R>(ranges)...);
  }

 private:
  std::shared_ptr<const TaskOptions> options_;
};

// F is a free function or a captureless lambda; it may return void. Arguments are converted to its parameters here and
// travel by value; a Ref<T> for a parameter of type T or const T&, or one that a T converts to, is a dependency.
// Returns at once, or as soon as there is room for one more task. Throws Infeasible, and std::invalid_argument for an
// empty Ref.
//
// With an Actor<C> as first argument, and F a member function of C or a function whose first parameter is C& or
// const C&, it is a call on that actor: see actor.hpp.
template <auto F>
struct Remote {
  template <class... A>
  auto operator()(A&&... args) const {
    if constexpr (detail::IsCall<F, A...>::value) {
      static_assert(sizeof...(A) != 0, "mobula: a method is called on an Actor: remote<&C::method>(actor, arguments…)");
      return detail::call_actor<F>(std::forward<A>(args)...);
    } else {
      return detail::RemoteCall<F>::submit(nullptr, std::forward<A>(args)...);
    }
  }
  RemoteWith<F> with(TaskOptions options) const { return RemoteWith<F>(std::move(options)); }

  // One task per item; several ranges are zipped and end with the shortest. The ranges may be lazy and single-pass:
  // items are pulled while there is room, and all have been pulled when map returns.
  template <class... R>
  auto map(R&&... ranges) const {
    return detail::RemoteCall<F>::map(nullptr, std::forward<R>(ranges)...);
  }
};

template <auto F>
inline constexpr Remote<F> remote{};

// Folds the values with F: (T, T) -> T, which must be associative and need not be commutative. Returns at once: values
// are folded as they come, by tasks with the options given, on the ranks that hold them where they are large. Values
// that are at this rank and travel inline go to F in tasks of up to 64. Throws std::invalid_argument for an empty range
// and an empty Ref; Infeasible. The error of an element, or of F, is that of the result, as soon as it is known. With
// `cancel`, or once nobody holds the result, no more tasks are submitted.
//
// The order of the values is kept, and where the brackets are depends on their number alone: F is applied to the first
// and second, third and fourth, and so on; a last one without a neighbour goes up as it is; the same again with the
// results, until one is left. So a sum of doubles has the same bits on any number of ranks, and after losses.
template <auto F, detail::RefRange R>
auto reduce(R&& range, const TaskOptions& options = {}) {
  using T = detail::RefValue<R>;
  static_assert(std::is_invocable_r_v<T, decltype(F), T, T>, "mobula: reduce needs a function (T, T) -> T");
  const auto check = [](std::size_t n) {
    if (n == 0) throw std::invalid_argument("mobula::reduce: the range is empty, and F has no neutral element");
  };
  const detail::FunctionInfo& fold = detail::Fold<T, F>::info;
  if constexpr (detail::is_batch<std::remove_cvref_t<R>>) {
    check(range.size());
    return range.size() == 1 ? range[0] : Ref<T>(detail::reduce(fold, range.handle(), options));
  } else {
    std::vector<detail::Handle> values = detail::handles_of(range);
    check(values.size());
    if (values.size() == 1 && values.front()) return Ref<T>(std::move(values.front()));
    return Ref<T>(detail::reduce(fold, std::move(values), options));
  }
}

namespace detail {
template <std::size_t I, class Tuple>
std::tuple_element_t<I, Tuple> element_of(const Tuple& tuple) {
  return std::get<I>(tuple);
}
}  // namespace detail

// One Ref for each element of a tuple.
template <class... T>
std::tuple<Ref<T>...> unpack(const Ref<std::tuple<T...>>& ref) {
  TaskOptions options;
  options.placement = near(ref);
  return [&]<std::size_t... I>(std::index_sequence<I...>) {
    return std::tuple<Ref<T>...>{remote<&detail::element_of<I, std::tuple<T...>>>.with(options)(ref)...};
  }
  (std::index_sequence_for<T...>{});
}

}  // namespace mobula
