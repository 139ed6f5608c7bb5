#include "store/objects.hpp"

#include <algorithm>
#include <array>
#include <cstring>

namespace mobula::detail {

ObjectId Handle::id() const { return {record_->id, index_}; }

void Handle::acquire() const noexcept { record_->refs(index_).fetch_add(1, std::memory_order_relaxed); }

void Handle::release() const noexcept {
  std::atomic<std::uint32_t>& refs = record_->refs(index_);
  std::uint32_t n = refs.load(std::memory_order_relaxed);
  while (n > 1) {
    if (refs.compare_exchange_weak(n, n - 1, std::memory_order_release, std::memory_order_relaxed)) return;
  }
  store::ObjectTable::release_last(*record_, index_);
}

BatchHandle::BatchHandle(const BatchHandle& other) noexcept : record_(other.record_), count_(other.count_) {
  if (record_ != nullptr) record_->batches.fetch_add(1, std::memory_order_relaxed);
}

BatchHandle::~BatchHandle() {
  if (record_ == nullptr) return;
  std::uint32_t n = record_->batches.load(std::memory_order_relaxed);
  while (n > 1) {
    if (record_->batches.compare_exchange_weak(n, n - 1, std::memory_order_release, std::memory_order_relaxed)) return;
  }
  store::ObjectTable::release_last(*record_, Record::kWhole);
}

Handle BatchHandle::element(std::uint32_t index) const {
  if (index >= count_) throw std::out_of_range("mobula::Batch: no element " + std::to_string(index));
  // The batch's own count keeps the record while the element's goes from 0 to 1.
  if (record_->refs(index).fetch_add(1, std::memory_order_relaxed) == 0) {
    record_->live.fetch_add(1, std::memory_order_relaxed);
  }
  return Handle(record_, index);
}

Record::Held& Record::held(std::uint32_t index) {
  const std::uint32_t i = index - base;
  Chunk& chunk = *chunks_[i / per_chunk];
  Held* held = chunk.held.load(std::memory_order_acquire);
  if (held == nullptr) {
    auto* made = new Held[per_chunk];
    if (chunk.held.compare_exchange_strong(held, made, std::memory_order_acq_rel)) {
      held = made;
    } else {
      delete[] made;
    }
  }
  return held[i % per_chunk];
}

const store::Slot* Record::slot(std::uint32_t index) const {
  const std::uint32_t i = index - base;
  const store::Slot* slots = chunks_[i / per_chunk]->slots.load(std::memory_order_acquire);
  if (slots == nullptr) return nullptr;
  const store::Slot& slot = slots[i % per_chunk];
  return slot.kind.load(std::memory_order_acquire) == store::Slot::Kind::none ? nullptr : &slot;
}

std::optional<ByteView> Record::value(std::uint32_t index) const {
  if (const store::Slot* s = slot(index)) {
    switch (s->kind.load(std::memory_order_acquire)) {
      case store::Slot::Kind::small: return ByteView(s->small, s->length);
      case store::Slot::Kind::block: return (*s->block)->view();
      case store::Slot::Kind::error: core::raise(**s->error);
      default: return std::nullopt;
    }
  }
  if (packed == 0) return ByteView();
  MOBULA_CHECK(packed != kVariable, "a value is read while a handle keeps it");
  const std::uint32_t i = index - base;
  return ByteView(chunks_[i / per_chunk]->values.get() + std::size_t{i % per_chunk} * packed, packed);
}

void Record::copy_packed(std::uint32_t n, std::byte* to) const {
  for (std::uint32_t index = 0; index < n; index += per_chunk) {
    const std::uint32_t here = std::min(n - index, per_chunk);
    const Chunk& chunk = *chunks_[index / per_chunk];
    if (chunk.slots.load(std::memory_order_acquire) == nullptr) {
      if (packed != 0) std::memcpy(to + std::size_t{index} * packed, chunk.values.get(), std::size_t{here} * packed);
      continue;
    }
    for (std::uint32_t i = index; i < index + here; ++i) {
      const std::optional<ByteView> bytes = value(i);
      if (!bytes || bytes->size() != packed) throw_damaged("a result is not of its function's size");
      if (packed != 0) std::memcpy(to + std::size_t{i} * packed, bytes->data(), packed);
    }
  }
}

}  // namespace mobula::detail

namespace mobula::store {

using detail::kVariable;

void Slot::clear() {
  if (kind == Kind::block) delete block;
  if (kind == Kind::error) delete error;
  kind.store(Kind::none, std::memory_order_release);
  secret = false;
}

ObjectTable::~ObjectTable() = default;

Handle ObjectTable::mint() {
  if (singles_ == nullptr || singles_->count_ == kSingles) {
    if (singles_ != nullptr) {
      Record& full = *std::exchange(singles_, nullptr);
      full.minting_ = false;
      settle(full);
    }
    const SpanId id = SpanId::make(rank_, next_span_++);
    auto record = std::make_unique<Record>(*this, id, true, 0, kSingles, kVariable);
    record->chunks_.push_back(std::make_unique<Record::Chunk>(kSingles));
    record->minting_ = true;
    singles_ = record.get();
    mine_.emplace(id, std::move(record));
  }
  const std::uint32_t index = singles_->count_++;
  singles_->refs(index).store(1, std::memory_order_relaxed);
  singles_->live.fetch_add(1, std::memory_order_relaxed);
  return Handle(singles_, index);
}

Record* ObjectTable::new_batch(std::uint32_t packed) {
  const SpanId id = SpanId::make(rank_, next_span_++);
  auto record = std::make_unique<Record>(*this, id, true, 0, kChunk, packed);
  record->minting_ = true;
  record->batches.store(1, std::memory_order_relaxed);
  record->live.store(1, std::memory_order_relaxed);
  Record* raw = record.get();
  mine_.emplace(id, std::move(record));
  return raw;
}

void ObjectTable::append(Record& record, std::uint32_t n) {
  record.count_ += n;
  while (record.chunks_.size() * record.per_chunk < record.count_) {
    record.chunks_.push_back(std::make_unique<Record::Chunk>(record.per_chunk));
  }
}

Record* ObjectTable::find(ObjectId id) {
  if (id.span.owner() == rank_) {
    const auto found = mine_.find(id.span);
    return found != mine_.end() && id.index < found->second->count_ ? found->second.get() : nullptr;
  }
  const auto found = foreign_.find(id);
  return found != foreign_.end() ? found->second.get() : nullptr;
}

Handle ObjectTable::handle_of(ObjectId id) {
  Record* record = find(id);
  if (record == nullptr) {
    if (id.span.owner() == rank_) detail::throw_damaged("it holds a Ref to an object that no longer exists");
    auto made = std::make_unique<Record>(*this, id.span, false, id.index, 1, kVariable);
    made->chunks_.push_back(std::make_unique<Record::Chunk>(1));
    made->count_ = 1;
    made->tracked_[id.index] = false;
    record = made.get();
    foreign_.emplace(id, std::move(made));
  }
  if (record->refs(id.index).fetch_add(1, std::memory_order_relaxed) == 0) {
    record->live.fetch_add(1, std::memory_order_relaxed);
  }
  if (const auto tracked = record->tracked_.find(id.index); tracked != record->tracked_.end() && !tracked->second) {
    tracked->second = true;
    unsaid_.holds.push_back(id);
  }
  return Handle(record, id.index);
}

Slot& ObjectTable::slot_at(Record& record, std::uint32_t index) {
  const std::uint32_t i = index - record.base;
  Record::Chunk& chunk = *record.chunks_[i / record.per_chunk];
  if (chunk.slots.load(std::memory_order_relaxed) == nullptr) {
    chunk.slots.store(new Slot[record.per_chunk], std::memory_order_release);
  }
  return chunk.slots.load(std::memory_order_relaxed)[i % record.per_chunk];
}

// For a value or error of an element that is not settled.
Slot& ObjectTable::slot_to_fill(Record& record, std::uint32_t index) {
  Slot& slot = slot_at(record, index);
  if (slot.kind == Slot::Kind::large) --record.large_;
  return slot;
}

// Nobody here can read the element any more.
void ObjectTable::clear_slot(Record& record, std::uint32_t index) {
  const Slot* slot = record.slot(index);
  if (slot == nullptr) return;
  if (slot->kind == Slot::Kind::large && record.mine) {
    store_.erase({record.id, index});
    --record.large_;
  }
  slot_at(record, index).clear();
}

std::uint32_t ObjectTable::count_ready(const Record& record, std::uint32_t begin, std::uint32_t n) {
  std::uint32_t ready = 0;
  for (std::uint32_t i = begin; i < begin + n;) {
    const std::uint32_t at = i % record.per_chunk;
    const std::uint32_t bits = std::min({64 - at % 64, record.per_chunk - at, begin + n - i});
    const std::uint64_t mask = (bits == 64 ? ~std::uint64_t{0} : (std::uint64_t{1} << bits) - 1) << (at % 64);
    const auto& word = record.chunks_[i / record.per_chunk]->ready[at / 64];
    ready += static_cast<std::uint32_t>(std::popcount(word.load(std::memory_order_relaxed) & mask));
    i += bits;
  }
  return ready;
}

bool ObjectTable::are_packed(const Record& record, std::uint32_t begin, std::uint32_t n) {
  const std::uint32_t i = begin - record.base;
  return record.packed != kVariable && i % record.per_chunk + n <= record.per_chunk &&
         record.chunks_[i / record.per_chunk]->slots.load(std::memory_order_relaxed) == nullptr;
}

const std::byte* ObjectTable::packed_at(const Record& record, std::uint32_t begin, std::uint32_t n) {
  if (!are_packed(record, begin, n)) return nullptr;
  const std::uint32_t i = begin - record.base;
  return record.chunks_[i / record.per_chunk]->values.get() + std::size_t{i % record.per_chunk} * record.packed;
}

// Whether a result still has a reader: a handle here, or someone that the head counts.
bool ObjectTable::wanted(Record& record, std::uint32_t index) {
  if (record.batches.load(std::memory_order_acquire) != 0) return true;
  return record.refs(index).load(std::memory_order_acquire) != 0 || record.tracked_.contains(index);
}

void ObjectTable::make_ready(Record& record, std::uint32_t index) {
  const std::uint32_t i = index - record.base;
  const std::uint64_t bit = std::uint64_t{1} << (i % record.per_chunk % 64);
  auto& word = record.chunks_[i / record.per_chunk]->ready[i % record.per_chunk / 64];
  if ((word.fetch_or(bit, std::memory_order_acq_rel) & bit) == 0) {
    record.ready_count.fetch_add(1, std::memory_order_release);
    for (Follower* follower : record.followers_) follower->came(index, 1);
  }
  if (!record.watchers_.empty()) tell_range(record, index, 1);
}

// A task that ran twice, since the end of its first run was lost with its rank, has the result of the first: readers
// may be looking at it. Only a large value that is not here may turn out to be elsewhere, or lost.
bool ObjectTable::is_settled(const Record& record, std::uint32_t index) const {
  if (!record.ready(index)) return false;
  const Slot* slot = record.slot(index);
  return slot == nullptr || slot->kind != Slot::Kind::large || store_.has({record.id, index});
}

bool ObjectTable::is_here(const Record& record, std::uint32_t index) {
  if (!record.ready(index)) return false;
  const Slot* slot = record.slot(index);
  return slot == nullptr || slot->kind != Slot::Kind::large || store_.is_in_memory({record.id, index});
}

void ObjectTable::set_packed(Record& record, std::uint32_t begin, std::uint32_t n, const std::byte* values) {
  if (n > 1 && record.mine && count_ready(record, begin, n) != 0) {
    for (std::uint32_t i = 0; i < n; ++i) set_packed(record, begin + i, 1, values + std::size_t{i} * record.packed);
    return;
  }
  if (record.ready(begin)) return;
  while (n != 0) {
    Record::Chunk& chunk = *record.chunks_[begin / record.per_chunk];
    const std::uint32_t at = begin % record.per_chunk;
    const std::uint32_t here = std::min(n, record.per_chunk - at);
    if (record.packed != 0) {
      if (chunk.values == nullptr) {
        chunk.values = std::make_unique_for_overwrite<std::byte[]>(std::size_t{record.per_chunk} * record.packed);
      }
      std::memcpy(chunk.values.get() + std::size_t{at} * record.packed, values, std::size_t{here} * record.packed);
      values += std::size_t{here} * record.packed;
    }
    std::uint32_t fresh = 0;
    for (std::uint32_t i = at; i < at + here;) {  // a word at a time
      const std::uint32_t to = std::min((i / 64 + 1) * 64, at + here);
      const std::uint32_t bits = to - i;
      const std::uint64_t mask = (bits == 64 ? ~std::uint64_t{0} : (std::uint64_t{1} << bits) - 1) << (i % 64);
      const std::uint64_t old = chunk.ready[i / 64].fetch_or(mask, std::memory_order_acq_rel);
      fresh += static_cast<std::uint32_t>(std::popcount(mask & ~old));
      i = to;
    }
    record.ready_count.fetch_add(fresh, std::memory_order_release);
    for (Follower* follower : record.followers_) follower->came(begin, here);
    if (!record.watchers_.empty()) tell_range(record, begin, here);
    begin += here;
    n -= here;
  }
}

void ObjectTable::set_value(Record& record, std::uint32_t index, ByteView value) {
  if (is_settled(record, index) || !wanted(record, index)) return;
  if (value.size() > Slot::kSmall) {
    set_block(record, index, std::make_shared<Buffer>(value));
    return;
  }
  Slot& slot = slot_to_fill(record, index);
  slot.length = static_cast<std::uint8_t>(value.size());
  if (!value.empty()) std::memcpy(slot.small, value.data(), value.size());
  slot.become(Slot::Kind::small);
  make_ready(record, index);
}

void ObjectTable::set_block(Record& record, std::uint32_t index, ValuePtr value) {
  if (is_settled(record, index) || !wanted(record, index)) return;
  Slot& slot = slot_to_fill(record, index);
  slot.block = new ValuePtr(std::move(value));
  slot.become(Slot::Kind::block);
  make_ready(record, index);
}

void ObjectTable::set_error(Record& record, std::uint32_t index, ErrorPtr error) {
  if (is_settled(record, index) || !wanted(record, index)) return;
  Slot& slot = slot_to_fill(record, index);
  slot.error = new ErrorPtr(std::move(error));
  slot.become(Slot::Kind::error);
  make_ready(record, index);
}

void ObjectTable::track_made(Record& record, std::uint32_t index) {
  if (record.tracked_.contains(index)) return;
  track(record, index);
  if (record.batches.load(std::memory_order_acquire) == 0 && record.refs(index).load(std::memory_order_acquire) == 0) {
    unheld(record, index);  // dropped before it was made
  }
}

void ObjectTable::set_secret(Record& record, std::uint32_t index) {
  const std::uint32_t i = index - record.base;
  Record::Chunk& chunk = *record.chunks_[i / record.per_chunk];
  if (Slot* slots = chunk.slots.load(std::memory_order_relaxed)) slots[i % record.per_chunk].secret = true;
}

bool ObjectTable::take_secret(Record& record, std::uint32_t index) {
  const std::uint32_t i = index - record.base;
  Record::Chunk& chunk = *record.chunks_[i / record.per_chunk];
  Slot* slots = chunk.slots.load(std::memory_order_relaxed);
  return slots != nullptr && std::exchange(slots[i % record.per_chunk].secret, false);
}

bool ObjectTable::set_large(Record& record, std::uint32_t index, RankId at) {
  if (is_settled(record, index) || !wanted(record, index)) return false;
  if (record.ready(index)) {
    slot_at(record, index).at = at;
    return true;
  }
  ++record.large_;
  Slot& slot = slot_at(record, index);
  slot.at = at;
  slot.become(Slot::Kind::large);
  make_ready(record, index);
  return true;
}

bool ObjectTable::is_wanted(ObjectId id) {
  Record* record = find(id);
  return record != nullptr && wanted(*record, id.index);
}

bool ObjectTable::is_held(ObjectId id) {
  Record* record = find(id);
  return record != nullptr && (record->batches.load() != 0 || record->refs(id.index).load() != 0);
}

ValuePtr ObjectTable::value_of(const Record& record, std::uint32_t index) {
  if (!record.ready(index)) return nullptr;
  if (const Slot* slot = record.slot(index)) {
    if (slot->kind == Slot::Kind::block) return *slot->block;
    if (slot->kind == Slot::Kind::large) return store_.find({record.id, index});
    if (slot->kind != Slot::Kind::small) return nullptr;
  } else if (record.packed == kVariable) {
    return nullptr;  // freed
  }
  return std::make_shared<Buffer>(*record.value(index));
}

void ObjectTable::track(Record& record, std::uint32_t index) {
  record.known_ = true;
  record.tracked_.try_emplace(index, true);
}

void ObjectTable::free(ObjectId id) {
  store_.erase(id);
  Record* record = find(id);
  if (record == nullptr) return;
  record->tracked_.erase(id.index);
  if (record->noticing_ != 0) unwanted_.push_back(id);
  if (record->batches.load() == 0 && record->refs(id.index).load() == 0) clear_slot(*record, id.index);
  settle(*record);
}

void ObjectTable::watch(Record& record, std::uint32_t index, Watcher& watcher, std::size_t position) {
  record.watchers_.emplace(index, std::pair{&watcher, position});
}

void ObjectTable::unwatch(Record& record, std::uint32_t index, const Watcher& watcher) {
  if (record.watchers_.empty()) return;
  const auto [from, to] = record.watchers_.equal_range(index);
  for (auto it = from; it != to;) it = it->second.first == &watcher ? record.watchers_.erase(it) : std::next(it);
}

void ObjectTable::tell(Record& record, std::uint32_t index) {
  const auto [from, to] = record.watchers_.equal_range(index);
  for (auto it = from; it != to; ++it) it->second.first->ready(it->second.second);
  record.watchers_.erase(from, to);
}

// The elements have become ready. Looks at as few as it can: of a large batch few are watched.
void ObjectTable::tell_range(Record& record, std::uint32_t begin, std::uint32_t n) {
  auto& watchers = record.watchers_;
  if (n <= watchers.size()) {
    for (std::uint32_t i = begin; i < begin + n; ++i) tell(record, i);
  } else {
    for (auto it = watchers.begin(); it != watchers.end();) {
      if (it->first < begin || it->first >= begin + n) {
        ++it;
        continue;
      }
      it->second.first->ready(it->second.second);
      it = watchers.erase(it);
    }
  }
  if (record.ready_count.load(std::memory_order_relaxed) == record.count_) tell(record, Record::kWhole);
}

void ObjectTable::release_last(Record& record, std::uint32_t index) {
  using Held = Record::Held;
  ObjectTable& table = record.table;
  const bool is_whole = index == Record::kWhole;
  // Counting down and queueing are one step for `drain`. A record stays while a drop of it is in the queue: `live`
  // still counts that.
  const std::lock_guard lock(table.drop_lock_);
  std::atomic<std::uint32_t>& refs = is_whole ? record.batches : record.refs(index);
  if (refs.fetch_sub(1, std::memory_order_acq_rel) != 1) return;
  if (is_whole ? record.whole_dropped_ : record.held(index).next != Held::kNotDropped) {
    record.live.fetch_sub(1, std::memory_order_relaxed);  // it is in the queue, and once is enough
    return;
  }
  if (is_whole) {
    record.whole_dropped_ = true;
  } else {
    record.held(index).next = std::exchange(record.last_dropped_, index);
  }
  if (!std::exchange(record.any_dropped_, true)) record.next_dropped_ = std::exchange(table.last_dropped_, &record);
  table.dropped_any_.store(true, std::memory_order_relaxed);
}

// Takes as many out of the queue as there is room for.
std::size_t ObjectTable::next_drops(std::span<Drop> drops) {
  using Held = Record::Held;
  const std::lock_guard lock(drop_lock_);
  std::size_t n = 0;
  while (last_dropped_ != nullptr && n != drops.size()) {
    Record& record = *last_dropped_;
    if (std::exchange(record.whole_dropped_, false)) drops[n++] = {&record, Record::kWhole};
    while (record.last_dropped_ != Held::kLast && n != drops.size()) {
      drops[n++] = {&record, record.last_dropped_};
      record.last_dropped_ = std::exchange(record.held(record.last_dropped_).next, Held::kNotDropped);
    }
    if (record.last_dropped_ != Held::kLast) break;
    record.any_dropped_ = false;
    last_dropped_ = std::exchange(record.next_dropped_, nullptr);
  }
  if (last_dropped_ == nullptr) dropped_any_.store(false, std::memory_order_relaxed);
  return n;
}

// The element has no handle here any more.
void ObjectTable::unheld(Record& record, std::uint32_t index) {
  const auto tracked = record.tracked_.find(index);
  if (tracked == record.tracked_.end() && record.noticing_ != 0) unwanted_.push_back({record.id, index});
  if (tracked != record.tracked_.end()) {
    if (tracked->second) {
      tracked->second = false;
      unsaid_.drops.push_back({record.id, index});
    }
    if (!record.mine) record.tracked_.erase(tracked);
  } else {
    clear_slot(record, index);
  }
}

// Deletes the record if nothing is left of it.
bool ObjectTable::settle(Record& record) {
  if (record.minting_ || record.live.load() != 0 || !record.tracked_.empty()) return false;
  if (record.mine) {
    for (std::uint32_t i = 0; record.large_ != 0 && i < record.count_; ++i) clear_slot(record, i);
    if (record.known_) unsaid_.spans.push_back(record.id);
    mine_.erase(record.id);
  } else {
    foreign_.erase({record.id, record.base});
  }
  return true;
}

std::string ObjectTable::describe() const {
  std::string text;
  const auto add = [&text](const Record& record) {
    text += core::to_string({record.id, record.base}) + ": " + std::to_string(record.count_) + " ids, " +
            std::to_string(record.live.load()) + " live" + (record.minting_ ? ", open" : "") + ", tracked:";
    for (const auto& [index, told] : record.tracked_) text += " " + std::to_string(index) + (told ? "(held)" : "");
    text += "; ";
  };
  for (const auto& [id, record] : mine_) add(*record);
  for (const auto& [id, record] : foreign_) add(*record);
  return text;
}

void ObjectTable::drain(core::Holds& tell) {
  std::array<Drop, 64> some;
  while (dropped_any_.load(std::memory_order_relaxed)) {
    const std::span<const Drop> drops(some.data(), next_drops(some));
    for (const auto& [record, index] : drops) {
      record->live.fetch_sub(1, std::memory_order_relaxed);
      ++record->draining_;
      if (index == Record::kWhole) {
        std::vector<std::uint32_t> tracked;
        for (const auto& entry : record->tracked_) tracked.push_back(entry.first);
        for (const std::uint32_t i : tracked) {
          if (record->refs(i).load(std::memory_order_acquire) == 0) unheld(*record, i);
        }
      } else if (record->refs(index).load(std::memory_order_acquire) == 0 &&
                 record->batches.load(std::memory_order_acquire) == 0) {
        unheld(*record, index);
      }
    }
    // A record may stand for several drops: it goes after the last of them.
    for (const auto& [record, index] : drops) {
      if (--record->draining_ == 0) settle(*record);
    }
  }
  const auto move_to = [](auto& from, auto& to) {
    to.insert(to.end(), from.begin(), from.end());
    from.clear();
  };
  move_to(unsaid_.holds, tell.holds);
  move_to(unsaid_.drops, tell.drops);
  move_to(unsaid_.spans, tell.spans);
}

}  // namespace mobula::store
