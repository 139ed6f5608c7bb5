// The pages under a segment: reserved without being touched, and made usable in steps by calls that fail where there is
// no memory, instead of a signal at the first touch.
#pragma once

#include <cstddef>
#include <span>

namespace mobula::store {

// Makes the bytes usable: false where the machine, the control group or /dev/shm has no memory for them. Bytes that
// nobody has written yet may be overwritten with zeros.
bool commit_pages(std::span<std::byte> bytes);

// Asks for large pages, where the system gives them for such memory.
void advise_pages(std::span<std::byte> bytes);

}  // namespace mobula::store
