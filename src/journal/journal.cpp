#include "journal/journal.hpp"

#include <fcntl.h>
#include <sys/file.h>
#include <unistd.h>
#include <xxhash.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <charconv>
#include <chrono>
#include <cstdio>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <vector>

#include "core/host.hpp"
#include "core/log.hpp"
#include "core/wire.hpp"
#include "journal/book.hpp"
#include "mobula/error.hpp"

namespace mobula::journal {

namespace fs = std::filesystem;

namespace {

constexpr std::uint32_t kMagic = 0x4a'42'4f'4d;  // "MOBJ"
constexpr std::size_t kInline = 64 << 10;        // bytes up to which a value is in the record
constexpr std::uint32_t kMostRecord = 16 << 20;  // bytes

struct Header {  // of a record in the file of a rank
  std::uint32_t magic = kMagic;
  std::uint32_t size = 0;
  std::uint64_t digest = 0;
};

std::uint64_t digest_of(ByteView bytes) { return XXH3_64bits(bytes.data(), bytes.size()); }

class Digest {
 public:
  Digest() : state_(XXH3_createState()) {
    if (state_ == nullptr) throw std::bad_alloc();
    XXH3_128bits_reset(state_);
  }
  ~Digest() { XXH3_freeState(state_); }
  Digest(const Digest&) = delete;
  Digest& operator=(const Digest&) = delete;

  void add(ByteView bytes) {
    const std::uint64_t size = bytes.size();
    XXH3_128bits_update(state_, &size, sizeof size);
    XXH3_128bits_update(state_, bytes.data(), bytes.size());
  }
  void add(std::string_view text) { add(ByteView(reinterpret_cast<const std::byte*>(text.data()), text.size())); }
  Key key() const {
    const XXH128_hash_t hash = XXH3_128bits_digest(state_);
    return {hash.high64, hash.low64};
  }

 private:
  XXH3_state_t* state_;
};

std::string book_of(const std::string& folder) { return folder + "/book.db"; }
std::string results_of(const std::string& folder) { return folder + "/results"; }
std::string values_of(const std::string& folder) { return folder + "/values"; }
std::string file_of(const std::string& folder, const Key& key) { return values_of(folder) + "/" + to_string(key); }

[[noreturn]] void fail(const std::string& what, int error) {
  throw Error("mobula: " + what + ": " + std::strerror(error));
}

class File {
 public:
  File(const std::string& path, int flags) : path_(path), file_(open(path.c_str(), flags | O_CLOEXEC, 0644)) {
    if (file_ < 0) fail("the journal's file " + path_ + " can't be opened", errno);
  }
  ~File() {
    if (file_ >= 0) close(file_);
  }
  File(const File&) = delete;
  File& operator=(const File&) = delete;
  int release() { return std::exchange(file_, -1); }

  // False at the end of the file.
  bool read(void* to, std::size_t size) {
    auto* at = static_cast<std::byte*>(to);
    while (size != 0) {
      const ssize_t n = ::read(file_, at, size);
      if (n < 0 && errno == EINTR) continue;
      if (n < 0) fail("the journal's file " + path_ + " can't be read", errno);
      if (n == 0) return false;
      at += n;
      size -= static_cast<std::size_t>(n);
    }
    return true;
  }

 private:
  std::string path_;
  int file_;
};

void write_all(int file, ByteView bytes) {
  if (!core::write_all(file, bytes.data(), bytes.size())) fail("writing fails", errno);
}

// So that no other job has the folder. The file says who does. -1: somebody has.
int try_lock(const std::string& folder) {
  const std::string path = folder + "/lock";
  File file(path, O_RDWR | O_CREAT);
  const int lock = file.release();
  if (flock(lock, LOCK_EX | LOCK_NB) != 0) {
    const int error = errno;
    if (error == EWOULDBLOCK) {
      close(lock);
      return -1;
    }
    core::log_warn("the file system of " + folder + " has no locks (" + std::strerror(error) +
                   "): see to it that one job at a time uses this journal");
  }
  const std::string text = "process " + std::to_string(getpid()) + " on " + core::host_name() + "\n";
  static_cast<void>(!ftruncate(lock, 0));
  static_cast<void>(!write(lock, text.data(), text.size()));
  return lock;
}

std::string holder_of(const std::string& folder) {
  std::string text;
  std::getline(std::ifstream(folder + "/lock"), text);
  return text;
}

// What a rank of an earlier job has added.
void take_file(Book& book, const std::string& path) {
  File file(path, O_RDONLY);
  Header header;
  std::vector<std::byte> bytes;
  book.begin();
  while (file.read(&header, sizeof header)) {
    if (header.magic != kMagic || header.size > kMostRecord) break;
    bytes.resize(header.size);
    if (!file.read(bytes.data(), bytes.size()) || digest_of(bytes) != header.digest) break;
    Record record;
    core::WireReader in(bytes);
    in(record);
    book.put(record);
  }
  book.commit();
}

// Requires the lock.
void take_all(const std::string& folder) {
  Book book(book_of(folder), Book::Use::write);
  std::vector<fs::path> files;
  for (const auto& file : fs::directory_iterator(results_of(folder))) files.push_back(file.path());
  for (const auto& path : files) {
    take_file(book, path);
    fs::remove(path);
  }
  for (const auto& file : fs::directory_iterator(values_of(folder))) {
    if (file.path().extension() == ".part") fs::remove(file.path());
  }
}

// False where it is damaged or gone.
bool read_value(const std::string& folder, const Record& record, Buffer& value) {
  if (record.in_file) {
    const std::string path = file_of(folder, record.entry.key);
    if (!fs::exists(path)) return false;
    File file(path, O_RDONLY);
    if (!file.read(value.extend(record.entry.size), record.entry.size)) return false;
  } else {
    value = Buffer(record.value);
  }
  return value.size() == record.entry.size && digest_of(value.view()) == record.digest;
}

}  // namespace

std::string to_string(const Key& key) {
  std::array<char, 33> text{};
  std::snprintf(text.data(), text.size(), "%016llx%016llx", static_cast<unsigned long long>(key.high),
                static_cast<unsigned long long>(key.low));
  return text.data();
}

std::optional<Key> to_key(const std::string& text) {
  Key key;
  const char* const begin = text.data();
  if (text.size() != 32) return std::nullopt;
  const auto high = std::from_chars(begin, begin + 16, key.high, 16);
  const auto low = std::from_chars(begin + 16, begin + 32, key.low, 16);
  if (high.ptr != begin + 16 || low.ptr != begin + 32) return std::nullopt;
  return key;
}

Key key_of_task(std::string_view function, const std::string& version, ByteView args, std::uint64_t dep_mask,
                std::span<const ByteView> deps) {
  Digest digest;
  digest.add("task");
  digest.add(function);
  digest.add(version);
  digest.add(args);
  digest.add(ByteView(reinterpret_cast<const std::byte*>(&dep_mask), sizeof dep_mask));
  for (const ByteView& dep : deps) digest.add(dep);
  return digest.key();
}

Key key_of_actor(std::string_view klass, const std::string& name) {
  Digest digest;
  digest.add("actor");
  digest.add(klass);
  digest.add(name);
  return digest.key();
}

Key key_of_name(const std::string& name) {
  Digest digest;
  digest.add("name");
  digest.add(name);
  return digest.key();
}

Journal::Journal(std::string folder) : folder_(std::move(folder)) {}

Journal::~Journal() {
  if (file_ >= 0) close(file_);
  if (lock_ >= 0) close(lock_);
}

void Journal::take() {
  try {
    fs::create_directories(results_of(folder_));
    fs::create_directories(values_of(folder_));
    lock_ = try_lock(folder_);
    if (lock_ < 0) {
      throw ConfigError("mobula: bad setting journal: " + folder_ + " is in use by another job (" + holder_of(folder_) +
                        ")");
    }
    take_all(folder_);
  } catch (const ConfigError&) {
    throw;
  } catch (const std::exception& e) {
    throw ConfigError("mobula: bad setting journal: the folder " + folder_ + " can't be used: " + e.what());
  }
}

bool Journal::find(const Key& key, Buffer& value) {
  try {
    Record record;
    Buffer copy;
    {
      const std::lock_guard lock(reading_);
      if (unreadable_) return false;
      if (book_ == nullptr) book_ = std::make_unique<Book>(book_of(folder_), Book::Use::read);
      const auto found = book_->find(key);
      if (!found) return false;
      record = *found;
      copy = Buffer(record.value);
      record.value = copy.view();
    }
    const bool good = read_value(folder_, record, value);
    if (!good) core::log_warn("the journal's value " + to_string(key) + " is damaged or gone: its task runs again");
    return good;
  } catch (const std::exception& e) {
    const std::lock_guard lock(reading_);
    if (!std::exchange(unreadable_, true)) warn(e.what());
    return false;
  }
}

void Journal::warn(const std::string& what) {
  core::log_warn("the journal in " + folder_ + " can't be used here any more, and the job goes on without: " + what +
                 "; it must be on a file system that all ranks see, with room");
}

bool Journal::add(Entry entry, ByteView value, bool now) {
  entry.made = core::system_seconds();
  entry.size = value.size();
  try {
    Record record{std::move(entry), digest_of(value), value.size() > kInline, value};
    if (record.in_file) {
      const std::string name = file_of(folder_, record.entry.key);
      const std::string part = name + "-" + std::to_string(getpid()) + "-" +
                               std::to_string(reinterpret_cast<std::uintptr_t>(&record)) + ".part";
      {
        File file(part, O_WRONLY | O_CREAT | O_TRUNC);
        const int to = file.release();
        try {
          write_all(to, value);
        } catch (...) {
          close(to);
          unlink(part.c_str());
          throw;
        }
        if (now) fdatasync(to);
        close(to);
      }
      fs::rename(part, name);
      record.value = {};
    }
    Buffer bytes;
    Header header;
    bytes.append(&header, sizeof header);
    core::WireWriter out(bytes);
    out(record);
    const ByteView payload = bytes.view().subspan(sizeof header);
    header.size = static_cast<std::uint32_t>(payload.size());
    header.digest = digest_of(payload);
    std::memcpy(bytes.data(), &header, sizeof header);
    return append(bytes, now);
  } catch (const std::exception& e) {
    const std::lock_guard lock(writing_);
    if (!std::exchange(unwritable_, true)) warn(e.what());
    return false;
  }
}

void Journal::keep(const std::string& name, Buffer value) {
  Entry entry;
  entry.key = key_of_name(name);
  entry.name = name;
  if (!add(std::move(entry), value.view(), true)) {
    throw Error("mobula::keep: the journal in " + folder_ + " can't be written");
  }
  const std::lock_guard lock(writing_);
  names_[name] = std::move(value);
}

bool Journal::kept(const std::string& name, Buffer& value) {
  {
    const std::lock_guard lock(writing_);
    if (const auto found = names_.find(name); found != names_.end()) {
      value = Buffer(found->second.view());
      return true;
    }
  }
  return find(key_of_name(name), value);
}

bool Journal::append(const Buffer& record, bool now) {
  const std::lock_guard lock(writing_);
  if (unwritable_) return false;
  if (file_ < 0) {
    const auto stamp = std::chrono::system_clock::now().time_since_epoch().count();
    const std::string path = results_of(folder_) + "/" + std::to_string(stamp) + "-" + core::host_name() + "-" +
                             std::to_string(getpid()) + ".log";
    file_ = File(path, O_WRONLY | O_CREAT | O_EXCL | O_APPEND).release();
  }
  // One write: a process that is killed leaves it whole, or cut off as the last of its file.
  write_all(file_, record.view());
  if (now) fdatasync(file_);
  return true;
}

Reader::Reader(std::string folder, bool change) : folder_(std::move(folder)) {
  if (!fs::exists(book_of(folder_))) throw Error("mobula: there is no journal in " + folder_);
  lock_ = try_lock(folder_);
  in_use_ = lock_ < 0;
  if (in_use_ && change) throw Error("mobula: the journal is in use by " + holder_of(folder_));
  if (!in_use_) take_all(folder_);
  book_ = std::make_unique<Book>(book_of(folder_), in_use_ ? Book::Use::read : Book::Use::write);
}

Reader::~Reader() {
  if (lock_ >= 0) close(lock_);
}

void Reader::for_each(const std::function<void(const Entry&)>& visit) { book_->for_each(visit); }

bool Reader::find(const Key& key, Entry& entry, Buffer& value) {
  const auto record = book_->find(key);
  if (!record || !read_value(folder_, *record, value)) return false;
  entry = record->entry;
  return true;
}

void Reader::remove(const Key& key) {
  book_->remove(key);
  fs::remove(file_of(folder_, key));
}

}  // namespace mobula::journal
