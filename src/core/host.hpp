// What is asked of this host.
#pragma once

#include <cstddef>
#include <string>

namespace mobula::core {

std::string host_name();

// Of the system's clock, since 1970.
double system_seconds();

// Writes all bytes, however slowly the other end takes them. False, with the reason in errno, where that can't be done.
bool write_all(int file, const void* bytes, std::size_t size);

// What a command of the shell prints. Empty where it fails.
std::string output_of(const char* command);

}  // namespace mobula::core
