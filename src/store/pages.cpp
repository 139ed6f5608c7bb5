#include "store/pages.hpp"

#include <fcntl.h>
#include <sys/mman.h>
#include <unistd.h>

#include <cerrno>
#include <cstdint>

#ifndef MADV_POPULATE_WRITE
#define MADV_POPULATE_WRITE 23
#endif

namespace mobula::store {
namespace {

std::size_t page_size() {
  static const auto size = static_cast<std::size_t>(sysconf(_SC_PAGESIZE));
  return size;
}

// Kernels before 5.14 can't populate on request; but where the kernel itself writes and finds no page, it says so.
bool fill_with_zeros(std::span<std::byte> bytes) {
  static const int zeros = open("/dev/zero", O_RDONLY | O_CLOEXEC);
  while (!bytes.empty()) {
    const ssize_t n = read(zeros, bytes.data(), bytes.size());
    if (n < 0 && errno == EINTR) continue;
    if (n <= 0) return false;
    bytes = bytes.subspan(static_cast<std::size_t>(n));
  }
  return true;
}

}  // namespace

bool commit_pages(std::span<std::byte> bytes) {
  if (bytes.empty()) return true;
  const std::size_t page = page_size();
  const auto begin = reinterpret_cast<std::uintptr_t>(bytes.data()) / page * page;
  const auto end = (reinterpret_cast<std::uintptr_t>(bytes.data()) + bytes.size() + page - 1) / page * page;
  while (madvise(reinterpret_cast<void*>(begin), end - begin, MADV_POPULATE_WRITE) != 0) {
    if (errno == EINTR || errno == EAGAIN) continue;
    return errno == EINVAL && fill_with_zeros(bytes);
  }
  return true;
}

void advise_pages(std::span<std::byte> bytes) { madvise(bytes.data(), bytes.size(), MADV_HUGEPAGE); }

}  // namespace mobula::store
