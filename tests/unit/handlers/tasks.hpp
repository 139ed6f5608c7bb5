// Builders of the messages that name tasks, and the functions that they are of.
#pragma once

#include <array>
#include <cstring>
#include <numeric>
#include <stdexcept>
#include <string>
#include <vector>

#include "core/messages.hpp"
#include "mobula/detail/task.hpp"

namespace mobula::tests {

using core::Range;
using detail::ByteView;
using detail::FunctionInfo;
using detail::ObjectId;
using detail::RankId;
using detail::SpanId;

inline int twice(int number) { return 2 * number; }
inline int add(int a, int b) { return a + b; }
inline int refuse(int) { throw std::domain_error("it refuses"); }
struct Counter {  // an actor
  int count = 0;
  int step(int by) { return count += by; }
  template <class Archive>
  void serialize(Archive& archive, unsigned) {
    archive& count;
  }
};
struct Other {  // an actor of another class
  int give(int number) { return number; }
};
// Bytes of the result of kLarge, which does not go inline.
inline constexpr std::size_t kLargeSize = 30 << 10;
inline void give_large(detail::TaskRun& run) {
  for (; run.next != run.end; run.advance()) {
    detail::Encoder value;
    value.buffer.extend(kLargeSize);
    run.finish_large(std::move(value));
  }
}
inline void give_zero(detail::TaskRun& run) {
  for (; run.next != run.end; run.advance()) {
    run.begin();
    run.out.put(0);
    run.finish();
  }
}

inline const FunctionInfo& kTwice = detail::Function<twice>::info;
inline const FunctionInfo& kAdd = detail::Function<add>::info;
inline const FunctionInfo& kRefuse = detail::Function<refuse>::info;
inline const FunctionInfo kLarge{"F = tests::large", &give_large, 0, detail::kVariable};
inline const FunctionInfo kMember{"F = tests::member", &give_zero, 0, 4, FunctionInfo::Kind::member};
inline const FunctionInfo& kMakeCounter = detail::Constructor<std::tuple<>, Counter>::info;
inline const FunctionInfo& kStep = detail::Method<Counter, &Counter::step>::info;
inline const FunctionInfo kGiveLarge{
    "F = tests::give_large",           &give_large, 0, detail::kVariable, FunctionInfo::Kind::method,
    &detail::ActorClass<Counter>::info};
inline const FunctionInfo& kGive = detail::Method<Other, &Other::give>::info;

inline ObjectId object_of(RankId owner, std::uint64_t sequence, std::uint32_t index = 0) {
  return {SpanId::make(owner, sequence), index};
}

// A stretch of tasks: by default one that doubles a number, the first of the first span of rank 1. The arguments are 1,
// 2, 3 and so on, but for those that are dependencies.
class Tasks {
 public:
  explicit Tasks(const FunctionInfo& function) { body_.function = function.index, fixed_ = function.fixed_args; }

  Tasks& by(RankId owner, std::uint64_t sequence = 1) {
    range_.span = SpanId::make(owner, sequence);
    return *this;
  }
  Tasks& from(std::uint32_t begin, std::uint32_t end) {
    range_.begin = begin;
    range_.end = end;
    return *this;
  }
  Tasks& after(ObjectId dependency) { return after({dependency, core::Where::unknown, detail::kNoRank, {}}); }
  Tasks& after(const core::DepSource& source) {
    deps_.push_back(source);
    return *this;
  }
  Tasks& holding(ObjectId object) {
    refs_.push_back(object);
    return *this;
  }
  Tasks& kept() {
    kept_ = true;
    return *this;
  }
  Tasks& demand(const core::WireDemand& demand) {
    options().demands = {demand};
    return *this;
  }
  Tasks& retries(int most, bool exceptions = false) {
    options().retries = most;
    options().retry_exceptions = exceptions;
    return *this;
  }
  Tasks& gang(std::uint32_t members) {
    options().gang = members;
    return *this;
  }
  Tasks& actor(const core::ActorTraits& traits = {}) {
    options().is_actor = true;
    options().actor = traits;
    return *this;
  }
  Tasks& on_rank(RankId rank) {
    options().placement = Placement::Kind::on_rank;
    options().place_index = rank;
    return *this;
  }
  Tasks& in_bundle(ObjectId group, std::uint32_t bundle = 0) {
    options().placement = Placement::Kind::bundle;
    options().near = group;
    options().place_index = bundle;
    return *this;
  }
  core::WireOptions& options() {
    if (!std::exchange(body_.has_options, true)) body_.options.demands.emplace_back();
    return body_.options;
  }

  Range range() const { return range_; }
  ObjectId id(std::uint32_t index = 0) const { return {range_.span, index}; }
  core::Submit submit() const {
    core::Submit submit{range_, kept_, kept_ || range_.span.owner() != 0, body(), {}, {}};
    for (const core::DepSource& dep : deps_) submit.deps.push_back(dep.id);
    submit.refs.assign(refs_.begin(), refs_.end());
    return submit;
  }
  core::Assign assign() const {
    core::Assign assign;
    assign.range = range_;
    assign.body = body();
    assign.deps.assign(deps_.begin(), deps_.end());
    return assign;
  }
  core::Assign assign(const core::GangPart& part) const {
    core::Assign message = assign();
    message.gang = part;
    return message;
  }
  core::Call call(ObjectId actor) const { return {range_, actor, {}, !refs_.empty(), body(), deps_}; }
  core::Done done() const { return {range_, 0, {}, {}, {}, 0}; }
  // All of them failed so.
  core::Done failed(const core::ErrorRecord& error) const {
    core::Done failed = done();
    for (std::uint32_t i = range_.begin; i != range_.end; ++i) failed.errors.push_back({i, error});
    return failed;
  }
  // All of them gave a value of that size, which stays where it was made.
  core::Done stored(std::uint64_t size) const {
    core::Done stored = done();
    for (std::uint32_t i = range_.begin; i != range_.end; ++i) stored.stored.push_back({i, size});
    return stored;
  }

 private:
  core::TaskBody body() const {
    static const auto kNumbers = [] {
      std::array<int, 64> numbers{};
      std::iota(numbers.begin(), numbers.end(), 1);
      return numbers;
    }();
    core::TaskBody body = body_;
    const auto each = static_cast<std::uint32_t>((fixed_ == detail::kVariable ? 0 : fixed_) - 4 * deps_.size());
    const std::uint32_t n = body.options.gang != 0 ? 1 : range_.end - range_.begin;
    body.args = {reinterpret_cast<const std::byte*>(kNumbers.data()), std::size_t{each} * n};
    body.dep_mask = (std::uint64_t{1} << deps_.size()) - 1;
    for (std::uint32_t i = 1; !deps_.empty() && i <= n; ++i) body.ends.push_back(each * i);
    return body;
  }

  Range range_{SpanId::make(1, 1), 0, 1};
  core::TaskBody body_;
  std::uint32_t fixed_ = 0;
  bool kept_ = false;
  std::vector<core::DepSource> deps_;
  std::vector<ObjectId> refs_;
};

inline Tasks tasks(const FunctionInfo& function = kTwice) { return Tasks(function); }

// An actor that counts, whose handle others may hold.
inline Tasks counter(core::ActorTraits traits = {}) {
  traits.klass = kMakeCounter.klass->index;
  return tasks(kMakeCounter).actor(traits);
}
inline Tasks gang(std::uint32_t members) { return tasks(kMember).from(0, members).gang(members); }

// As a command: it looks whether it is wanted, and is stopped where it is not.
inline void give_zero_if_wanted(detail::TaskRun& run) {
  if (!run.stop.load()) give_zero(run);
}
struct Command : FunctionInfo {
  Command() : FunctionInfo("F = tests::command", &give_zero_if_wanted, 0, 4) { isolates_itself = true; }
};
inline const Command kCommand;

// An error that a task has thrown.
inline core::ErrorRecord thrown_by(ObjectId task) {
  core::ErrorRecord error;
  error.message = "thrown";
  error.failure.id = core::to_string(task);
  return error;
}
inline ByteView bytes_of(std::string_view text) {
  return {reinterpret_cast<const std::byte*>(text.data()), text.size()};
}

}  // namespace mobula::tests
