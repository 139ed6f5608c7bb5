#include "random/operations.hpp"

#include <stdexcept>

namespace random_programs {

std::span<const Operation> operations() {
  static const std::vector<Operation> all = [] {
    std::vector<Operation> table;
    for (const auto part :
         {task_operations(), map_operations(), value_operations(), wait_operations(), error_operations(),
          actor_operations(), placement_operations(), nested_operations(), other_operations()}) {
      table.insert(table.end(), part.begin(), part.end());
    }
    return table;
  }();
  return all;
}

const Operation* operation_named(std::string_view name) {
  for (const Operation& operation : operations()) {
    if (operation.name == name) return &operation;
  }
  throw std::invalid_argument("no operation is named " + std::string(name));
}

}  // namespace random_programs
