// What must become of the objects of a simulated program, as far as its driver can tell. Expectations are nodes of a
// graph: what a task depends on decides with, so that a cancel changes what is expected of all that hangs on it.
#pragma once

#include <cstdint>
#include <functional>
#include <initializer_list>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "sim/cluster.hpp"

namespace mobula::sim {

// A set of kinds of errors.
class Kinds {
 public:
  Kinds() = default;
  Kinds(std::initializer_list<core::ErrorKind> kinds) {
    for (const core::ErrorKind kind : kinds) bits_ |= bit(kind);
  }
  bool has(core::ErrorKind kind) const { return (bits_ & bit(kind)) != 0; }
  bool empty() const { return bits_ == 0; }
  Kinds& operator|=(Kinds other) {
    bits_ |= other.bits_;
    return *this;
  }

 private:
  static std::uint32_t bit(core::ErrorKind kind) { return std::uint32_t{1} << static_cast<unsigned>(kind); }
  std::uint32_t bits_ = 0;
};

struct Expectation;
using Expected = std::shared_ptr<Expectation>;

// An object ends with this value, or with one of these errors.
struct Possible {
  std::optional<std::uint64_t> value;
  Kinds errors;
  bool may_end_well = false;  // with some value, if a rank was lost
};

struct Expectation {
  using Combine = std::function<std::uint64_t(std::span<const std::uint64_t>)>;  // of the values of the inputs

  std::vector<Expected> inputs;
  Combine combine;  // nullptr: `value`, once all inputs have one
  std::uint64_t value = 0;
  bool fails = false;             // by itself, with one of `errors`
  bool may_end_well = false;      // though it fails: a lost rank may have taken the run that would have failed
  Kinds errors;                   // that it may have beside those of its inputs
  std::optional<Possible> known;  // how it has ended
  Expected whole;                 // the gang that it is a part of
  bool is_opaque = false;         // what it gives is no number that could be told beforehand
  bool is_large = false;          // many numbers

  Possible possible = {};  // as of
  std::uint64_t as_of = 0;
};

Expected gives(std::uint64_t value);
Expected gives(std::uint64_t value, std::vector<Expected> inputs);
Expected combines(std::vector<Expected> inputs, Expectation::Combine combine);
Expected fails(Kinds errors);
Expected gives_refs();

// It was cancelled, and has not run.
void set_cancelled(Expectation& expectation);
// It may end so, since its actor was killed, or its job drained. If it has ended otherwise, it stays so.
void may_fail(Expectation& expectation, Kinds errors);
// It has ended so: what hangs on it has to follow.
void set_known(Expectation& expectation, const Seen& seen);

Possible possible(const Expected& expectation);
// What is wrong with how the object has ended; empty: nothing. `lossy`: ranks were lost, and any error is excused that
// a loss may bring. `excused`: errors that any object may have.
std::string judge(const Expected& expectation, const Seen& seen, bool lossy, Kinds excused = {});

}  // namespace mobula::sim
