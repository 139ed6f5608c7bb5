// The table of functions that this binary can run remotely. Filled before main, by the static FunctionInfo objects; the
// linker fixes their order, so it is the same on all ranks that run the same binary.
#pragma once

#include <cstdint>
#include <span>
#include <string_view>

#include "core/messages.hpp"
#include "mobula/detail/task.hpp"

namespace mobula::core {

std::uint32_t function_count();
const detail::FunctionInfo* function_at(std::uint32_t index);  // nullptr if there is none
std::string_view function_name(std::uint32_t index);

// Whether another function of the program has the same signature, as lambdas may: then it can't be told apart from that
// in another job.
bool has_twin(const detail::FunctionInfo& function);

// What a message says of tasks: of a function of this program, with arguments of its size. `fixed`: those of each task
// have that size, and `ends` is empty. Throws ProtocolError.
struct CheckedTasks {
  const detail::FunctionInfo& function;
  bool fixed;
};
CheckedTasks check_tasks(const TaskBody& body, const Range& range, std::size_t deps, detail::FunctionInfo::Kind kind);
// What a task is by its options.
inline detail::FunctionInfo::Kind kind_of(const TaskBody& body) {
  using Kind = detail::FunctionInfo::Kind;
  if (!body.has_options) return Kind::task;
  return body.options.is_actor ? Kind::constructor : body.options.gang != 0 ? Kind::member : Kind::task;
}

// Without what is asked none of. Throws std::invalid_argument for what makes no sense.
WireDemand checked(WireDemand demand);
// Looks at those in a message, of which there is one at least. Throws ProtocolError for what makes no sense.
void check_demands(std::span<const WireDemand> demands);

// Equal on ranks that run the same binary, and different, as far as 64 bits go, on others.
std::uint64_t function_digest();

// The short name in the compiler's signature of a function template with one `auto F` parameter.
std::string short_name(std::string_view signature);

}  // namespace mobula::core
