#include "core/shared_memory.hpp"

#include <fcntl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include <new>

namespace mobula::core {

std::unique_ptr<SharedMemory> SharedMemory::map(int file, std::size_t bytes) {
  if (file < 0) return nullptr;
  void* const at = mmap(nullptr, bytes, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_NORESERVE, file, 0);
  if (at != MAP_FAILED) {
    madvise(at, bytes, MADV_DONTDUMP);  // a core of one rank would have the objects of all
    return std::unique_ptr<SharedMemory>(new SharedMemory(file, {static_cast<std::byte*>(at), bytes}));
  }
  close(file);
  return nullptr;
}

std::unique_ptr<SharedMemory> SharedMemory::alone(std::size_t bytes) {
  const int file = memfd_create("mobula-store", MFD_CLOEXEC);
  if (file >= 0 && ftruncate(file, static_cast<off_t>(bytes)) == 0) {
    if (auto memory = map(file, bytes)) return memory;
  } else if (file >= 0) {
    close(file);
  }
  throw std::bad_alloc();
}

std::unique_ptr<SharedMemory> SharedMemory::make(std::size_t bytes) {
  const int file = ::open("/dev/shm", O_TMPFILE | O_RDWR | O_CLOEXEC, 0600);
  if (file >= 0 && ftruncate(file, static_cast<off_t>(bytes)) != 0) {
    close(file);
    return nullptr;
  }
  return map(file, bytes);
}

std::string SharedMemory::offer() const { return "/proc/" + std::to_string(getpid()) + "/fd/" + std::to_string(file_); }

bool SharedMemory::give_name(const std::string& path) const {
  return linkat(AT_FDCWD, offer().c_str(), AT_FDCWD, path.c_str(), AT_SYMLINK_FOLLOW) == 0;
}

void SharedMemory::remove_name(const std::string& path) { unlink(path.c_str()); }

std::unique_ptr<SharedMemory> SharedMemory::open(const std::string& path, std::size_t bytes) {
  auto found = of(::open(path.c_str(), O_RDWR | O_CLOEXEC));
  return found && found->memory().size() == bytes ? std::move(found) : nullptr;
}

std::unique_ptr<SharedMemory> SharedMemory::of(int file) {
  struct stat info {};
  if (file >= 0 && (fstat(file, &info) != 0 || !S_ISREG(info.st_mode))) {
    close(file);
    return nullptr;
  }
  return map(file, static_cast<std::size_t>(info.st_size));
}

bool SharedMemory::make_pages() const { return posix_fallocate(file_, 0, static_cast<off_t>(memory_.size())) == 0; }

void SharedMemory::retire() {
  fallocate(file_, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, 0, static_cast<off_t>(memory_.size()));
  memory_ = {};
}

SharedMemory::~SharedMemory() {
  if (!memory_.empty()) munmap(memory_.data(), memory_.size());
  close(file_);
}

int SharedMemory::file_to_read() const { return ::open(offer().c_str(), O_RDONLY | O_CLOEXEC); }

}  // namespace mobula::core
