#include "exec/scratch.hpp"

#include <fcntl.h>
#include <lz4.h>
#include <sys/vfs.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstdlib>
#include <cstring>

#include "core/trace.hpp"
#include "mobula/error.hpp"

namespace mobula::exec {
namespace {

constexpr std::size_t kChunk = 1 << 20;
constexpr std::size_t kMost = std::size_t{1} << 46;  // bytes of the file, written or not
constexpr std::uint32_t kRaw = 0x8000'0000;
constexpr long kTmpfs = 0x01021994;
constexpr long kRamfs = 0x858458f6;

}  // namespace

Scratch::Scratch(std::string folder) : folder_(std::move(folder)), allocator_(kMost) {}

Scratch::~Scratch() {
  if (file_ >= 0) close(file_);
}

void Scratch::fail(const char* what, int error) const {
  std::string text = "mobula: the scratch folder " + folder_ + ": " + what + ": " + std::strerror(error);
  if (error == ENOSPC || error == EDQUOT) text += "; name one with more room by --mobula-scratch=FOLDER";
  throw Error(text);
}

void Scratch::open() {
  if (file_ >= 0) return;
  file_ = ::open(folder_.c_str(), O_TMPFILE | O_RDWR | O_CLOEXEC, 0600);
  if (file_ >= 0) return;
  // Not every file system has files without names.
  std::string name = folder_ + "/mobula-XXXXXX";
  file_ = mkostemp(name.data(), O_CLOEXEC);
  if (file_ < 0) fail("a file can't be made there", errno);
  unlink(name.c_str());
}

void Scratch::write_at(const void* data, std::size_t n, std::size_t offset) {
  const auto* at = static_cast<const char*>(data);
  while (n != 0) {
    const ssize_t written = pwrite(file_, at, n, static_cast<off_t>(offset));
    if (written < 0 && errno == EINTR) continue;
    if (written <= 0) fail("writing fails", written < 0 ? errno : ENOSPC);
    at += written;
    offset += static_cast<std::size_t>(written);
    n -= static_cast<std::size_t>(written);
  }
}

void Scratch::read_at(void* data, std::size_t n, std::size_t offset) const {
  auto* at = static_cast<char*>(data);
  while (n != 0) {
    const ssize_t got = pread(file_, at, n, static_cast<off_t>(offset));
    if (got < 0 && errno == EINTR) continue;
    if (got <= 0) fail("reading fails", got < 0 ? errno : EIO);
    at += got;
    offset += static_cast<std::size_t>(got);
    n -= static_cast<std::size_t>(got);
  }
}

void Scratch::write(std::uint64_t file, detail::ByteView value) {
  open();
  remove(file);
  Extent extent;
  extent.size = value.size();
  extent.room = value.size();
  std::optional<std::size_t> offset = allocator_.allocate(extent.room);
  if (!offset) {
    allocator_.grow(allocator_.shortfall(extent.room));
    offset = allocator_.allocate(extent.room);
  }
  if (!offset) fail("it is full", ENOSPC);
  extent.offset = *offset;
  std::size_t at = extent.offset;
  bool packs = true;  // until a chunk shows that it does not pay
  try {
    for (std::size_t from = 0; from < value.size(); from += kChunk) {
      const std::size_t n = std::min(kChunk, value.size() - from);
      const auto* bytes = reinterpret_cast<const char*>(value.data() + from);
      std::size_t size = 0;
      if (packs) {
        packed_.resize(static_cast<std::size_t>(LZ4_compressBound(kChunk)));
        const core::Time start = core::now();
        size = static_cast<std::size_t>(LZ4_compress_default(bytes, packed_.data(), static_cast<int>(n),
                                                             static_cast<int>(std::min(n, packed_.size()))));
        const auto took = static_cast<double>(core::now() - start);
        const double saved = size == 0 ? 0 : static_cast<double>(n - std::min(size, n)) * write_ns_per_byte_;
        packs = size != 0 && size < n && (write_ns_per_byte_ == 0 || took < saved);
      }
      const core::Time start = core::now();
      if (packs) {
        write_at(packed_.data(), size, at);
        extent.parts.push_back(static_cast<std::uint32_t>(size));
      } else {
        size = n;
        write_at(bytes, n, at);
        extent.parts.push_back(static_cast<std::uint32_t>(n) | kRaw);
      }
      const double rate = static_cast<double>(core::now() - start) / static_cast<double>(size);
      write_ns_per_byte_ = write_ns_per_byte_ == 0 ? rate : 0.9 * write_ns_per_byte_ + 0.1 * rate;
      at += size;
    }
  } catch (...) {
    give_back(extent);
    throw;
  }
  extents_.emplace(file, std::move(extent));
}

void Scratch::read(std::uint64_t file, std::span<std::byte> into) {
  const auto found = extents_.find(file);
  if (found == extents_.end() || found->second.size != into.size()) fail("a value is not there", ENOENT);
  std::size_t at = found->second.offset;
  std::size_t to = 0;
  for (const std::uint32_t part : found->second.parts) {
    const std::size_t n = std::min(kChunk, into.size() - to);
    const std::size_t size = part & ~kRaw;
    if ((part & kRaw) != 0) {
      read_at(into.data() + to, n, at);
    } else {
      packed_.resize(std::max(packed_.size(), size));
      read_at(packed_.data(), size, at);
      const int got = LZ4_decompress_safe(packed_.data(), reinterpret_cast<char*>(into.data() + to),
                                          static_cast<int>(size), static_cast<int>(n));
      if (got < 0 || static_cast<std::size_t>(got) != n) fail("a value is damaged", EIO);
    }
    at += size;
    to += n;
  }
}

void Scratch::remove(std::uint64_t file) {
  const auto found = extents_.find(file);
  if (found == extents_.end()) return;
  give_back(found->second);
  extents_.erase(found);
}

void Scratch::give_back(const Extent& extent) {
  allocator_.free(extent.offset);
  // Where the file system can't punch holes, the space is used again by the values that come.
  static_cast<void>(fallocate(file_, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, static_cast<off_t>(extent.offset),
                              static_cast<off_t>(extent.room)));
}

std::string default_scratch() {
  for (const char* name : {"SLURM_TMPDIR", "TMPDIR", "/tmp", "/var/tmp"}) {
    const char* folder = name[0] == '/' ? name : std::getenv(name);
    struct statfs info {};
    if (folder == nullptr || *folder == '\0' || statfs(folder, &info) != 0) continue;
    if (info.f_type == kTmpfs || info.f_type == kRamfs || access(folder, W_OK) != 0) continue;
    return folder;
  }
  return "";
}

}  // namespace mobula::exec
