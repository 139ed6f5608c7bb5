// Objects that live on one rank and are called from all others.
//
//   struct Counter {
//     long total = 0;
//     long add(long n) { return total += n; }
//   };
//   mobula::Actor<Counter> counter = mobula::actor<Counter>();
//   mobula::Ref<long> sum = mobula::remote<&Counter::add>(counter, 5);
//
// Calls go straight to the actor's rank, and run there in the order in which each caller made them (the driver, a task
// and an actor are callers); with concurrency 1, one at a time. A call whose argument is a Ref waits for it, and with
// it the later calls of the same caller. An actor without cpus of its own runs on threads beside the slots.
#pragma once

#include <string>
#include <tuple>
#include <type_traits>
#include <utility>

#include "mobula/remote.hpp"

namespace mobula {

// A handle. May be copied, compared, and passed on in arguments, results and values. The actor ends when the last one
// is gone and all calls have ended, unless it is detached.
template <class C>
class Actor : public detail::ActorBase {
 public:
  Actor() = default;
  Actor(detail::Handle handle, detail::CallLimits limits) : ActorBase(std::move(handle), limits) {}
  explicit Actor(ActorBase base) : ActorBase(std::move(base)) {}
  explicit operator bool() const { return static_cast<bool>(handle_); }
  bool operator==(const Actor& other) const { return handle_ == other.handle_; }
};

namespace detail {

// How an argument of a constructor travels, where it is itself; a Ref<T> may stand for a T.
template <class A>
struct Travels {
  using Decayed = std::decay_t<A>;
  using type = std::conditional_t<std::is_same_v<Decayed, const char*> || std::is_same_v<Decayed, char*>, std::string,
                                  typename InPlace<Decayed>::Travels>;
};
template <class A, bool kResolve>
struct ResolvedType {
  using type = typename Travels<A>::type;
};
template <class A>
requires(is_ref<std::decay_t<A>> &&
         !std::is_void_v<typename RefTarget<std::decay_t<A>>::type>) struct ResolvedType<A, true> {
  using type = typename RefTarget<std::decay_t<A>>::type;
};

template <class C, class... T>
inline constexpr bool is_makeable = std::is_constructible_v<C, T...> || requires {
  C{std::declval<T>()...};
};

template <class C, class Tuple>
inline constexpr bool makes = false;
template <class C, class... T>
inline constexpr bool makes<C, std::tuple<T...>> = is_makeable<C, T...>;

// The types that make a C of arguments of types A: Refs stay what they are where a constructor takes them so, and are
// dependencies otherwise. Bit i of the mask: argument i is one.
template <class C, class... A>
struct Made {
  template <std::size_t Mask, std::size_t... I>
  static auto types(std::index_sequence<I...>) -> std::tuple<typename ResolvedType<A, (Mask >> I & 1) != 0>::type...>;
  template <std::size_t Mask>
  using Types = decltype(types<Mask>(std::index_sequence_for<A...>{}));
  static constexpr std::size_t refs = ((is_ref<std::decay_t<A>> ? 1U : 0U) + ... + 0U);
  template <std::size_t Mask = 0>
  static constexpr auto find() {
    if constexpr (makes<C, Types<Mask>>) {
      return std::type_identity<Types<Mask>>{};
    } else if constexpr (refs != 0 && Mask + 1 < (std::size_t{1} << sizeof...(A))) {
      return find<Mask + 1>();
    } else {
      return std::type_identity<void>{};
    }
  }
  using type = typename decltype(find())::type;
};

template <class C, class... A>
Actor<C> make_actor(const ActorOptions* options, A&&... args) {
  static_assert(std::is_class_v<C> && !std::is_abstract_v<C>, "mobula: an actor is an object of a class");
  static_assert(sizeof...(A) <= 8 || Made<C, A...>::refs == 0, "mobula: at most 8 arguments beside a Ref");
  using Types = typename Made<C, A...>::type;
  static_assert(!std::is_void_v<Types>, "mobula: the class has no constructor for these arguments");
  if constexpr (!std::is_void_v<Types>) {
    Draft draft;
    [&]<std::size_t... I>(std::index_sequence<I...>) {
      (add_argument<std::tuple_element_t<I, Types>>(*draft, I, std::forward<A>(args)), ...);
    }
    (std::index_sequence_for<A...>{});
    return Actor<C>(create_actor(Constructor<Types, C>::info, options, *draft));
  } else {
    return {};
  }
}

}  // namespace detail

template <class C>
class ActorWith {
 public:
  explicit ActorWith(ActorOptions options) : options_(std::move(options)) {}
  template <class... A>
  Actor<C> operator()(A&&... args) const {
    return detail::make_actor<C>(&options_, std::forward<A>(args)...);
  }

 private:
  ActorOptions options_;
};

// Constructs a C from the arguments on some rank. Returns at once, but with a name, which all ranks must agree on. If
// the constructor throws, calls throw ActorDied. Throws Infeasible; Error if the name is taken.
template <class C>
struct MakeActor {
  template <class... A>
  Actor<C> operator()(A&&... args) const {
    return detail::make_actor<C>(nullptr, std::forward<A>(args)...);
  }
  ActorWith<C> with(ActorOptions options) const { return ActorWith<C>(std::move(options)); }
};

template <class C>
inline constexpr MakeActor<C> actor{};

// The actor of that name and class. Throws NoSuchActor.
template <class C>
Actor<C> find_actor(const std::string& name) {
  return Actor<C>(detail::find_actor(name, detail::ActorClass<C>::info));
}

// Ends the actor at once: calls that have not ended throw ActorDied, and so do later ones. A method that runs goes on
// without a reader, and the object is destroyed after it. Returns when no further call will start.
template <class C>
void kill(const Actor<C>& actor) {
  detail::kill(actor.handle());
}

}  // namespace mobula

template <class C>
struct std::hash<mobula::Actor<C>> {
  std::size_t operator()(const mobula::Actor<C>& actor) const noexcept { return actor.handle().hash(); }
};
