// The book of a journal: a table in an SQLite file. Throws Error.
#pragma once

#include <functional>
#include <memory>
#include <optional>
#include <string>

#include "journal/journal.hpp"

namespace mobula::journal {

// A result with its value, or with the digest of the file that has it.
struct Record {
  Entry entry;
  std::uint64_t digest = 0;  // of the value
  bool in_file = false;
  ByteView value;
  template <class V>
  void fields(V&& visit) {
    entry.fields(visit);
    visit(digest, in_file, value);
  }
};

class Book {
 public:
  enum class Use : std::uint8_t { read, write };
  // For reading: nobody writes meanwhile.
  Book(const std::string& path, Use use);
  ~Book();
  Book(const Book&) = delete;
  Book& operator=(const Book&) = delete;

  void begin();
  void commit();
  // The newer one of a key stays.
  void put(const Record& record);
  // The view is valid until the next call.
  std::optional<Record> find(const Key& key);
  void remove(const Key& key);
  void for_each(const std::function<void(const Entry&)>& visit);

 private:
  class Statement;
  [[noreturn]] void fail(const std::string& what) const;
  void execute(const char* text);

  std::string path_;
  sqlite3* db_ = nullptr;
  std::unique_ptr<Statement> put_;
  std::unique_ptr<Statement> find_;
};

}  // namespace mobula::journal
