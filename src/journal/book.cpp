#include "journal/book.hpp"

#include <sqlite3.h>

#include <cstring>

#include "mobula/error.hpp"

namespace mobula::journal {
namespace {

std::string as_uri(const std::string& path) {
  std::string uri = "file:";
  for (const char c : path) {
    if (c == '%') {
      uri += "%25";
    } else if (c == '?') {
      uri += "%3f";
    } else if (c == '#') {
      uri += "%23";
    } else {
      uri += c;
    }
  }
  return uri;
}

}  // namespace

class Book::Statement {
 public:
  Statement(const Book& book, const char* text) : book_(book) {
    if (sqlite3_prepare_v2(book.db_, text, -1, &statement_, nullptr) != SQLITE_OK) book.fail("its table can't be used");
  }
  ~Statement() { sqlite3_finalize(statement_); }
  Statement(const Statement&) = delete;
  Statement& operator=(const Statement&) = delete;

  void bind(int at, const Key& key) { bind(at, ByteView(reinterpret_cast<const std::byte*>(&key), sizeof key)); }
  void bind(int at, ByteView bytes) {
    if (bytes.empty()) {
      sqlite3_bind_zeroblob(statement_, at, 0);  // NULL means that a file has it
      return;
    }
    sqlite3_bind_blob64(statement_, at, bytes.data(), bytes.size(), SQLITE_TRANSIENT);
  }
  void bind(int at, const std::string& text) {
    sqlite3_bind_text(statement_, at, text.data(), static_cast<int>(text.size()), SQLITE_TRANSIENT);
  }
  void bind(int at, double number) { sqlite3_bind_double(statement_, at, number); }
  void bind(int at, std::uint64_t number) { sqlite3_bind_int64(statement_, at, static_cast<std::int64_t>(number)); }
  void bind_null(int at) { sqlite3_bind_null(statement_, at); }

  // To the next row; false: there is none.
  bool step() {
    const int result = sqlite3_step(statement_);
    if (result != SQLITE_ROW && result != SQLITE_DONE) book_.fail("it can't be read or written");
    return result == SQLITE_ROW;
  }
  void reset() { sqlite3_reset(statement_); }

  bool is_null(int column) const { return sqlite3_column_type(statement_, column) == SQLITE_NULL; }
  ByteView bytes(int column) const {
    const auto* at = static_cast<const std::byte*>(sqlite3_column_blob(statement_, column));
    return {at, static_cast<std::size_t>(sqlite3_column_bytes(statement_, column))};
  }
  std::string text(int column) const {
    const ByteView all = bytes(column);
    return {reinterpret_cast<const char*>(all.data()), all.size()};
  }
  double real(int column) const { return sqlite3_column_double(statement_, column); }
  std::uint64_t whole(int column) const { return static_cast<std::uint64_t>(sqlite3_column_int64(statement_, column)); }
  Entry entry() const {
    Entry entry;
    if (const ByteView key = bytes(0); key.size() == sizeof entry.key)
      std::memcpy(&entry.key, key.data(), sizeof entry.key);
    entry.function = text(1);
    entry.name = text(2);
    entry.version = text(3);
    entry.made = real(4);
    entry.seconds = real(5);
    entry.size = whole(6);
    return entry;
  }

 private:
  const Book& book_;
  sqlite3_stmt* statement_ = nullptr;
};

Book::Book(const std::string& path, Use use) : path_(path) {
  // Nobody writes while others read: no locks are needed, which some file systems don't have.
  const std::string name = use == Use::read ? as_uri(path) + "?immutable=1" : path;
  const int flags =
      use == Use::read ? SQLITE_OPEN_READONLY | SQLITE_OPEN_URI : SQLITE_OPEN_READWRITE | SQLITE_OPEN_CREATE;
  try {
    if (sqlite3_open_v2(name.c_str(), &db_, flags | SQLITE_OPEN_NOMUTEX, nullptr) != SQLITE_OK)
      fail("it can't be opened");
    if (use == Use::write) {
      execute(
          "CREATE TABLE IF NOT EXISTS results (key BLOB PRIMARY KEY, function TEXT, name TEXT, version TEXT, made "
          "REAL, "
          "seconds REAL, size INTEGER, digest INTEGER, value BLOB)");
      put_ = std::make_unique<Statement>(
          *this,
          "INSERT INTO results VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9) ON CONFLICT (key) DO UPDATE SET "
          "name = ?3, made = ?5, seconds = ?6, size = ?7, digest = ?8, value = ?9 WHERE ?5 >= made");
    }
    find_ = std::make_unique<Statement>(
        *this, "SELECT key, function, name, version, made, seconds, size, digest, value FROM results WHERE key = ?1");
  } catch (...) {
    put_.reset();
    sqlite3_close(db_);
    throw;
  }
}

Book::~Book() {
  put_.reset();
  find_.reset();
  sqlite3_close(db_);
}

void Book::fail(const std::string& what) const {
  throw Error("mobula: the journal's book " + path_ + ": " + what + ": " +
              (db_ != nullptr ? sqlite3_errmsg(db_) : "there is no memory"));
}

void Book::execute(const char* text) {
  if (sqlite3_exec(db_, text, nullptr, nullptr, nullptr) != SQLITE_OK) fail("it can't be written");
}

void Book::begin() { execute("BEGIN"); }
void Book::commit() { execute("COMMIT"); }

void Book::put(const Record& record) {
  const Entry& entry = record.entry;
  put_->bind(1, entry.key);
  put_->bind(2, entry.function);
  put_->bind(3, entry.name);
  put_->bind(4, entry.version);
  put_->bind(5, entry.made);
  put_->bind(6, entry.seconds);
  put_->bind(7, entry.size);
  put_->bind(8, record.digest);
  if (record.in_file) {
    put_->bind_null(9);
  } else {
    put_->bind(9, record.value);
  }
  put_->step();
  put_->reset();
}

std::optional<Record> Book::find(const Key& key) {
  find_->reset();
  find_->bind(1, key);
  if (!find_->step()) return std::nullopt;
  Record record;
  record.entry = find_->entry();
  record.digest = find_->whole(7);
  record.in_file = find_->is_null(8);
  record.value = find_->bytes(8);
  return record;
}

void Book::remove(const Key& key) {
  Statement statement(*this, "DELETE FROM results WHERE key = ?1");
  statement.bind(1, key);
  statement.step();
}

void Book::for_each(const std::function<void(const Entry&)>& visit) {
  Statement statement(*this,
                      "SELECT key, function, name, version, made, seconds, size FROM results ORDER BY made, key");
  while (statement.step()) visit(statement.entry());
}

}  // namespace mobula::journal
