// The large values of one rank: those that do not travel inline. They lie in the rank's segment, which the other ranks
// of the node read in place, or, when it is full, in files.
//
// Pure like the reactors: what takes long (making pages, reading and writing files) goes out as orders, which a thread
// of the executor carries out and answers. Used under the rank's lock, but for `release`, which any thread calls.
//
// A value is there as long as its entry is, and its bytes stay where they are while anyone has the ValuePtr or a pin:
// a *pin* is a rank of this node that reads the bytes in place. What nobody uses may be evicted: copies are dropped,
// values that were made here are written to a file first. A value that was removed while it is pinned waits for the
// pins, so that late readers never see other bytes.
#pragma once

#include <atomic>
#include <functional>
#include <list>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <unordered_map>
#include <variant>
#include <vector>

#include "core/messages.hpp"
#include "mobula/detail/codec.hpp"
#include "mobula/detail/handle.hpp"
#include "mobula/detail/ids.hpp"
#include "mobula/store.hpp"
#include "store/allocator.hpp"

namespace mobula::store {

using detail::Buffer;
using detail::ByteView;
using detail::ObjectId;
using detail::RankId;

using ValuePtr = std::shared_ptr<const Buffer>;

class Store final : public detail::Memory {
 public:
  // Encoded sequences begin with their length: this puts their elements at a multiple of the alignment.
  static constexpr std::size_t kLead = Allocator::kAlign - sizeof(std::uint64_t);

  struct Settings {
    std::span<std::byte> memory;  // of this rank's segment: reserved, not touched, aligned to pages
    // Where the segments of all ranks begin, as this rank sees them; nullptr for ranks of other nodes.
    std::function<const std::byte*(RankId)> segment_of = [](RankId) { return nullptr; };
    bool spills = false;
    // Makes pages usable; false where there is no memory for them.
    std::function<bool(std::span<std::byte>)> commit = [](std::span<std::byte>) { return true; };
  };
  explicit Store(Settings settings);
  ~Store();

  enum class Role : std::uint8_t {
    own,     // made here: never dropped without a file
    copy,    // of a value of another node; the head knows
    mapped,  // lies in the segment of another rank of this node, where it is pinned for us
  };

  // ---- room for values
  enum class Verdict : std::uint8_t { given, later, never };
  struct Room {
    Buffer buffer;                // empty, with the capacity asked for
    std::span<std::byte> cold{};  // the part that is to be committed before it is written
  };
  // `later`: try again when `changes` has moved; `never`: nothing can be evicted or spilled.
  Verdict take(std::size_t n, Room& room);
  // Pages up to the end of the span are usable now, or can't be had: then the room is closed for good.
  void committed(std::span<std::byte> cold);
  void refused(Room&& room);
  // One or the other. The room is empty after a refusal.
  void settle(Room& room, bool good) {
    if (good) {
      committed(room.cold);
    } else {
      refused(std::exchange(room, {}));
    }
  }
  const std::function<bool(std::span<std::byte>)>& commit() const { return settings_.commit; }
  std::uint64_t changes() const { return changes_ + (freed_any_.load(std::memory_order_relaxed) ? 1 : 0); }
  // `held`: whether this rank has Refs to the object.
  std::string why_full(std::size_t asked, const std::function<bool(ObjectId)>& held) const;
  bool contains(const std::byte* at) const;
  void release(std::byte* data, std::size_t capacity) noexcept override;

  // ---- values
  // Adds a value. One that is here already stays, as the own one of this rank if either is; a mapped one gives way.
  void add(ObjectId id, ValuePtr value, Role role);
  void add_mapped(ObjectId id, RankId from, std::uint64_t offset, std::size_t size);
  bool has(ObjectId id) const { return entries_.contains(id); }
  bool is_mapped(ObjectId id) const {
    const auto found = entries_.find(id);
    return found != entries_.end() && found->second.role == Role::mapped;
  }
  // The value, if its bytes are in memory.
  ValuePtr find(ObjectId id);
  // Sees to it that a value that is in a file comes back: it is among `restored` then.
  void want(ObjectId id);
  void erase(ObjectId id);
  // A copy becomes the value itself.
  void keep(ObjectId id);
  std::optional<std::size_t> size_of(ObjectId id) const;

  // ---- pins of other ranks of the node
  bool shares_with(RankId rank) const { return settings_.segment_of(rank) != nullptr; }
  std::uint64_t offset_of(const Buffer& value) const {
    return static_cast<std::uint64_t>(value.data() - settings_.memory.data());
  }
  void pin(ObjectId id, RankId rank);
  void unpin(ObjectId id, RankId rank);
  // The owner wants the bytes back: a mapped value goes as soon as nobody uses it.
  void let_go(ObjectId id);
  void rank_lost(RankId rank);

  // ---- orders
  struct Write {
    ObjectId id;
    ValuePtr value;
  };
  struct Read {
    ObjectId id;
    std::shared_ptr<Buffer> into;
    std::span<std::byte> cold;
    std::size_t size;
  };
  struct Remove {
    ObjectId id;
  };
  // Makes pages usable, for whoever took the room. Answered to that one, after `committed` or `refused`.
  struct Prepare {
    std::uint64_t token;
    std::span<std::byte> cold;
  };
  using Order = std::variant<Write, Read, Remove, Prepare>;
  void prepare(std::uint64_t token, std::span<std::byte> cold) { orders_.emplace_back(Prepare{token, cold}); }
  std::vector<Order> take_orders() { return std::exchange(orders_, {}); }
  bool has_orders() const { return !orders_.empty(); }
  // Answers. `error` is empty where all went well; `bytes`: of the file.
  void written(ObjectId id, const std::string& error);
  void was_read(ObjectId id, std::shared_ptr<Buffer> value, const std::string& error);

  // ---- what others must know, since the last call
  struct News {
    std::vector<ObjectId> restored;                        // are in memory again
    std::vector<std::pair<ObjectId, std::string>> broken;  // their file can't be read
    std::vector<ObjectId> dropped_copies;
    std::vector<std::pair<RankId, ObjectId>> unpins;   // to the rank in whose segment the value lies
    std::vector<std::pair<RankId, ObjectId>> recalls;  // pins that the rank should give up
  };
  bool has_news() const { return news_any_; }
  News take_news();
  // Takes in what was given back, lets go of mapped values that were waited for, and serves those who wait for room. To
  // be called now and then.
  void step();

  // ---- for people
  StoreUse use() const;  // without where it is, and what was fetched
  struct Item {
    ObjectId id;
    std::size_t size;
    bool in_memory;
    bool in_use;
    std::vector<RankId> pins;
  };
  std::vector<Item> largest(std::size_t n) const;
  std::size_t size() const { return entries_.size() + doomed_.size() + leaving_.size(); }
  std::size_t used() const;  // bytes of the segment that values take
  std::size_t capacity() const { return allocator_.capacity(); }
  bool is_read_elsewhere() const;
  std::string describe() const;  // what is left, for people
  void check_invariants() const;

 private:
  struct Entry {
    ValuePtr value;  // nullptr: in a file only
    std::size_t size = 0;
    Role role = Role::own;
    RankId from = detail::kNoRank;  // of a mapped one
    bool in_file = false;
    bool writing = false;
    bool reading = false;
    bool recalled = false;  // its pins were asked for
    std::vector<RankId> pins;
    std::list<ObjectId>::iterator use;
  };
  bool is_idle(const Entry& entry) const;
  bool evict(std::size_t n);
  void drain();
  void reopen();
  bool try_read(ObjectId id, Entry& entry);
  Entry& insert(ObjectId id, ValuePtr value, std::size_t size, Role role);

  // Outlive the values below, which are given back as they go.
  std::atomic_flag freed_lock_;
  std::vector<std::byte*> freed_;  // guarded by freed_lock_
  std::atomic<bool> freed_any_{false};

  Settings settings_;
  Allocator allocator_;
  std::size_t committed_ = 0;   // bytes from the start of the segment that have pages
  std::vector<Buffer> closed_;  // room that could not be committed
  std::unordered_map<ObjectId, Entry> entries_;
  std::list<ObjectId> uses_;  // least recently used first
  struct Doomed {
    ValuePtr value;
    std::vector<RankId> pins;
  };
  std::unordered_map<ObjectId, Doomed> doomed_;  // erased while pinned
  struct Leaving {
    ObjectId id;
    RankId from;
    ValuePtr value;
  };
  std::vector<Leaving> leaving_;    // mapped values whose pins are given up once nobody here uses them
  std::vector<ObjectId> recalled_;  // mapped values that their owner wants back
  std::vector<ObjectId> waiting_reads_;
  std::vector<ObjectId> beside_;  // values that came when there was no room: on the heap
  std::vector<Order> orders_;
  std::size_t writing_ = 0;  // bytes on their way into files
  std::string scratch_error_;
  News news_;
  bool news_any_ = false;
  std::uint64_t changes_ = 0;
  StoreUse counts_;
};

}  // namespace mobula::store
