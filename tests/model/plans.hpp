// Programs for the model.
#pragma once

#include <vector>

#include "model/model.hpp"

namespace mobula::model {

// Every program of so many tasks, but for the order of brothers' numbers: each kind, parent, input and way to wait.
// None in which a task is given a value that it, or what it waits for, is to make: those wait for themselves.
std::vector<std::vector<TaskPlan>> all_programs(std::size_t tasks);

// Some of six tasks, each of which brings much together.
std::vector<std::vector<TaskPlan>> large_programs();

// Some with gangs whose members wait for tasks of their own, or for other gangs.
std::vector<std::vector<TaskPlan>> gang_programs();

}  // namespace mobula::model
