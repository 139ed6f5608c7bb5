#include "store/store.hpp"

#include <algorithm>

#include "core/error.hpp"

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

}  // namespace

Store::Store(Settings settings) : settings_(std::move(settings)), allocator_(settings_.memory.size()) {}

Store::~Store() = default;

bool Store::contains(const std::byte* at) const {
  return at >= settings_.memory.data() && at < settings_.memory.data() + settings_.memory.size();
}

void Store::release(std::byte* data, std::size_t) noexcept {
  while (freed_lock_.test_and_set(std::memory_order_acquire)) {
  }
  freed_.push_back(data);
  freed_any_.store(true, std::memory_order_relaxed);
  freed_lock_.clear(std::memory_order_release);
}

void Store::drain() {
  if (!freed_any_.load(std::memory_order_relaxed)) return;
  std::vector<std::byte*> freed;
  while (freed_lock_.test_and_set(std::memory_order_acquire)) {
  }
  freed.swap(freed_);
  freed_any_.store(false, std::memory_order_relaxed);
  freed_lock_.clear(std::memory_order_release);
  for (const std::byte* data : freed) {
    allocator_.free(static_cast<std::size_t>(data - settings_.memory.data()) - kLead);
  }
  ++changes_;
}

// ---- room --------------------------------------------------------------------------------------------------------

Store::Verdict Store::take(std::size_t n, Room& room) {
  drain();
  const std::size_t size = n + kLead;
  if (size > allocator_.capacity()) return Verdict::never;
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

bool Store::is_idle(const Entry& entry) const {
  return entry.value != nullptr && entry.value.use_count() == 1 && entry.role != Role::mapped && !entry.writing &&
         contains(entry.value->data());
}

// Makes room of n bytes, least recently used values first. True if some is there now or on its way.
bool Store::evict(std::size_t n) {
  std::size_t coming = writing_;
  bool any = writing_ != 0;
  for (auto it = uses_.begin(); it != uses_.end() && coming < n;) {
    const ObjectId id = *it;
    ++it;  // the entry may go
    Entry& entry = entries_.at(id);
    if (!is_idle(entry)) continue;
    if (!entry.pins.empty()) {
      if (entry.recalled) continue;
      entry.recalled = true;
      for (const RankId rank : entry.pins) news_.recalls.emplace_back(rank, id);
      news_any_ = true;
    } else if (entry.role == Role::copy) {
      ++counts_.evictions;
      news_.dropped_copies.push_back(id);
      news_any_ = true;
      uses_.erase(entry.use);
      coming += footprint(entry.size);
      entries_.erase(id);
      any = true;
      continue;
    } else if (entry.in_file) {
      ++counts_.evictions;
      entry.value.reset();
    } else if (settings_.spills && scratch_error_.empty()) {
      entry.writing = true;
      writing_ += footprint(entry.size);
      orders_.push_back(Write{id, entry.value});
    } else {
      continue;
    }
    coming += footprint(entry.size);
    any = true;
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
  entry.use = uses_.insert(uses_.end(), id);
  return entry;
}

void Store::add(ObjectId id, ValuePtr value, Role role) {
  // What was made again may be here already, of the rank that is lost: readers may be looking at it.
  if (const auto found = entries_.find(id); found != entries_.end()) {
    if (role != Role::own) return;
    if (found->second.role != Role::mapped) {
      found->second.role = Role::own;
      return;
    }
    erase(id);
  }
  const std::size_t size = value->size();
  if (!contains(value->data())) beside_.push_back(id);
  insert(id, std::move(value), size, role);
}

void Store::add_mapped(ObjectId id, RankId from, std::uint64_t offset, std::size_t size) {
  if (entries_.contains(id)) {  // it came twice: one pin is enough
    news_.unpins.emplace_back(from, id);
    news_any_ = true;
    return;
  }
  auto* at = const_cast<std::byte*>(settings_.segment_of(from)) + offset;
  auto value = std::make_shared<Buffer>(at, size, g_borrowed);
  value->extend(size);
  insert(id, std::move(value), size, Role::mapped).from = from;
}

ValuePtr Store::find(ObjectId id) {
  const auto found = entries_.find(id);
  if (found == entries_.end() || found->second.value == nullptr) return nullptr;
  uses_.splice(uses_.end(), uses_, found->second.use);
  return found->second.value;
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
  orders_.push_back(Read{id, std::make_shared<Buffer>(std::move(room.buffer)), room.cold, entry.size});
  return true;
}

void Store::erase(ObjectId id) {
  const auto found = entries_.find(id);
  if (found == entries_.end()) return;
  Entry entry = std::move(found->second);
  uses_.erase(entry.use);
  entries_.erase(found);
  if (entry.role == Role::mapped) {
    leaving_.push_back({id, entry.from, std::move(entry.value)});
    step();
    return;
  }
  if (entry.writing) writing_ -= footprint(entry.size);
  if (entry.in_file) {
    orders_.push_back(Remove{id});
    scratch_error_.clear();  // there is room again
  }
  if (!entry.pins.empty()) {
    if (!entry.recalled) {
      for (const RankId rank : entry.pins) news_.recalls.emplace_back(rank, id);
      news_any_ = true;
    }
    doomed_[id] = {std::move(entry.value), std::move(entry.pins)};
  }
}

void Store::keep(ObjectId id) {
  const auto found = entries_.find(id);
  if (found != entries_.end() && found->second.role == Role::copy) found->second.role = Role::own;
}

void Store::pin(ObjectId id, RankId rank) {
  Entry& entry = entries_.at(id);
  entry.pins.push_back(rank);
  entry.recalled = false;
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
  }
  ++changes_;
}

void Store::let_go(ObjectId id) {
  const auto found = entries_.find(id);
  if (found == entries_.end() || found->second.role != Role::mapped) return;
  recalled_.push_back(id);
  step();
}

void Store::rank_lost(RankId rank) {
  for (auto& [id, entry] : entries_) {
    std::erase(entry.pins, rank);
    if (entry.role == Role::mapped && entry.from == rank) recalled_.push_back(id);
  }
  for (auto it = doomed_.begin(); it != doomed_.end();) {
    std::erase(it->second.pins, rank);
    it = it->second.pins.empty() ? doomed_.erase(it) : std::next(it);
  }
  ++changes_;
  step();
}

// ---- orders ------------------------------------------------------------------------------------------------------

void Store::written(ObjectId id, const std::string& error) {
  ++changes_;
  const auto found = entries_.find(id);
  if (found == entries_.end() || !found->second.writing) {
    if (error.empty()) orders_.push_back(Remove{id});
    return;
  }
  Entry& entry = found->second;
  entry.writing = false;
  writing_ -= footprint(entry.size);
  if (!error.empty()) {
    scratch_error_ = error;
    return;
  }
  entry.in_file = true;
  ++counts_.spills;
  if (entry.value.use_count() == 1 && entry.pins.empty()) entry.value.reset();
}

void Store::was_read(ObjectId id, std::shared_ptr<Buffer> value, const std::string& error) {
  ++changes_;
  const auto found = entries_.find(id);
  if (found == entries_.end()) return;
  found->second.reading = false;
  news_any_ = true;
  if (!error.empty()) {
    news_.broken.emplace_back(id, error);
    return;
  }
  ++counts_.restores;
  if (!contains(value->data())) beside_.push_back(id);
  found->second.value = std::move(value);
  uses_.splice(uses_.end(), uses_, found->second.use);
  news_.restored.push_back(id);
}

Store::News Store::take_news() {
  news_any_ = false;
  return std::exchange(news_, {});
}

void Store::step() {
  drain();
  for (std::size_t i = 0; i < recalled_.size();) {
    const ObjectId id = recalled_[i];
    const auto found = entries_.find(id);
    const bool mapped = found != entries_.end() && found->second.role == Role::mapped;
    if (mapped && found->second.value.use_count() != 1) {
      ++i;
      continue;
    }
    recalled_[i] = recalled_.back();
    recalled_.pop_back();
    if (mapped) {
      leaving_.push_back({id, found->second.from, std::move(found->second.value)});
      uses_.erase(found->second.use);
      entries_.erase(found);
    }
  }
  std::erase_if(leaving_, [this](const Leaving& leaving) {
    if (leaving.value.use_count() != 1) return false;
    news_.unpins.emplace_back(leaving.from, leaving.id);
    news_any_ = true;
    return true;
  });
  // What lies beside the segment goes as soon as nobody uses it, where it can be had again.
  std::erase_if(beside_, [this](const ObjectId& id) {
    const auto found = entries_.find(id);
    if (found == entries_.end() || found->second.value == nullptr) return true;
    Entry& entry = found->second;
    if (entry.value.use_count() != 1 || entry.writing) return false;
    if (entry.role == Role::copy) {
      ++counts_.evictions;
      news_.dropped_copies.push_back(id);
      news_any_ = true;
      uses_.erase(entry.use);
      entries_.erase(found);
      return true;
    }
    if (!entry.in_file) return false;
    entry.value.reset();
    return true;
  });
  if (waiting_reads_.empty()) return;
  std::vector<ObjectId> waiting = std::move(waiting_reads_);
  waiting_reads_.clear();
  for (const ObjectId& id : waiting) {
    const auto found = entries_.find(id);
    if (found != entries_.end() && !try_read(id, found->second)) waiting_reads_.push_back(id);
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
    } else if (entry.value.use_count() > 1 || !entry.pins.empty()) {
      result.pinned += entry.size;
    }
  }
  for (const auto& [id, doomed] : doomed_) result.pinned += doomed.value != nullptr ? doomed.value->size() : 0;
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
    items.push_back({id, entry.size, entry.value != nullptr, entry.value.use_count() > 1, entry.pins});
  }
  return items;
}

std::string Store::describe() const {
  std::string text;
  const auto add = [&text](ObjectId id, const char* what, const ValuePtr& value, const std::vector<RankId>& pins) {
    text += core::to_string(id) + ": " + what + (value == nullptr ? ", in a file" : "");
    if (value != nullptr && value.use_count() > 1) text += ", in use";
    for (const RankId rank : pins) text += ", read by rank " + std::to_string(rank);
    text += "; ";
  };
  static constexpr const char* kRoles[] = {"made here", "a copy", "mapped"};
  for (const auto& [id, entry] : entries_) add(id, kRoles[static_cast<int>(entry.role)], entry.value, entry.pins);
  for (const auto& [id, doomed] : doomed_) add(id, "removed", doomed.value, doomed.pins);
  for (const Leaving& leaving : leaving_) add(leaving.id, "mapped and removed", leaving.value, {});
  return text;
}

void Store::check_invariants() const {
  allocator_.check_invariants();
  MOBULA_CHECK(uses_.size() == entries_.size(), "each value has its place in the order of use");
  std::size_t writing = 0;
  for (const auto& [id, entry] : entries_) {
    MOBULA_CHECK(entry.value != nullptr || entry.in_file, "a value is in memory or in a file");
    MOBULA_CHECK(entry.pins.empty() || entry.value != nullptr, "what others read stays in memory");
    if (entry.writing) writing += footprint(entry.size);
  }
  MOBULA_CHECK(writing <= writing_, "bytes on their way into files are counted");
}

}  // namespace mobula::store
