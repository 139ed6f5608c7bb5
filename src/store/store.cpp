#include "store/store.hpp"

#include <algorithm>

#include "core/error.hpp"
#include "core/mark.hpp"

namespace mobula::store {

namespace {

constexpr std::size_t kStepLeast = 1 << 20;  // bytes by which a segment grows
constexpr std::size_t kStepMost = 64 << 20;

// The owner of bytes that lie in another rank's segment.
class Borrowed final : public detail::Memory {
 public:
  void release(std::byte*, std::size_t) noexcept override {}
};
Borrowed g_borrowed;

// Bytes of the segment that a value takes.
std::size_t footprint(std::size_t size) {
  return (size + Store::kLead + Allocator::kAlign - 1) / Allocator::kAlign * Allocator::kAlign;
}

std::string in_bytes(std::size_t n) {
  static constexpr const char* kUnits[] = {" bytes", " KiB", " MiB", " GiB", " TiB"};
  std::size_t unit = 0;
  double value = static_cast<double>(n);
  for (; value >= 1024 && unit < 4; ++unit) value /= 1024;
  std::string text = std::to_string(value);
  return text.substr(0, unit == 0 ? text.find('.') : text.find('.') + 2) + kUnits[unit];
}

// Makes room for n elements, in steps that double.
template <class T>
void grow_to(std::vector<T>& elements, std::size_t n) {
  if (elements.capacity() < n) elements.reserve(std::max(n, 2 * elements.capacity()));
}

}  // namespace

Store::Store(Settings settings) : settings_(std::move(settings)), allocator_(settings_.memory.size()) {}

Store::~Store() = default;

bool Store::contains(const std::byte* at) const {
  return at >= settings_.memory.data() && at < settings_.memory.data() + settings_.memory.size();
}

void Store::release(std::byte* data, std::size_t) noexcept {
  const std::lock_guard lock(back_lock_);
  freed_.push_back(data);
  back_any_.store(true, std::memory_order_relaxed);
}

void Store::drain() {
  if (!back_any_.load(std::memory_order_relaxed)) return;
  std::vector<std::byte*> freed;
  std::vector<Loan> ended;
  {
    const std::lock_guard lock(back_lock_);
    freed = freed_;
    ended = ended_;
    freed_.clear();
    ended_.clear();
    back_any_.store(false, std::memory_order_relaxed);
  }
  rooms_out_ -= freed.size();
  loans_out_ -= ended.size();
  for (const std::byte* data : freed) {
    allocator_.free(static_cast<std::size_t>(data - settings_.memory.data()) - kLead);
  }
  for (const Loan& loan : ended) loan_ended(loan);
  ++changes_;
}

// ---- room --------------------------------------------------------------------------------------------------------

Store::Verdict Store::take(std::size_t n, Room& room) {
  drain();
  if (allocator_.capacity() < kLead || n > allocator_.capacity() - kLead) return Verdict::never;
  const std::size_t size = n + kLead;
  std::optional<std::size_t> offset = allocator_.allocate(size);
  if (!offset) {
    const std::size_t missing = allocator_.shortfall(size);
    if (allocator_.grown() + missing <= allocator_.capacity()) {
      allocator_.grow(std::max(missing, std::clamp(allocator_.grown() / 8, kStepLeast, kStepMost)));
      offset = allocator_.allocate(size);
    }
  }
  if (!offset) {
    reopen();
    const bool coming = evict(size);
    drain();
    offset = allocator_.allocate(size);
    if (!offset) return coming ? Verdict::later : Verdict::never;
  }
  {
    const std::lock_guard lock(back_lock_);
    grow_to(freed_, ++rooms_out_);
  }
  std::byte* const at = settings_.memory.data() + *offset;
  room.buffer = Buffer(at + kLead, n, *this);
  const std::size_t end = *offset + size;
  const std::size_t from = std::max(committed_, *offset);
  room.cold = from < end ? settings_.memory.subspan(from, end - from) : std::span<std::byte>();
  return Verdict::given;
}

void Store::committed(std::span<std::byte> cold) {
  if (cold.empty()) return;
  committed_ = std::max(committed_, static_cast<std::size_t>(cold.data() + cold.size() - settings_.memory.data()));
}

void Store::refused(Room&& room) {
  MOBULA_CHECK(contains(room.buffer.data()), "room is of the segment");
  MOBULA_MARK("store: there are no pages");
  committed(room.cold);  // what lies before it is good; the room itself is kept back
  closed_.push_back(std::move(room.buffer));
}

// Memory may have become free on the machine since.
void Store::reopen() {
  std::erase_if(closed_, [this](Buffer& closed) {
    return settings_.commit(std::span(closed.data() - kLead, closed.capacity() + kLead));
  });
  drain();
}

Store::Way Store::way_of(const Entry& entry) const {
  if (entry.value == nullptr || !entry.lent.expired() || entry.role == Role::mapped || entry.writing != 0 ||
      !contains(entry.value->data())) {
    return Way::none;
  }
  if (!entry.pins.empty()) return entry.recalled ? Way::none : Way::at_once;
  return entry.role == Role::copy || entry.file != 0 ? Way::at_once : Way::by_writing;
}

void Store::unlist(Entry& entry) {
  if (entry.way != Way::none) candidates_.at(static_cast<std::size_t>(entry.way)).erase(entry.place);
  entry.way = Way::none;
}

void Store::list(ObjectId id, Entry& entry) {
  const Way way = way_of(entry);
  if (way == entry.way) return;
  unlist(entry);
  entry.way = way;
  if (way == Way::none) return;
  Candidates& candidates = candidates_.at(static_cast<std::size_t>(way));
  entry.place = candidates.insert(candidates.end(), id);
  entry.since = ++listed_;
}

// Makes room of n bytes, of what was not used for longest first. True if some is there now or on its way.
bool Store::evict(std::size_t n) {
  Candidates& at_once = candidates_.at(static_cast<std::size_t>(Way::at_once));
  Candidates& by_writing = candidates_.at(static_cast<std::size_t>(Way::by_writing));
  const bool writes = settings_.spills && scratch_error_.empty();
  const auto since = [this](const Candidates& candidates) { return entries_.at(candidates.front()).since; };
  std::size_t coming = writing_;
  bool any = writing_ != 0;
  while (coming < n) {
    const bool may_write = writes && !by_writing.empty();
    if (at_once.empty() && !may_write) break;
    const bool writes_next = at_once.empty() || (may_write && since(by_writing) < since(at_once));
    const ObjectId id = (writes_next ? by_writing : at_once).front();
    const auto found = entries_.find(id);
    Entry& entry = found->second;
    ++looks_;
    any = true;
    coming += footprint(entry.size);
    if (!entry.pins.empty()) {
      MOBULA_MARK("store: pins are recalled");
      entry.recalled = true;
      for (const RankId rank : entry.pins) news_.recalls.emplace_back(rank, id);
      news_any_ = true;
    } else if (entry.role == Role::copy) {
      drop_copy(found);
      continue;
    } else if (entry.file != 0) {
      ++counts_.evictions;
      entry.value.reset();
    } else {
      entry.writing = ++last_file_;
      writing_ += footprint(entry.size);
      orders_.push_back(Write{id, entry.writing, entry.value});
    }
    list(id, entry);
  }
  return any;
}

std::string Store::why_full(std::size_t asked, const std::function<bool(ObjectId)>& held) const {
  const StoreUse now = use();
  std::string text = "no room for " + in_bytes(asked) + " in the object store of this rank: of its " +
                     in_bytes(now.capacity) + ", " + in_bytes(now.used) + " are used and " + in_bytes(now.pinned) +
                     " are in use by views, tasks and transfers";
  if (asked + kLead > allocator_.capacity()) {
    text += "; the value is larger than the whole segment: give ranks more with --mobula-store=SIZE, or divide it";
    return text;
  }
  if (!closed_.empty()) text += "; the machine has no memory left for more pages of it (see the size of /dev/shm)";
  if (!settings_.spills) text += "; nothing is written to files, since there is no scratch folder";
  if (!scratch_error_.empty()) text += "; values can't be written to files: " + scratch_error_;
  text += ". Holders of the largest values:";
  for (const Item& item : largest(5)) {
    text += " " + core::to_string(item.id) + " (" + in_bytes(item.size);
    text += held(item.id) ? ", Refs on this rank" : ", Refs elsewhere";
    if (item.in_use) text += ", in use on this rank";
    for (const RankId rank : item.pins) text += ", read by rank " + std::to_string(rank);
    text += ")";
  }
  text += ". Let go of Refs and Views that are not needed, or raise --mobula-store";
  return text;
}

// ---- values ------------------------------------------------------------------------------------------------------

Store::Entry& Store::insert(ObjectId id, ValuePtr value, std::size_t size, Role role) {
  Entry& entry = entries_[id];
  entry.value = std::move(value);
  entry.size = size;
  entry.role = role;
  if (role != Role::mapped && !contains(entry.value->data())) MOBULA_MARK("store: a value lies beside the segment");
  if (role != Role::mapped && !contains(entry.value->data())) beside_.push_back(id);
  return entry;
}

ValuePtr Store::add(ObjectId id, ValuePtr value, Role role) {
  const auto found = entries_.find(id);
  if (found != entries_.end() && role == Role::own && found->second.role == Role::mapped) {
    erase(id);
  } else if (found != entries_.end()) {
    // What was made again may be here already, of the rank that is lost: readers may be looking at it.
    Entry& entry = found->second;
    if (role == Role::own) entry.role = role;
    if (entry.value == nullptr) {
      if (std::exchange(entry.reading, false)) {
        news_.restored.push_back(id);
        news_any_ = true;
      }
      if (!contains(value->data())) beside_.push_back(id);
      entry.value = std::move(value);
    }
    list(id, entry);
    return lend(id, entry);
  }
  const std::size_t size = value->size();
  return lend(id, insert(id, std::move(value), size, role));
}

void Store::add_mapped(ObjectId id, RankId from, std::uint64_t offset, std::size_t size) {
  const ByteView segment = settings_.segment_of(from);
  if (offset > segment.size() || size > segment.size() - offset) {
    detail::throw_damaged("a value is to lie beyond the memory of its rank");
  }
  if (entries_.contains(id)) {  // it came twice: one pin is enough
    MOBULA_MARK("store: a value of the node comes twice");
    news_.unpins.emplace_back(from, id);
    news_any_ = true;
    return;
  }
  auto* at = const_cast<std::byte*>(segment.data()) + offset;
  auto value = std::make_shared<Buffer>(at, size, g_borrowed);
  value->extend(size);
  insert(id, std::move(value), size, Role::mapped).from = from;
}

// ---- loans

ValuePtr Store::lend(ObjectId id, Entry& entry) {
  if (ValuePtr lent = entry.lent.lock()) return lent;
  {
    const std::lock_guard lock(back_lock_);
    grow_to(ended_, ++loans_out_);
  }
  entry.loan = ++last_loan_;
  const Loan loan{id, entry.loan};
  // The value itself is let go of first: by its end the loan has no more to do with it.
  auto end = [this, loan, value = entry.value](const Buffer*) mutable noexcept {
    value.reset();
    const std::lock_guard lock(back_lock_);
    ended_.push_back(loan);
    back_any_.store(true, std::memory_order_relaxed);
  };
  ValuePtr lent(entry.value.get(), std::move(end));
  entry.lent = lent;
  list(id, entry);
  return lent;
}

void Store::loan_ended(const Loan& loan) {
  if (const auto left = leaving_.find(loan.number); left != leaving_.end()) {
    news_.unpins.emplace_back(left->second.from, left->second.id);
    news_any_ = true;
    leaving_.erase(left);
    return;
  }
  const auto found = entries_.find(loan.id);
  if (found != entries_.end() && found->second.loan == loan.number) unused(found);
}

void Store::unused(Entries::iterator found) {
  Entry& entry = found->second;
  if (entry.role == Role::mapped) {
    if (entry.recalled) give_up(found);
    return;
  }
  if (entry.value != nullptr && entry.writing == 0 && !contains(entry.value->data())) {
    // What lies beside the segment goes where it can be had again.
    if (entry.role == Role::copy) {
      drop_copy(found);
      return;
    }
    if (entry.file != 0) entry.value.reset();
  }
  list(found->first, entry);
}

void Store::give_up(Entries::iterator found) {
  news_.unpins.emplace_back(found->second.from, found->first);
  news_any_ = true;
  entries_.erase(found);
}

void Store::drop_copy(Entries::iterator found) {
  ++counts_.evictions;
  MOBULA_MARK("store: a copy is dropped");
  news_.dropped_copies.push_back(found->first);
  news_any_ = true;
  unlist(found->second);
  entries_.erase(found);
}

ValuePtr Store::find(ObjectId id) {
  const auto found = entries_.find(id);
  if (found == entries_.end() || found->second.value == nullptr) return nullptr;
  return lend(id, found->second);
}

std::optional<std::size_t> Store::size_of(ObjectId id) const {
  const auto found = entries_.find(id);
  return found != entries_.end() ? std::optional(found->second.size) : std::nullopt;
}

void Store::want(ObjectId id) {
  const auto found = entries_.find(id);
  if (found == entries_.end() || found->second.value != nullptr || found->second.reading) return;
  found->second.reading = true;
  if (!try_read(id, found->second)) waiting_reads_.push_back(id);
}

bool Store::try_read(ObjectId id, Entry& entry) {
  Room room;
  switch (take(entry.size, room)) {
    case Verdict::later: return false;
    case Verdict::never: break;  // everything is in use: better beside the segment than never
    case Verdict::given: break;
  }
  if (room.buffer.data() == nullptr) room.buffer.reserve(entry.size);
  orders_.push_back(Read{id, entry.file, std::make_shared<Buffer>(std::move(room.buffer)), room.cold, entry.size});
  return true;
}

void Store::erase(ObjectId id) {
  const auto found = entries_.find(id);
  if (found == entries_.end()) return;
  if (found->second.role == Role::mapped && found->second.lent.expired()) {
    give_up(found);
    return;
  }
  unlist(found->second);
  Entry entry = std::move(found->second);
  entries_.erase(found);
  if (entry.role == Role::mapped) {
    leaving_[entry.loan] = {id, entry.from, std::move(entry.value)};
    return;
  }
  if (entry.writing != 0) writing_ -= footprint(entry.size);
  if (entry.file != 0) {
    orders_.push_back(Remove{entry.file});
    scratch_error_.clear();  // there is room again
  }
  if (!entry.pins.empty()) {
    if (!entry.recalled) {
      for (const RankId rank : entry.pins) news_.recalls.emplace_back(rank, id);
      news_any_ = true;
    }
    MOBULA_MARK("store: a value is erased while others read it");
    Doomed& doomed = doomed_[id];
    doomed.values.push_back(std::move(entry.value));
    doomed.pins.insert(doomed.pins.end(), entry.pins.begin(), entry.pins.end());
  }
}

void Store::keep(ObjectId id) {
  const auto found = entries_.find(id);
  if (found == entries_.end() || found->second.role != Role::copy) return;
  found->second.role = Role::own;
  list(id, found->second);
}

void Store::pin(ObjectId id, RankId rank) {
  Entry& entry = entries_.at(id);
  entry.pins.push_back(rank);
  entry.recalled = false;
  list(id, entry);
}

void Store::unpin(ObjectId id, RankId rank) {
  const auto take_one = [rank](std::vector<RankId>& pins) {
    if (const auto at = std::find(pins.begin(), pins.end(), rank); at != pins.end()) pins.erase(at);
  };
  if (const auto gone = doomed_.find(id); gone != doomed_.end()) {
    take_one(gone->second.pins);
    if (gone->second.pins.empty()) doomed_.erase(gone);
  } else if (const auto found = entries_.find(id); found != entries_.end()) {
    take_one(found->second.pins);
    list(id, found->second);
  }
  ++changes_;
}

void Store::let_go(ObjectId id) {
  const auto found = entries_.find(id);
  if (found == entries_.end() || found->second.role != Role::mapped) return;
  found->second.recalled = true;
  if (found->second.lent.expired()) give_up(found);
}

void Store::rank_lost(RankId rank) {
  std::vector<ObjectId> mapped;
  for (auto& [id, entry] : entries_) {
    if (std::erase(entry.pins, rank) != 0) list(id, entry);
    if (entry.role == Role::mapped && entry.from == rank) mapped.push_back(id);
  }
  for (const ObjectId& id : mapped) let_go(id);
  for (auto it = doomed_.begin(); it != doomed_.end();) {
    std::erase(it->second.pins, rank);
    it = it->second.pins.empty() ? doomed_.erase(it) : std::next(it);
  }
  ++changes_;
  step();
}

// ---- orders ------------------------------------------------------------------------------------------------------

void Store::written(ObjectId id, FileNumber file, const std::string& error) {
  ++changes_;
  const auto found = entries_.find(id);
  if (found == entries_.end() || found->second.writing != file) {  // its value is gone, and so may the file be
    MOBULA_MARK("store: a value is erased while it is written");
    if (error.empty()) orders_.push_back(Remove{file});
    return;
  }
  Entry& entry = found->second;
  entry.writing = 0;
  writing_ -= footprint(entry.size);
  if (error.empty()) {
    entry.file = file;
    ++counts_.spills;
    if (entry.lent.expired() && entry.pins.empty()) entry.value.reset();
  } else {
    MOBULA_MARK("store: a value can't be written");
    scratch_error_ = error;
  }
  list(id, entry);
}

void Store::was_read(ObjectId id, FileNumber file, std::shared_ptr<Buffer> value, const std::string& error) {
  ++changes_;
  const auto found = entries_.find(id);
  if (found == entries_.end() || found->second.file != file || !std::exchange(found->second.reading, false)) return;
  news_any_ = true;
  if (!error.empty()) {
    news_.broken.emplace_back(id, error);
    return;
  }
  ++counts_.restores;
  if (!contains(value->data())) beside_.push_back(id);
  found->second.value = std::move(value);
  list(id, found->second);
  news_.restored.push_back(id);
}

Store::News Store::take_news() {
  news_any_ = false;
  return std::exchange(news_, {});
}

void Store::step() {
  drain();
  for (const ObjectId& id : std::exchange(beside_, {})) {
    const auto found = entries_.find(id);
    if (found != entries_.end() && found->second.lent.expired()) unused(found);
  }
  constexpr std::size_t kMostTries = 16;
  for (std::size_t tries = std::min(kMostTries, waiting_reads_.size()); tries != 0; --tries) {
    const ObjectId id = waiting_reads_.front();
    waiting_reads_.pop_front();
    const auto found = entries_.find(id);
    const bool waits = found != entries_.end() && found->second.reading && found->second.value == nullptr;
    if (waits && !try_read(id, found->second)) waiting_reads_.push_back(id);
  }
}

// ---- for people --------------------------------------------------------------------------------------------------

std::size_t Store::used() const {
  std::size_t used = allocator_.used();
  for (const Buffer& closed : closed_) used -= footprint(closed.capacity());
  return used;
}

// Some rank of the node reads a value of this one.
bool Store::is_read_elsewhere() const {
  return !doomed_.empty() ||
         std::any_of(entries_.begin(), entries_.end(), [](const auto& entry) { return !entry.second.pins.empty(); });
}

StoreUse Store::use() const {
  StoreUse result = counts_;
  result.capacity = allocator_.capacity();
  result.used = used();
  result.touched = committed_;
  result.largest_free = allocator_.largest_free();
  for (const auto& [id, entry] : entries_) {
    if (entry.role == Role::mapped) continue;
    ++result.objects;
    if (entry.role == Role::copy) ++result.copies;
    if (entry.value == nullptr) {
      result.spilled += entry.size;
    } else if (!entry.lent.expired() || !entry.pins.empty()) {
      result.pinned += entry.size;
    }
  }
  for (const auto& [id, doomed] : doomed_) {
    for (const ValuePtr& value : doomed.values) result.pinned += value != nullptr ? value->size() : 0;
  }
  return result;
}

std::vector<Store::Item> Store::largest(std::size_t n) const {
  std::vector<const std::pair<const ObjectId, Entry>*> all;
  for (const auto& entry : entries_) {
    if (entry.second.role != Role::mapped) all.push_back(&entry);
  }
  n = std::min(n, all.size());
  std::partial_sort(all.begin(), all.begin() + static_cast<std::ptrdiff_t>(n), all.end(),
                    [](const auto* a, const auto* b) {
                      return std::tie(b->second.size, a->first) < std::tie(a->second.size, b->first);
                    });
  std::vector<Item> items;
  for (std::size_t i = 0; i < n; ++i) {
    const auto& [id, entry] = *all[i];
    items.push_back({id, entry.size, entry.value != nullptr, !entry.lent.expired(), entry.pins});
  }
  return items;
}

std::string Store::describe() const {
  std::string text;
  const auto add = [&text](ObjectId id, const char* what, bool in_file, bool in_use, const std::vector<RankId>& pins) {
    text += core::to_string(id) + ": " + what + (in_file ? ", in a file" : "") + (in_use ? ", in use" : "");
    for (const RankId rank : pins) text += ", read by rank " + std::to_string(rank);
    text += "; ";
  };
  static constexpr const char* kRoles[] = {"made here", "a copy", "mapped"};
  for (const auto& [id, entry] : entries_) {
    add(id, kRoles[static_cast<int>(entry.role)], entry.value == nullptr, !entry.lent.expired(), entry.pins);
  }
  for (const auto& [id, doomed] : doomed_) add(id, "removed", false, false, doomed.pins);
  for (const auto& [loan, leaving] : leaving_) add(leaving.id, "mapped and removed", false, true, {});
  return text;
}

void Store::check_invariants() const {
  allocator_.check_invariants();
  std::size_t writing = 0;
  std::size_t listed = 0;
  for (const auto& [id, entry] : entries_) {
    MOBULA_CHECK(entry.value != nullptr || entry.file != 0, "a value is in memory or in a file");
    MOBULA_CHECK(entry.pins.empty() || entry.value != nullptr, "what others read stays in memory");
    if (entry.writing != 0) writing += footprint(entry.size);
    if (entry.way != Way::none) {
      ++listed;
      MOBULA_CHECK(entry.way == way_of(entry) && *entry.place == id, "what is listed may go in that way");
    } else {
      MOBULA_CHECK(way_of(entry) == Way::none || back_any_.load(), "what may go is listed, once that is known");
    }
  }
  std::size_t candidates = 0;
  for (const Candidates& some : candidates_) candidates += some.size();
  MOBULA_CHECK(listed == candidates, "what is gone is not listed");
  MOBULA_CHECK(writing == writing_, "bytes on their way into files are counted");
}

}  // namespace mobula::store
