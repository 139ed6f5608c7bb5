// Memory in a file without a name: processes that are given the file see the same bytes. It is only reserved; pages are
// made when they are touched.
#pragma once

#include <cstddef>
#include <memory>
#include <span>
#include <string>

namespace mobula::core {

class SharedMemory {
 public:
  // Of this process, and of those that it passes the file on to. Throws std::bad_alloc.
  static std::unique_ptr<SharedMemory> alone(std::size_t bytes);
  // In /dev/shm. nullptr where the system refuses.
  static std::unique_ptr<SharedMemory> make(std::size_t bytes);
  // What another process that may look at this one's open files finds it by; or, while it has it, a name in /dev/shm.
  std::string offer() const;
  // Gives it that name: false if it is taken. Taken away again by remove_name.
  bool give_name(const std::string& path) const;
  static void remove_name(const std::string& path);
  // nullptr if it is not found there, or has another size: the path is that of another file.
  static std::unique_ptr<SharedMemory> open(const std::string& path, std::size_t bytes);
  // Of a file that was passed on, which is closed with it. nullptr where the system refuses.
  static std::unique_ptr<SharedMemory> of(int file);
  // Makes all pages, so that no touch of them can fail later. False where there is no room.
  bool make_pages() const;

  // Gives the pages back, and leaves the address range as it is, for threads that may still touch it.
  void retire();

  SharedMemory(const SharedMemory&) = delete;
  SharedMemory& operator=(const SharedMemory&) = delete;
  ~SharedMemory();

  std::span<std::byte> memory() const { return memory_; }
  int file() const { return file_; }
  // The same file for reading only, to be closed by the caller; -1 where the system refuses.
  int file_to_read() const;

 private:
  SharedMemory(int file, std::span<std::byte> memory) : file_(file), memory_(memory) {}
  static std::unique_ptr<SharedMemory> map(int file, std::size_t bytes);

  int file_;
  std::span<std::byte> memory_;
};

}  // namespace mobula::core
