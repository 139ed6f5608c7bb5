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
//
// Whoever reads a value has it on *loan*: all that have it at one time share one, and its end is heard of. So only what
// may go now is in a list of what may go, and making room looks at nothing else.
#pragma once

#include <array>
#include <atomic>
#include <deque>
#include <functional>
#include <list>
#include <memory>
#include <mutex>
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
    // The segments of all ranks, as this rank sees them; empty for ranks of other nodes.
    std::function<ByteView(RankId)> segment_of = [](RankId) { return ByteView(); };
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
  std::uint64_t changes() const { return changes_ + (back_any_.load(std::memory_order_relaxed) ? 1 : 0); }
  // `held`: whether this rank has Refs to the object.
  std::string why_full(std::size_t asked, const std::function<bool(ObjectId)>& held) const;
  bool contains(const std::byte* at) const;
  void release(std::byte* data, std::size_t capacity) noexcept override;

  // ---- values
  // Adds a value, and lends it. One that is here already stays, as the own one of this rank if either is; a mapped one
  // gives way, and one that is in a file only is in memory again.
  ValuePtr add(ObjectId id, ValuePtr value, Role role);
  // Throws ProtocolError if that is not in the rank's segment.
  void add_mapped(ObjectId id, RankId from, std::uint64_t offset, std::size_t size);
  bool has(ObjectId id) const { return entries_.contains(id); }
  bool is_mapped(ObjectId id) const {
    const auto found = entries_.find(id);
    return found != entries_.end() && found->second.role == Role::mapped;
  }
  bool is_in_memory(ObjectId id) const {
    const auto found = entries_.find(id);
    return found != entries_.end() && found->second.value != nullptr;
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
  bool shares_with(RankId rank) const { return !settings_.segment_of(rank).empty(); }
  std::uint64_t offset_of(const Buffer& value) const {
    return static_cast<std::uint64_t>(value.data() - settings_.memory.data());
  }
  void pin(ObjectId id, RankId rank);
  void unpin(ObjectId id, RankId rank);
  // The owner wants the bytes back: a mapped value goes as soon as nobody uses it.
  void let_go(ObjectId id);
  void rank_lost(RankId rank);

  // ---- orders
  // Each write makes a file of its own, with a number of its own: an object may be made and written again while what
  // was ordered for its first value is still to be done.
  using FileNumber = std::uint64_t;  // 0: none
  struct Write {
    ObjectId id;
    FileNumber file;
    ValuePtr value;
  };
  struct Read {
    ObjectId id;
    FileNumber file;
    std::shared_ptr<Buffer> into;
    std::span<std::byte> cold;
    std::size_t size;
  };
  struct Remove {
    FileNumber file;
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
  // Answers. `error` is empty where all went well.
  void written(ObjectId id, FileNumber file, const std::string& error);
  void was_read(ObjectId id, FileNumber file, std::shared_ptr<Buffer> value, const std::string& error);

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
  // How many values were looked at to make room, so far.
  std::uint64_t looks() const { return looks_; }

 private:
  // What may go now, by how it goes.
  enum class Way : std::uint8_t {
    none,
    at_once,     // copies, what is in a file as well, and what others read and may be asked to give up
    by_writing,  // to a file
  };
  using Candidates = std::list<ObjectId>;  // those that were not used for longest first
  struct Entry {
    ValuePtr value;  // nullptr: in a file only
    std::size_t size = 0;
    Role role = Role::own;
    RankId from = detail::kNoRank;  // of a mapped one
    FileNumber file = 0;
    FileNumber writing = 0;  // the file that it is being written to
    bool reading = false;    // or to be read, as soon as there is room
    bool recalled = false;   // by its owner, if it is mapped; otherwise its pins were asked for
    std::vector<RankId> pins;
    std::weak_ptr<const Buffer> lent;  // to all who have the value now
    std::uint64_t loan = 0;            // the number of the last loan
    Way way = Way::none;               // the list that it is in
    Candidates::iterator place;
    std::uint64_t since = 0;  // when it came to be there, in the order of such events
  };
  struct Loan {
    ObjectId id;
    std::uint64_t number;
  };
  using Entries = std::unordered_map<ObjectId, Entry>;
  // Frees those that are given back, and hears of the ends of loans: mapped values and those beside the segment may go
  // by that, no others.
  void drain();
  // Puts the value into the list where it belongs now. To be called after each change of what `way_of` looks at.
  void list(ObjectId id, Entry& entry);
  Way way_of(const Entry& entry) const;
  ValuePtr lend(ObjectId id, Entry& entry);
  void loan_ended(const Loan& loan);
  // Nobody has the value on loan. Erases it if it is mapped and wanted back, or a copy beside the segment.
  void unused(Entries::iterator found);
  void give_up(Entries::iterator found);
  void drop_copy(Entries::iterator found);
  void unlist(Entry& entry);
  bool evict(std::size_t n);
  void reopen();
  bool try_read(ObjectId id, Entry& entry);
  Entry& insert(ObjectId id, ValuePtr value, std::size_t size, Role role);

  // What comes back, on any thread; outlives the values below, which are given back as they go. There is always room
  // for all that is out, so that giving back can't fail.
  std::mutex back_lock_;
  std::vector<std::byte*> freed_;  // guarded by back_lock_
  std::vector<Loan> ended_;        // guarded by back_lock_
  std::atomic<bool> back_any_{false};
  std::size_t rooms_out_ = 0;
  std::size_t loans_out_ = 0;

  Settings settings_;
  Allocator allocator_;
  std::size_t committed_ = 0;   // bytes from the start of the segment that have pages
  std::vector<Buffer> closed_;  // room that could not be committed
  Entries entries_;
  std::array<Candidates, 3> candidates_;  // by Way
  std::uint64_t listed_ = 0;              // values that came to be in one of them, so far
  std::uint64_t looks_ = 0;
  std::uint64_t last_loan_ = 0;
  FileNumber last_file_ = 0;
  struct Doomed {
    std::vector<ValuePtr> values;  // several if the object was made again
    std::vector<RankId> pins;
  };
  std::unordered_map<ObjectId, Doomed> doomed_;  // erased while pinned
  struct Leaving {
    ObjectId id;
    RankId from;
    ValuePtr value;
  };
  // Mapped values that were erased, by their loan: their pins are given up at its end.
  std::unordered_map<std::uint64_t, Leaving> leaving_;
  std::deque<ObjectId> waiting_reads_;
  std::vector<ObjectId> beside_;  // values that came to the heap, for want of room, since the last step
  std::vector<Order> orders_;
  std::size_t writing_ = 0;  // bytes on their way into files
  std::string scratch_error_;
  News news_;
  bool news_any_ = false;
  std::uint64_t changes_ = 0;
  StoreUse counts_;
};

}  // namespace mobula::store
