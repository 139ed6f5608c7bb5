// What is asked of this host.
#pragma once

#include <cstddef>
#include <mutex>
#include <string>
#include <vector>

namespace mobula::core {

std::string host_name();

// Of the system's clock, since 1970.
double system_seconds();

// Writes all bytes, however slowly the other end takes them. False, with the reason in errno, where that can't be done.
bool write_all(int file, const void* bytes, std::size_t size);

// What a command of the shell prints. Empty where it fails.
std::string output_of(const char* command);

// The variables of this process, each as NAME=VALUE.
std::vector<std::string> process_environment();
// Held by whoever reads or changes them while other threads run, so that none of them is read as it is moved. MPI sets
// some when it starts, and where a program runs alone its first gang starts it.
std::mutex& environment_mutex();

}  // namespace mobula::core
