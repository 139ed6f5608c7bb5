// The actors of the programs.
#pragma once

#include <map>
#include <memory>
#include <mobula/mobula.hpp>
#include <mutex>
#include <vector>

#include "random/outcome.hpp"

namespace random_programs {

// How a Tally checks its calls.
struct TallyRules {
  std::int32_t driver = 0;  // the process to tell of calls that are out of order
  bool in_order = true;     // not with concurrency, nor where calls may run again
};

// Checks that the calls of each caller come in the order made, each once.
class Tally {
 public:
  Tally() = default;
  explicit Tally(TallyRules rules) : rules_(rules) {}
  Tally(TallyRules rules, Number first) : rules_(rules), first_(first) {}

  // Each call names its caller, and is that caller's call of that number.
  Number call(Number caller, Number number, Number value);
  Words make(Number caller, Number number, Number seed, Number count);
  void note(Number caller, Number number);
  Number fail(Number caller, Number number, Outcome failure);
  Number look(Number caller, Number number, std::span<const Number> words);
  // Waits for the Ref inside the method.
  Number open(Number caller, Number number, const mobula::Ref<Number>& ref);
  // Keeps the Ref with the object, and gives it back later.
  void keep(Number caller, Number number, const mobula::Ref<Number>& ref);
  mobula::Ref<Number> give(Number caller, Number number);
  Number first(Number caller, Number number);

  template <class Archive>
  void serialize(Archive& archive, unsigned) {
    archive& rules_.driver& rules_.in_order& first_& last_;
  }

 private:
  void check_order(Number caller, Number number);

  TallyRules rules_;
  Number first_ = 0;
  std::shared_ptr<std::mutex> mutex_ = std::make_shared<std::mutex>();  // for concurrency above 1
  std::map<Number, Number> last_;                                       // by caller
  std::vector<mobula::Ref<Number>> kept_;
};

// A function as a method.
Number peek(const Tally& tally, Number seed);

// Its constructor throws.
struct Stillborn {
  explicit Stillborn(Outcome failure) { throw_as(failure); }
  Number call(Number value) { return value; }
};

// Calls another actor, and waits for it.
class Relay {
 public:
  explicit Relay(mobula::Actor<Tally> target) : target_(std::move(target)) {}
  Number call(Number caller, Number number, Number value) {
    return mobula::get(mobula::remote<&Tally::call>(target_, caller, number, value));
  }
  // Without waiting for it.
  mobula::Ref<Number> pass(Number caller, Number number, Number value) {
    return mobula::remote<&Tally::call>(target_, caller, number, value);
  }

 private:
  mobula::Actor<Tally> target_;
};

// Two that call each other; each needs a concurrency of two and more.
class Partner {
 public:
  void meet(const std::vector<mobula::Actor<Partner>>& partner) {
    const std::lock_guard lock(*mutex_);
    partner_ = partner;
  }
  void part() {
    const std::lock_guard lock(*mutex_);
    partner_.clear();
  }
  // Goes back and forth so many times.
  Number bounce(Number value, Number times) {
    std::vector<mobula::Actor<Partner>> partner;
    {
      const std::lock_guard lock(*mutex_);
      partner = partner_;
    }
    if (times == 0 || partner.empty()) return mix(value);
    return mobula::get(mobula::remote<&Partner::bounce>(partner.front(), value + 1, times - 1));
  }

 private:
  std::shared_ptr<std::mutex> mutex_ = std::make_shared<std::mutex>();
  std::vector<mobula::Actor<Partner>> partner_;  // one, or none
};

}  // namespace random_programs
