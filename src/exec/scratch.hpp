// Values in files: what the object store moves out of memory, by the numbers that it gives them. One real file for each
// rank, which has no name once it is open, so that nothing stays behind whatever ends the process. Used by one thread.
#pragma once

#include <cstddef>
#include <cstdint>
#include <string>
#include <unordered_map>
#include <vector>

#include "mobula/detail/codec.hpp"
#include "store/allocator.hpp"

namespace mobula::exec {

class Scratch {
 public:
  // Nothing is opened before the first write.
  explicit Scratch(std::string folder);
  ~Scratch();
  Scratch(const Scratch&) = delete;
  Scratch& operator=(const Scratch&) = delete;

  // Writes a value, compressed (LZ4) if that takes less time than writing what it saves.
  // Throws Error, with the folder and the system's reason.
  void write(std::uint64_t file, detail::ByteView value);
  // Reads a value of that size back. Throws Error.
  void read(std::uint64_t file, std::span<std::byte> into);
  void remove(std::uint64_t file);
  std::size_t values() const { return extents_.size(); }

 private:
  struct Extent {
    std::size_t offset = 0;
    std::size_t room = 0;              // bytes of the file that are set aside for it
    std::size_t size = 0;              // of the value
    std::vector<std::uint32_t> parts;  // bytes in the file of each chunk; kRaw is set where it is not compressed
  };
  void open();
  void write_at(const void* data, std::size_t n, std::size_t offset);
  void read_at(void* data, std::size_t n, std::size_t offset) const;
  void give_back(const Extent& extent);
  [[noreturn]] void fail(const char* what, int error) const;

  std::string folder_;
  int file_ = -1;
  store::Allocator allocator_;  // of offsets in the file; what is not written takes no space
  std::unordered_map<std::uint64_t, Extent> extents_;
  std::vector<char> packed_;
  double write_ns_per_byte_ = 0;  // measured; 0: unknown
};

// The folder for such files on this node: the first of SLURM_TMPDIR, TMPDIR, /tmp and /var/tmp that can be written and
// is not memory itself; empty if there is none.
std::string default_scratch();

}  // namespace mobula::exec
