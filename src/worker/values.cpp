// The worker's side of objects: who waits for what, and how values come, are kept, and go to others.
#include <algorithm>

#include "core/cluster.hpp"
#include "core/mark.hpp"
#include "worker/worker.hpp"

namespace mobula::worker {

using core::ErrorKind;
using core::ErrorRecord;
using detail::kHeadRank;
using detail::kNoRank;

namespace {

constexpr std::size_t kInlineData = 24 << 10;  // bytes of a value that goes inline in a Data message
constexpr std::size_t kRetained = 1024;        // results
constexpr int kTries = 100'000;                // of finding one object

// In the rank's segment, or on the heap where that has no room.
ValuePtr copy_of(ByteView bytes, Store& store) {
  Store::Room room;
  if (store.take(bytes.size(), room) == Store::Verdict::given && !room.cold.empty()) {
    store.settle(room, store.commit()(room.cold));
  }
  room.buffer.append(bytes.data(), bytes.size());
  return std::make_shared<Buffer>(std::move(room.buffer));
}

}  // namespace

void Worker::request(const Handle& handle) {
  Record& record = *handle.record();
  const std::uint32_t index = handle.index();
  if (!record.ready(index)) {
    if (!record.mine) ask_for(handle.id(), kNoRank, 0, true);
    return;
  }
  if (!objects_.is_here(record, index)) ask_for(handle.id(), where_large(*record.slot(index)), 0, true);
}

void Worker::hear_of(const Handle& handle) {
  const Record& record = *handle.record();
  if (!record.mine && !record.ready(handle.index())) ask_for(handle.id(), kNoRank);
}

// Whether somebody waits for the bytes; the others are content to hear that they exist.
bool Worker::wants_value(ObjectId id, const Interest& in) const {
  return in.value || !in.pieces.empty() || adopting_.contains(id) ||
         std::any_of(in.ranks.begin(), in.ranks.end(), [](const Asker& asker) { return !asker.word; });
}

// Threads of this rank wait for the object.
bool Worker::is_awaited(ObjectId id) {
  Record* record = objects_.find(id);
  return record != nullptr && store::ObjectTable::is_watched(*record, id.index) && !objects_.is_here(*record, id.index);
}

ValuePtr Worker::value_here(ObjectId id) {
  if (ValuePtr value = store_.find(id)) return value;
  if (Record* record = objects_.find(id)) {
    if (ValuePtr value = objects_.value_of(*record, id.index)) return value;
  }
  if (const auto found = retained_.find(id); found != retained_.end()) return found->second;
  return nullptr;
}

// Where to ask for a large value of an object that this rank owns. Of another node only the head knows who has a copy
// nearer by, or is getting one.
RankId Worker::where_large(const store::Slot& slot) const {
  return slot.at != objects_.rank() && store_.shares_with(slot.at) ? slot.at : kNoRank;
}

// Sees to it that an object comes that is not here. `hint`: a rank that has it, will make it, or is getting it itself.
//
// Ranks may wait for each other: one that gets a value passes it on to those who asked meanwhile. They never wait in a
// circle, since a rank lets only such wait whose turn is later than its own, and sends away whoever waits when it asks
// anew: along a chain of ranks that wait the turns fall.
void Worker::ask_for(ObjectId id, RankId hint, std::uint64_t turn, bool for_value) {
  if (store_.has(id)) {
    if (const ValuePtr value = store_.find(id)) {
      arrived(id, value);
    } else {
      store_.want(id);
    }
    return;
  }
  Interest& in = interests_[id];
  in.value = in.value || for_value;
  if (in.asked != kNoRank || in.receiving) return;
  if (hint == objects_.rank() || hint == kNoRank) {
    if (will_come(id)) return;
    if (Record* record = objects_.find(id); record != nullptr && record->mine) {
      if (record->ready(id.index)) {
        const store::Slot* slot = record->slot(id.index);
        if (slot != nullptr && slot->kind == store::Slot::Kind::error) {
          const ErrorPtr error = *slot->error;
          deliver(id, nullptr, error, kNoRank);
          return;
        }
        if (slot != nullptr && slot->kind == store::Slot::Kind::large) {
          hint = where_large(*slot);
          turn = 0;
        }
      } else if (hint == kNoRank || find_call(id) != calls_.end()) {
        return;  // its result will be brought here
      }
    }
  }
  if (!is_rank(hint) || hint == objects_.rank() || lost_.contains(hint)) {
    locate(id, kNoRank);
  } else {
    send_away(id, in);
    in.asked = hint;
    in.turn = turn;
    const bool word = !wants_value(id, in);
    if (!word) ++fetches_;
    transport_.send(hint, core::Fetch{id, turn, word});
  }
}

// The object is known to be here as a value, to have failed, or to stay at another rank.
void Worker::deliver(ObjectId id, const ValuePtr& value, const ErrorPtr& error, RankId at) {
  const auto found = interests_.find(id);
  if (found == interests_.end()) return;
  if (value == nullptr && error == nullptr) {
    for (const Asker& asker : found->second.ranks) transport_.send(asker.rank, core::Located{id, at, {}, 0, true});
    found->second.ranks.clear();
    if (found->second.pieces.empty()) {
      interests_.erase(found);
    } else {
      found->second.asked = kNoRank;
      ask_for(id, store_.shares_with(at) ? at : kNoRank);
    }
    return;
  }
  const Interest in = std::move(found->second);
  interests_.erase(found);
  if (error != nullptr) adopting_.erase(id);
  fulfil(id, value, error);
  for (const Asker& asker : in.ranks) {
    if (error != nullptr) {
      send_failure(asker.rank, id, *error);
    } else {
      answer_fetch(asker, id, value);
    }
  }
  for (Piece* piece : in.pieces) {
    if (error != nullptr) {
      failing_.emplace_back(ObjectId{piece->range.span, piece->range.begin}, error);
    } else {
      dep_ready(*piece, id, value);
    }
  }
  fail_pieces();
}

// Tells the threads that wait for the object, wherever it was made: also here, in the name of another rank.
void Worker::fulfil(ObjectId id, const ValuePtr& value, const ErrorPtr& error) {
  Record* record = objects_.find(id);
  if (record == nullptr) return;
  if (error != nullptr) {
    objects_.set_error(*record, id.index, error);
  } else if (store_.has(id)) {
    objects_.set_large(*record, id.index, objects_.rank());
  } else {
    objects_.set_block(*record, id.index, value);
  }
  store::ObjectTable::tell(*record, id.index);
}

void Worker::send_failure(RankId to, ObjectId id, const ErrorRecord& error) {
  core::Data data;
  data.id = id;
  data.failed = true;
  data.error = error;
  transport_.send(to, data);
}

void Worker::answer_fetch(const Asker& asker, ObjectId id, const ValuePtr& value) {
  const RankId to = asker.rank;
  if (asker.word && value->size() > settings_.inline_limit) {
    transport_.send(to, core::Located{id, objects_.rank(), {}, 0, true});
    return;
  }
  core::Data data;
  data.id = id;
  if (value->size() <= settings_.inline_limit) {
    data.value = value->view();
  } else if (store_.shares_with(to) && to != objects_.rank() && store_.contains(value->data()) && store_.has(id)) {
    data.mapped = true;
    data.size = value->size();
    data.offset = store_.offset_of(*value);
    store_.pin(id, to);
  } else if (value->size() <= kInlineData) {
    data.value = value->view();
  } else {
    data.size = value->size();
    data.block = transport_.send_block(to, value->view(), value);
  }
  transport_.send(to, data);
}

// Keeps a small result that went to another rank for a while, for those who were told that it would be here. Without it
// they would find it at its owner, over the head.
void Worker::retain(ObjectId id, ValuePtr value) {
  if (!retained_.emplace(id, std::move(value)).second) return;
  if (retained_order_.size() < kRetained) {
    retained_order_.push_back(id);
    return;
  }
  MOBULA_MARK("worker: an old small result is dropped");
  retained_.erase(retained_order_[retained_next_]);
  retained_order_[retained_next_] = id;
  retained_next_ = (retained_next_ + 1) % kRetained;
}

void Worker::handle(RankId, const core::AskStore& m) {
  StoreStats stats;
  StoreUse& use = stats.ranks.emplace_back(store_.use());
  use.rank = objects_.rank();
  use.node = settings_.node;
  use.host = settings_.host;
  use.fetches = fetches_;
  for (const Store::Item& item : store_.largest(m.largest)) {
    stats.largest.push_back(
        {core::to_string(item.id), item.size, objects_.rank(), item.in_memory, item.in_use, item.pins, {}, 0});
  }
  transport_.send(kHeadRank, core::StoreReport{m.token, core::encode_stats(stats)});
}

void Worker::handle(RankId, const core::Located& m) {
  if (m.rank != kNoRank && !is_rank(m.rank)) detail::throw_damaged("an object is at a rank that does not exist");
  if (const auto remote = remotes_.find(m.id); remote != remotes_.end()) {
    remote->second.asked = false;
    actor_located(m.id, m.rank, m.rank == kNoRank ? std::make_shared<ErrorRecord>(m.error) : nullptr);
    return;
  }
  const auto found = interests_.find(m.id);
  if (found == interests_.end() && objects_.find(m.id) == nullptr) return;
  if (m.rank == kNoRank) {
    const auto error = std::make_shared<ErrorRecord>(m.error);
    if (Record* record = objects_.find(m.id)) objects_.set_error(*record, m.id.index, error);
    deliver(m.id, nullptr, error, kNoRank);
    return;
  }
  if (found != interests_.end()) {
    found->second.asked = kNoRank;
    if (forget_if_unwanted(m.id)) return;
  }
  if (m.rank == objects_.rank()) {
    if (const ValuePtr value = value_here(m.id)) {
      arrived(m.id, value);
      return;
    }
    // It is this rank's own, and the head has heard of its end first: the result itself is still to come, and settles
    // what waits for it. Until then nothing of it is known here.
    if (const Record* record = objects_.find(m.id); record != nullptr && record->mine && !record->ready(m.id.index)) {
      MOBULA_MARK("worker: a result is still on its way to its owner");
      const auto in = interests_.find(m.id);
      const bool is_wanted = in != interests_.end() && (!in->second.pieces.empty() || !in->second.ranks.empty());
      if (in != interests_.end() && !is_wanted && !adopting_.contains(m.id)) interests_.erase(in);
      return;
    }
  }
  if (Record* record = objects_.find(m.id)) {
    const auto in = interests_.find(m.id);
    const bool word_is_enough = (m.exists || m.turn != 0) && in != interests_.end() && !wants_value(m.id, in->second);
    if (word_is_enough || (record->mine && record->ready(m.id.index))) {
      objects_.set_large(*record, m.id.index, m.rank);
    }
    if (word_is_enough) {
      for (const Asker& asker : in->second.ranks) transport_.send(asker.rank, core::Located{m.id, m.rank, {}, 0, true});
      interests_.erase(in);
      return;
    }
  }
  ask_for(m.id, m.rank, m.turn);
}

// What was asked for on behalf of tasks that have gone elsewhere since is not chased: it may be freed by now.
bool Worker::forget_if_unwanted(ObjectId id) {
  const auto found = interests_.find(id);
  if (!found->second.pieces.empty() || !found->second.ranks.empty() || adopting_.contains(id)) return false;
  if (Record* record = objects_.find(id)) {
    if (!record->ready(id.index)) return false;
    if (!objects_.is_here(*record, id.index)) return false;
  }
  MOBULA_MARK("worker: what was asked for is not wanted any more");
  interests_.erase(found);
  return true;
}

void Worker::handle(RankId, const core::Adopt& m) {
  adopting_.insert_or_assign(m.id, m.from);
  if (const ValuePtr value = value_here(m.id)) {
    keep_adopted(m.id, value);
  } else {
    ask_for(m.id, m.from);
  }
}

// A value of a rank that leaves is here, but perhaps in that rank's memory, or for a while only.
void Worker::keep_adopted(ObjectId id, const ValuePtr& value) {
  if (adopting_.erase(id) == 0) return;
  if (!store_.has(id) || store_.is_mapped(id)) {
    MOBULA_MARK("worker: an adopted value is copied");
    const bool is_small = value->size() <= settings_.inline_limit;
    ValuePtr copy = is_small ? std::make_shared<Buffer>(value->view()) : copy_of(value->view(), store_);
    store_.erase(id);
    if (store_.has_news()) tell_store_news();
    store_.add(id, std::move(copy), Store::Role::copy);
  }
  store_.keep(id);  // soon it is the only one
  transport_.send(kHeadRank, core::Copied{id, true});
}

// A value that was asked for is here.
void Worker::arrived(ObjectId id, const ValuePtr& value) {
  if (!adopting_.empty()) keep_adopted(id, value);
  fulfil(id, value, nullptr);
  deliver(id, value, nullptr, kNoRank);
}

void Worker::handle(RankId, const core::Keep& m) { store_.keep(m.id); }

void Worker::handle(RankId, const core::Free& m) {
  for (const ObjectId& id : m.ids) {
    objects_.free(id);
    adopting_.erase(id);
    if (const auto in = interests_.find(id); in != interests_.end()) {  // it was being read from its file
      send_away(id, in->second);
      if (in->second.asked == kNoRank && !in->second.receiving) forget_if_unwanted(id);
    }
    if (const auto actor = actors_.find(id); actor != actors_.end()) end_actor(*actor->second);
  }
}

void Worker::handle(RankId from, const core::Fetch& m) {
  if (const ValuePtr value = value_here(m.id)) {
    answer_fetch({from, m.word}, m.id, value);
    return;
  }
  if (store_.has(m.id)) {
    if (m.word) {
      transport_.send(from, core::Located{m.id, objects_.rank(), {}, 0, true});
      return;
    }
    interests_[m.id].ranks.push_back({from, false});
    store_.want(m.id);
    return;
  }
  Record* record = objects_.find(m.id);
  const store::Slot* slot = record != nullptr && record->ready(m.id.index) ? record->slot(m.id.index) : nullptr;
  if (slot != nullptr && record->mine) {
    if (slot->kind == store::Slot::Kind::error) {
      MOBULA_MARK("worker: a rank asks for what has failed");
      send_failure(from, m.id, **slot->error);
      return;
    }
    if (slot->kind == store::Slot::Kind::large && slot->at != objects_.rank()) {
      MOBULA_MARK("worker: a rank asks for what is elsewhere");
      transport_.send(from, core::Located{m.id, slot->at, {}, 0, true});
      return;
    }
  }
  // Made here, brought here, or on its way here: one fetch serves all who ask.
  const auto wanted = interests_.find(m.id);
  const bool coming = wanted != interests_.end() && wanted->second.turn != 0 && wanted->second.turn < m.turn;
  if (coming || will_come(m.id) || (record != nullptr && record->mine && !record->ready(m.id.index))) {
    interests_[m.id].ranks.push_back({from, m.word});
    return;
  }
  MOBULA_MARK("worker: a rank asks for what is not here");
  const bool is_forgotten = m.id.span.owner() == objects_.rank() && !objects_.is_wanted(m.id);
  transport_.send(from, core::NotHere{m.id, is_forgotten});
}

void Worker::handle(RankId from, const core::Data& m) {
  const auto found = interests_.find(m.id);
  if (m.failed) {
    const auto error = std::make_shared<ErrorRecord>(m.error);
    if (Record* record = objects_.find(m.id); record != nullptr && !record->ready(m.id.index)) {
      objects_.set_error(*record, m.id.index, error);
    }
    deliver(m.id, nullptr, error, kNoRank);
    return;
  }
  if (m.mapped) {
    if (!store_.shares_with(from)) detail::throw_damaged("a rank of another node gives its memory to read");
    store_.add_mapped(m.id, from, m.offset, m.size);
    if (const ValuePtr value = store_.find(m.id)) {
      arrived(m.id, value);
    } else {
      store_.want(m.id);  // it was here already, in a file
    }
    return;
  }
  if (m.block == 0 && m.value.size() <= settings_.inline_limit) {
    arrived(m.id, std::make_shared<Buffer>(m.value));
    return;
  }
  if (m.block == 0) {
    came(m.id, copy_of(m.value, store_));
    return;
  }
  if (found != interests_.end()) found->second.receiving = true;
  Incoming in{from, m.id, m.block, m.size, {}};
  const Record* record = objects_.find(m.id);
  const bool waited_for = record != nullptr && store::ObjectTable::is_watched(*record, m.id.index);
  if (waited_for && transport_.can_receive(from, m.block)) {
    MOBULA_MARK("worker: a value that a thread waits for comes first");
    incoming_.push_front(std::move(in));
  } else {
    incoming_.push_back(std::move(in));
  }
  admit();
}

// A copy of a value of another node is complete.
void Worker::came(ObjectId id, ValuePtr value) {
  if (store_.has_news()) tell_store_news();  // an earlier copy that was dropped is told of before this one
  const ValuePtr lent = store_.add(id, std::move(value), Store::Role::copy);
  transport_.send(kHeadRank, core::Copied{id, false});
  arrived(id, lent);
}

// Lets those blocks come for which there is room, in the order in which they were announced.
void Worker::admit() {
  while (!incoming_.empty()) {
    Incoming& next = incoming_.front();
    const Store::Verdict verdict = store_.take(next.size, next.room);
    // Where everything is in use, values that tasks wait for are better beside the segment than never here; but one
    // after the other, since others may become free meanwhile.
    if (verdict != Store::Verdict::given) MOBULA_MARK("worker: a value that comes has to wait for room");
    if (verdict == Store::Verdict::later || (verdict == Store::Verdict::never && !receiving_.empty())) return;
    Incoming in = std::move(next);
    incoming_.pop_front();
    receiving_.push_back(in.from);
    if (in.room.cold.empty()) {
      receive(std::move(in));
    } else {
      const std::uint64_t token = next_token_++;
      store_.prepare(token, in.room.cold);
      preparing_.emplace(token, std::move(in));
    }
  }
}

void Worker::prepared(std::uint64_t token, bool good) {
  auto node = preparing_.extract(token);
  Incoming& in = node.mapped();
  store_.settle(in.room, good);
  if (!lost_.contains(in.from)) receive(std::move(in));
}

void Worker::receive(Incoming in) {
  auto buffer = std::make_shared<Buffer>(std::move(in.room.buffer));
  buffer->extend(in.size);
  transport_.receive_block(in.from, in.block, {buffer->data(), buffer->size()},
                           [this, id = in.id, from = in.from, buffer]() mutable {
                             receiving_.erase(std::find(receiving_.begin(), receiving_.end(), from));
                             came(id, std::move(buffer));
                             admit();
                           });
}

void Worker::handle(RankId from, const core::Unpin& m) { store_.unpin(m.id, from); }

void Worker::handle(RankId, const core::Recall& m) { store_.let_go(m.id); }

// What the store has to say to others, and to those who wait here.
void Worker::tell_store_news() {
  while (store_.has_news()) {
    const Store::News news = store_.take_news();
    for (const auto& [rank, id] : news.unpins) {
      if (!lost_.contains(rank)) transport_.send(rank, core::Unpin{id});
    }
    for (const auto& [rank, id] : news.recalls) transport_.send(rank, core::Recall{id});
    if (!news.dropped_copies.empty()) transport_.send(kHeadRank, core::Uncopied{news.dropped_copies});
    for (const ObjectId& id : news.restored) {
      if (const ValuePtr value = store_.find(id)) arrived(id, value);
    }
    for (const auto& [id, what] : news.broken) {
      const ErrorPtr error =
          core::make_error(ErrorKind::object_lost,
                           "the value of object " + core::to_string(id) + " was in a file of rank " +
                               std::to_string(objects_.rank()) + ", which can't be read back: " + what,
                           "", id, objects_.rank(), 0, settings_.host);
      store_.erase(id);
      if (Record* record = objects_.find(id)) objects_.set_error(*record, id.index, error);
      deliver(id, nullptr, error, kNoRank);
    }
  }
}

void Worker::handle(RankId from, const core::NotHere& m) {
  const auto found = interests_.find(m.id);
  if (found == interests_.end()) return;
  found->second.asked = kNoRank;
  if (forget_if_unwanted(m.id)) return;
  if (const ValuePtr value = value_here(m.id)) {
    arrived(m.id, value);
    return;
  }
  locate(m.id, from, m.forgotten);
}

void Worker::locate(ObjectId id, RankId not_at, bool forgotten) {
  Interest& in = interests_[id];
  in.asked = kHeadRank;
  in.turn = 0;
  if (++in.tries == kTries) {
    deliver(id, nullptr,
            core::make_error(ErrorKind::object_lost,
                             "object " + core::to_string(id) + " can't be found: no rank that should have it does", "",
                             id, objects_.rank(), 0, settings_.host),
            kNoRank);
    return;
  }
  const bool for_task =
      std::any_of(in.pieces.begin(), in.pieces.end(), [](const Piece* piece) { return piece->may_go_back(); });
  transport_.send(kHeadRank, core::Locate{id, not_at, for_task, forgotten});
}

}  // namespace mobula::worker
