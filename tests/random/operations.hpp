// The table of operations: what a step of a program may do.
#pragma once

#include <span>
#include <string_view>

#include "random/program.hpp"

namespace random_programs {

class Interpreter;

// Who runs a program.
enum class Role : std::uint8_t { driver, driver_thread, task, task_thread, method };
constexpr unsigned bit(Role role) { return 1U << static_cast<unsigned>(role); }
inline constexpr unsigned kDriver = bit(Role::driver);
inline constexpr unsigned kThreads = bit(Role::driver_thread) | bit(Role::task_thread);
inline constexpr unsigned kTasks = bit(Role::task);
inline constexpr unsigned kMethods = bit(Role::method);
inline constexpr unsigned kAll = kDriver | kThreads | kTasks | kMethods;

struct Operation {
  std::string_view name;
  int weight = 1;         // how often it is chosen
  unsigned roles = kAll;  // who may do it
  // Does it, by what it draws and the step's block. What it makes goes to the interpreter, with a model of it.
  void (*act)(Interpreter& here, Draw& draw, const Step& step) = nullptr;
  // Of an operation with a block: who runs that, where `role` does the operation.
  Role (*block)(Role role) = nullptr;
  bool is_rare = false;          // costs much
  bool needs_all_ranks = false;  // has no model of what the loss of a rank does to it
};

std::span<const Operation> operations();
// Throws std::invalid_argument for a name that none has.
const Operation* operation_named(std::string_view name);

// The parts of the table, by subject.
std::span<const Operation> task_operations();
std::span<const Operation> map_operations();
std::span<const Operation> value_operations();
std::span<const Operation> wait_operations();
std::span<const Operation> error_operations();
std::span<const Operation> actor_operations();
std::span<const Operation> placement_operations();
std::span<const Operation> nested_operations();
std::span<const Operation> other_operations();

}  // namespace random_programs
