#include "random/tally.hpp"

#include <string>

#include "random/watch.hpp"

namespace random_programs {

void Tally::check_order(Number caller, Number number) {
  if (!rules_.in_order) return;
  const auto [last, is_new] = last_.try_emplace(caller, number);
  if (is_new) return;
  if (number <= last->second) {
    tell_driver_wrong(rules_.driver, "call " + std::to_string(number) + " of caller " + std::to_string(caller) +
                                         " has come after its call " + std::to_string(last->second));
  }
  last->second = number;
}

Number Tally::call(Number caller, Number number, Number value) {
  nap(value, 3);
  const std::lock_guard lock(*mutex_);
  check_order(caller, number);
  return mix(number * 5 + value);
}

Words Tally::make(Number caller, Number number, Number seed, Number count) {
  const std::lock_guard lock(*mutex_);
  check_order(caller, number);
  return make_words(seed, count);
}

void Tally::note(Number caller, Number number) {
  const std::lock_guard lock(*mutex_);
  check_order(caller, number);
}

Number Tally::fail(Number caller, Number number, Outcome failure) {
  {
    const std::lock_guard lock(*mutex_);
    check_order(caller, number);
  }
  throw_as(failure);
}

Number Tally::look(Number caller, Number number, std::span<const Number> words) {
  const std::lock_guard lock(*mutex_);
  check_order(caller, number);
  return digest(words);
}

Number Tally::open(Number caller, Number number, const mobula::Ref<Number>& ref) {
  {
    const std::lock_guard lock(*mutex_);
    check_order(caller, number);
  }
  return mobula::get(ref);
}

void Tally::keep(Number caller, Number number, const mobula::Ref<Number>& ref) {
  const std::lock_guard lock(*mutex_);
  check_order(caller, number);
  kept_.push_back(ref);
}

mobula::Ref<Number> Tally::give(Number caller, Number number) {
  const std::lock_guard lock(*mutex_);
  check_order(caller, number);
  if (kept_.empty()) return mobula::put(Number{0});
  mobula::Ref<Number> ref = kept_.back();
  kept_.pop_back();
  return ref;
}

Number Tally::first(Number caller, Number number) {
  const std::lock_guard lock(*mutex_);
  check_order(caller, number);
  return first_;
}

Number peek(const Tally&, Number seed) { return mix(seed); }

}  // namespace random_programs
