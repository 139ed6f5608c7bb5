// What one rank knows of objects: its handles, and the values it holds.
//
// A Record stands for a span of ids. Spans that this rank minted have one record each: `singles` for tasks and puts one
// by one (kSingles ids each), and one for each batch. An object of another rank has a record of its own, made when its
// first handle comes. Handles are counted by any thread, without the rank's lock; all else happens under it. A value is
// immutable once its element is ready; a small one stays where it is while a handle lives, and is read without the
// lock.
//
// Who tells the head what: an element is *tracked* when the head keeps a count for it (it was passed on, stays at
// another rank, or belongs to another rank). Of a tracked element the head is told when the last handle here goes
// (Drop) and when a first one comes (Hold), and the value stays until the head says Free. Of the rest the head knows
// that the owner holds them, until it is told that the whole span is gone.
//
// Values that are too large to travel inline are the Store's, which may move them out of memory: they are looked up
// there, under the lock, and kept by their ValuePtr.
#pragma once

#include <atomic>
#include <memory>
#include <mutex>
#include <unordered_map>
#include <utility>
#include <vector>

#include "core/error.hpp"
#include "core/messages.hpp"
#include "mobula/detail/codec.hpp"
#include "mobula/detail/core.hpp"
#include "mobula/detail/handle.hpp"
#include "store/store.hpp"

namespace mobula::store {

using core::ErrorPtr;
using detail::Buffer;
using detail::ByteView;
using detail::Handle;
using detail::ObjectId;
using detail::RankId;
using detail::Record;
using detail::SpanId;

class ObjectTable;

// Where one element stands. Of a packed record only what is not an inline value has one. Threads read it without the
// lock: what is ready changes only to an error. A large value is one that does not travel inline: the store has it, of
// this rank or another.
struct Slot {
  enum class Kind : std::uint8_t { none, small, block, error, large };
  static constexpr std::size_t kSmall = 21;

  Slot() = default;
  Slot(const Slot&) = delete;
  Slot& operator=(const Slot&) = delete;
  ~Slot() { clear(); }
  void clear();
  // Of a slot that is empty or large: to what has been written to it.
  void become(Kind to) { kind.store(to, std::memory_order_release); }

  std::atomic<Kind> kind{Kind::none};  // written last
  bool secret = false;                 // made here, and the head was not told
  std::uint8_t length = 0;             // small
  std::byte small[kSmall];
  union {
    ValuePtr* block;
    ErrorPtr* error;
    RankId at;  // large: the rank in whose store it is, as far as is known
    std::uint64_t none = 0;
  };
};

// Told when an element becomes ready, or when the value of one that was ready elsewhere has come here; of a whole
// batch, when all of its elements are ready. It is told once for each time that it watches. Used under the rank's lock.
class Watcher {
 public:
  virtual ~Watcher() = default;
  // Must not change who watches.
  virtual void ready(std::size_t position) = 0;
};

// The same for all elements of a record, a stretch at a time, each element once. It must leave the table as it is.
class Follower {
 public:
  virtual ~Follower() = default;
  virtual void came(std::uint32_t begin, std::uint32_t n) = 0;
};

}  // namespace mobula::store

namespace mobula::detail {

class Record {
 public:
  static constexpr std::uint32_t kWhole = 0xffff'ffff;  // the index that stands for a batch handle

  Record(store::ObjectTable& table, SpanId id, bool mine, std::uint32_t base, std::uint32_t per_chunk,
         std::uint32_t packed)
      : table(table), id(id), mine(mine), base(base), per_chunk(per_chunk), packed(packed) {}

  // Of one element. `next`: the element of this record that was dropped before it, while it waits to be drained; so
  // that dropping a handle needs no memory.
  struct Held {
    static constexpr std::uint32_t kNotDropped = 0xffff'ffff;
    static constexpr std::uint32_t kLast = 0xffff'fffe;
    std::atomic<std::uint32_t> refs{0};
    std::uint32_t next = kNotDropped;  // guarded by the table's drop_lock_
  };
  struct Chunk {
    explicit Chunk(std::uint32_t n) : ready(std::make_unique<std::atomic<std::uint64_t>[]>((n + 63) / 64)) {}
    ~Chunk() {
      delete[] held.load();
      delete[] slots.load();
    }
    std::unique_ptr<std::atomic<std::uint64_t>[]> ready;
    std::atomic<Held*> held{nullptr};          // made with the first handle
    std::unique_ptr<std::byte[]> values;       // packed ones
    std::atomic<store::Slot*> slots{nullptr};  // made with the first element that needs one
  };

  std::uint32_t count() const { return count_; }
  bool ready(std::uint32_t index) const {
    const std::uint32_t i = index - base;
    return (chunks_[i / per_chunk]->ready[i % per_chunk / 64].load(std::memory_order_acquire) >> (i % per_chunk % 64) &
            1) != 0;
  }
  std::atomic<std::uint32_t>& refs(std::uint32_t index) { return held(index).refs; }
  // The bytes of a ready element that is not large. Errors are thrown. nullopt if it is large.
  std::optional<ByteView> value(std::uint32_t index) const;
  // The first n values of a packed record, all of them ready and here. Throws the first error.
  void copy_packed(std::uint32_t n, std::byte* to) const;
  const store::Slot* slot(std::uint32_t index) const;  // nullptr if it has none

  store::ObjectTable& table;
  const SpanId id;
  const bool mine;
  const std::uint32_t base;
  const std::uint32_t per_chunk;
  const std::uint32_t packed;             // bytes of each inline value, or kVariable
  std::atomic<std::uint32_t> batches{0};  // batch handles
  std::atomic<std::uint32_t> live{
      0};  // elements with handles, and batch handles as one, and drops that wait to be handled
  std::atomic<std::uint32_t> ready_count{0};

 private:
  friend class store::ObjectTable;
  Held& held(std::uint32_t index);
  // Drops that wait to be drained, guarded by the table's drop_lock_: elements, the whole, and the record with such
  // that came before.
  std::uint32_t last_dropped_ = Held::kLast;
  bool whole_dropped_ = false;
  bool any_dropped_ = false;
  Record* next_dropped_ = nullptr;
  std::vector<std::unique_ptr<Chunk>> chunks_;
  std::uint32_t count_ = 0;
  bool minting_ = false;                             // more ids may come
  bool known_ = false;                               // the head knows of the span
  std::uint32_t large_ = 0;                          // elements that are large values
  std::uint32_t draining_ = 0;                       // drops that are being handled
  std::unordered_map<std::uint32_t, bool> tracked_;  // index -> the head counts a hold of this rank
  std::unordered_multimap<std::uint32_t, std::pair<store::Watcher*, std::size_t>> watchers_;
  std::vector<store::Follower*> followers_;
  std::uint32_t noticing_ = 0;  // how many want to know which of these nobody wants
};

}  // namespace mobula::detail

namespace mobula::store {

class ObjectTable {
 public:
  static constexpr std::uint32_t kSingles = 256;
  static constexpr std::uint32_t kChunk = 1024;

  ObjectTable(RankId rank, Store& store) : rank_(rank), store_(store) {}
  ~ObjectTable();

  RankId rank() const { return rank_; }
  Store& store() { return store_; }

  // The next id of this rank, with one handle counted.
  Handle mint();
  Record* new_batch(std::uint32_t packed);
  void append(Record& record, std::uint32_t n);  // n more elements
  void close(Record& record) { record.minting_ = false; }

  // A handle to any object, by id. Under the rank's lock.
  Handle handle_of(ObjectId id);
  // The record of an object, if this rank has one.
  Record* find(ObjectId id);

  // Results. Ignored where nobody holds the element any more.
  void set_packed(Record& record, std::uint32_t begin, std::uint32_t n, const std::byte* values);
  void set_value(Record& record, std::uint32_t index, ByteView value);
  void set_block(Record& record, std::uint32_t index, ValuePtr value);
  void set_error(Record& record, std::uint32_t index, ErrorPtr error);
  // False if nobody wants it, or it is here already.
  bool set_large(Record& record, std::uint32_t index, RankId at);
  // The value as a block of its own; nullptr if it is not in this rank's memory.
  ValuePtr value_of(const Record& record, std::uint32_t index);
  bool is_held(ObjectId id);  // there are handles to it here
  // The element is ready, and its value or error is here.
  bool is_here(const Record& record, std::uint32_t index);

  // The head counts this element from now on.
  void track(Record& record, std::uint32_t index);
  // The same for one that the head counts from its making on, though nobody may hold it here any more.
  void track_made(Record& record, std::uint32_t index);
  // An object of a singles record that this rank made by itself; `take` says whether it was, and ends it.
  void set_secret(Record& record, std::uint32_t index);
  bool take_secret(Record& record, std::uint32_t index);
  bool is_tracked(const Record& record, std::uint32_t index) const { return record.tracked_.contains(index); }
  void know(Record& record) { record.known_ = true; }
  void free(ObjectId id);

  // `index`: of an element, or Record::kWhole for all.
  static void watch(Record& record, std::uint32_t index, Watcher& watcher, std::size_t position = 0);
  static void unwatch(Record& record, std::uint32_t index, const Watcher& watcher);
  static bool is_watched(const Record& record, std::uint32_t index) { return record.watchers_.contains(index); }
  // It has failed since its task ran longer than it was to.
  static bool timed_out(const Record& record, std::uint32_t index) {
    if (!record.ready(index)) return false;
    const Slot* slot = record.slot(index);
    return slot != nullptr && slot->kind == Slot::Kind::error && (*slot->error)->kind == core::ErrorKind::timed_out;
  }
  // Tells those who watch the element.
  static void tell(Record& record, std::uint32_t index);
  // Each record must be unfollowed as long as it is there.
  void follow(Record& record, Follower& follower) { record.followers_.push_back(&follower); }
  void unfollow(Record& record, Follower& follower) { std::erase(record.followers_, &follower); }
  // How many of the n elements from `begin` on are ready.
  static std::uint32_t count_ready(const Record& record, std::uint32_t begin, std::uint32_t n);
  // Whether those of them that are ready are values of one size, side by side; false where that takes long to say.
  static bool are_packed(const Record& record, std::uint32_t begin, std::uint32_t n);
  // The bytes of n ready elements, if they are; otherwise nullptr.
  static const std::byte* packed_at(const Record& record, std::uint32_t begin, std::uint32_t n);

  // Has `take_unwanted` name each element of the record that nobody wants any more, neither by a handle here nor at the
  // head; as often as it is asked for.
  void notice_unwanted(Record& record) { ++record.noticing_; }
  void ignore_unwanted(Record& record) { --record.noticing_; }
  bool is_wanted(ObjectId id);
  bool has_unwanted() const { return !unwanted_.empty(); }
  std::vector<ObjectId> take_unwanted() { return std::exchange(unwanted_, {}); }

  // The head counted one hold of this rank more than it was told of.
  void drop_extra(ObjectId id) { unsaid_.drops.push_back(id); }

  // Handles the drops since the last call; what the head must be told is added to `tell`.
  void drain(core::Holds& tell);
  bool has_drops() const {
    return dropped_any_.load(std::memory_order_relaxed) || !unsaid_.holds.empty() || !unsaid_.drops.empty() ||
           !unsaid_.spans.empty();
  }

  bool has_holds() const { return !unsaid_.holds.empty(); }

  // Called by handles, on any thread.
  static void release_last(Record& record, std::uint32_t index);

  std::string describe() const;  // what is left, for people
  std::size_t records() const { return mine_.size() + foreign_.size(); }

 private:
  friend class detail::Record;
  void make_ready(Record& record, std::uint32_t index);
  static void tell_range(Record& record, std::uint32_t begin, std::uint32_t n);
  Slot& slot_at(Record& record, std::uint32_t index);
  Slot& slot_to_fill(Record& record, std::uint32_t index);
  bool wanted(Record& record, std::uint32_t index);
  bool is_settled(const Record& record, std::uint32_t index) const;
  void clear_slot(Record& record, std::uint32_t index);
  void unheld(Record& record, std::uint32_t index);
  bool settle(Record& record);
  struct Drop {
    Record* record;
    std::uint32_t index;
  };
  std::size_t next_drops(std::span<Drop> drops);

  const RankId rank_;
  Store& store_;
  std::uint64_t next_span_ = 1;
  Record* singles_ = nullptr;
  std::unordered_map<SpanId, std::unique_ptr<Record>> mine_;
  std::unordered_map<ObjectId, std::unique_ptr<Record>> foreign_;
  core::Holds unsaid_;
  std::vector<ObjectId> unwanted_;

  // Drops that wait to be drained.
  std::mutex drop_lock_;
  Record* last_dropped_ = nullptr;  // guarded by drop_lock_
  std::atomic<bool> dropped_any_{false};
};

// A watch that begins with `again` and ends with this.
class Watch {
 public:
  Watch(Record& record, std::uint32_t index, Watcher& watcher) : record_(record), index_(index), watcher_(watcher) {}
  ~Watch() { ObjectTable::unwatch(record_, index_, watcher_); }
  Watch(const Watch&) = delete;
  Watch& operator=(const Watch&) = delete;
  // To be called anew after it was told.
  void again() {
    ObjectTable::unwatch(record_, index_, watcher_);
    ObjectTable::watch(record_, index_, watcher_);
  }

 private:
  Record& record_;
  std::uint32_t index_;
  Watcher& watcher_;
};

}  // namespace mobula::store
