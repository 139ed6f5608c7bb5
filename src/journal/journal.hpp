// Results that outlive the job. The folder of a journal has the book (book.db, SQLite), in which is what earlier jobs
// left; results/, where each rank of the job that runs adds to a file of its own; and values/, a file for each large
// value. A rank writes down what a task gave before anyone hears of it, so what has been seen is never made again. A
// job starts by taking the files of the ranks before it into the book, to which nobody writes from then on: the ranks
// read it without locks, on any file system that all of them see. A record that was not written to its end, or that is
// damaged, counts as none.
//
// What a rank has written outlives the process, whatever ends it; the system has it on the disk some seconds later.
#pragma once

#include <compare>
#include <cstdint>
#include <functional>
#include <map>
#include <memory>
#include <mutex>
#include <optional>
#include <span>
#include <string>
#include <string_view>

#include "mobula/detail/codec.hpp"

struct sqlite3;
struct sqlite3_stmt;

namespace mobula::journal {

using detail::Buffer;
using detail::ByteView;

// The digest by which a result is found: of what made it.
struct Key {
  std::uint64_t high = 0;
  std::uint64_t low = 0;
  auto operator<=>(const Key&) const = default;
};
std::string to_string(const Key& key);  // 32 hexadecimal digits
std::optional<Key> to_key(const std::string& text);

// Of a task: its function, what its user calls the version of that, and its arguments as they travel, of which those
// in `dep_mask` are the bytes of `deps`.
Key key_of_task(std::string_view function, const std::string& version, ByteView args, std::uint64_t dep_mask,
                std::span<const ByteView> deps);
Key key_of_actor(std::string_view klass, const std::string& name);
Key key_of_name(const std::string& name);

// What is known of a result besides its value.
struct Entry {
  Key key;
  std::string function;  // "" of what was kept by name
  std::string name;
  std::string version;
  double made = 0;     // when, in seconds of the system's clock
  double seconds = 0;  // that it took
  std::uint64_t size = 0;
  template <class V>
  void fields(V&& visit) {
    visit(key.high, key.low, function, name, version, made, seconds, size);
  }
};

class Book;

// A rank's side. Called by several threads.
class Journal {
 public:
  explicit Journal(std::string folder);
  ~Journal();

  // Made if it is not there. Takes it for this process until its end, and earlier jobs' results into the book. On the
  // head, before other ranks use the folder. Throws ConfigError where another job has it, or it can't be used.
  void take();
  // A result of an earlier job; false: there is none. Warns and finds nothing where the folder can't be read.
  bool find(const Key& key, Buffer& value);
  // Adds a result: `made` and `size` are filled in. Where it can't it warns, and the job goes on without. `now`: on the
  // disk before this returns.
  bool add(Entry entry, ByteView value, bool now = false);
  // The same by name; what this job has kept is found too. Throws Error where it can't be written.
  void keep(const std::string& name, Buffer value);
  bool kept(const std::string& name, Buffer& value);

 private:
  bool append(const Buffer& record, bool now);
  void warn(const std::string& what);

  std::string folder_;
  std::mutex reading_;
  std::unique_ptr<Book> book_;
  bool unreadable_ = false;
  std::mutex writing_;
  std::map<std::string, Buffer> names_;
  int lock_ = -1;
  int file_ = -1;
  bool unwritable_ = false;
};

// The folder as people look at it. Throws Error.
class Reader {
 public:
  // `change`: takes it, as a job does; otherwise what a running job adds is not seen.
  Reader(std::string folder, bool change);
  ~Reader();
  bool in_use() const { return in_use_; }
  void for_each(const std::function<void(const Entry&)>& visit);
  bool find(const Key& key, Entry& entry, Buffer& value);
  void remove(const Key& key);

 private:
  std::string folder_;
  std::unique_ptr<Book> book_;
  int lock_ = -1;
  bool in_use_ = false;
};

}  // namespace mobula::journal
