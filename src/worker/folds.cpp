#include "worker/folds.hpp"

#include <algorithm>
#include <bit>

namespace mobula::worker {

using core::ErrorPtr;
using core::Range;
using detail::ByteView;
using detail::FunctionInfo;
using detail::Handle;
using detail::kVariable;
using detail::ObjectId;
using detail::Record;

namespace {

// The error of an element that has failed.
ErrorPtr error_of(const Record& record, std::uint32_t index) {
  const store::Slot* slot = record.slot(index);
  return slot != nullptr && slot->kind == store::Slot::Kind::error ? *slot->error : nullptr;
}

// The arguments of one task begin with how many values it folds, and how many bytes those take that are no
// dependencies.
void open_task(FoldTasks& tasks, std::size_t values, std::size_t bytes) {
  const std::uint32_t head[2] = {static_cast<std::uint32_t>(values), static_cast<std::uint32_t>(bytes)};
  tasks.args.append(head, sizeof head);
}

void close_task(FoldTasks& tasks) { tasks.ends.push_back(static_cast<std::uint32_t>(tasks.args.size())); }

}  // namespace

// Values whose blocks are folded into those of the next level, and which of them are here.
class Folds::Level final : public store::Follower, public store::Watcher {
 public:
  struct Blocks {
    std::uint32_t begin;
    std::uint32_t end;
  };

  Level(Folds& folds, Reduction& reduction, FoldValues values, std::uint32_t bits, bool made_here);
  ~Level() override;
  Level(const Level&) = delete;
  Level& operator=(const Level&) = delete;

  std::uint32_t count() const { return count_; }
  std::uint32_t begin_of(std::uint32_t block) const { return block << bits_; }
  std::uint32_t size_of(std::uint32_t block) const { return std::min(count_ - begin_of(block), 1U << bits_); }
  std::uint32_t come() const { return come_; }  // values that are ready

  Handle element(std::uint32_t position) const {
    return elements_.empty() ? batch_.element(position) : elements_[position];
  }
  ObjectId id_at(std::uint32_t position) const {
    return elements_.empty() ? ObjectId{record_->id, position} : elements_[position].id();
  }
  std::pair<const Record*, std::uint32_t> place_of(std::uint32_t position) const {
    if (elements_.empty()) return {record_, position};
    return {elements_[position].record(), elements_[position].index()};
  }
  // As by ObjectTable::packed_at.
  const std::byte* packed_at(std::uint32_t position, std::uint32_t n) const {
    return elements_.empty() ? store::ObjectTable::packed_at(*record_, position, n) : nullptr;
  }

  // The block has been folded: what it holds is let go of. REQUIRES: it was taken from `ready`.
  void release(std::uint32_t block);
  // The object is the value at the position, and no task makes one. REQUIRES: values are kept one by one, and it is the
  // last of them.
  void take_over(std::uint32_t position, Handle object);
  // A task that makes the value is under way.
  void made_at_cost(std::uint32_t position, std::size_t bytes);

  void came(std::uint32_t begin, std::uint32_t n) override;
  void ready(std::size_t position) override { came(static_cast<std::uint32_t>(position), 1); }

  std::deque<Blocks> ready_blocks;  // that can be folded, in order of time

 private:
  void block_ready(std::uint32_t block);
  void look_for_error(std::uint32_t position);
  void let_go();

  Folds& folds_;
  Reduction& reduction_;
  const std::uint32_t bits_;
  const std::uint32_t count_;
  Record* record_ = nullptr;           // whose elements these are, by position; nullptr: of many records, or let go of
  detail::BatchHandle batch_;          // keeps the record, or
  std::vector<Handle> elements_;       // each value keeps itself, and all that is left the record
  Handle replaced_;                    // by take_over: keeps the record too
  std::vector<std::uint8_t> missing_;  // by block: values that will be told of
  std::vector<std::uint32_t> costs_;   // by value: bytes that making it takes; empty: no task of ours makes them
  std::uint32_t come_ = 0;
  std::uint32_t unfolded_ = 0;  // blocks
};

struct Folds::Reduction {
  FoldKind kind;
  ObjectId result;
  std::vector<std::unique_ptr<Level>> levels;
  std::size_t under_way = 0;  // bytes, as by made_at_cost
  bool promised = false;      // to the head
  bool noted = false;         // in work_
  bool submitted = false;     // the task that makes the result
  ErrorPtr error;

  bool is_fixed() const { return kind.function->fixed_result != kVariable; }
};

// ---- levels ------------------------------------------------------------------------------------------------------

Folds::Level::Level(Folds& folds, Reduction& reduction, FoldValues values, std::uint32_t bits, bool made_here)
    : folds_(folds),
      reduction_(reduction),
      bits_(bits),
      count_(values.count()),
      record_(values.batch.record()),
      elements_(std::move(values.elements)) {
  if (elements_.empty()) batch_ = std::move(values.batch);
  unfolded_ = ((count_ - 1) >> bits_) + 1;
  missing_.resize(unfolded_);
  if (made_here) costs_.resize(count_);
  if (record_ != nullptr) folds_.objects_.follow(*record_, *this);
  for (std::uint32_t block = 0; block != unfolded_; ++block) {
    const std::uint32_t begin = begin_of(block);
    std::uint32_t here = size_of(block);
    if (record_ != nullptr) {
      here = store::ObjectTable::count_ready(*record_, begin, here);
    } else {
      for (std::uint32_t i = begin; i != begin + size_of(block); ++i) {
        Record& record = *elements_[i].record();
        if (!record.mine || record.ready(elements_[i].index())) continue;
        folds_.objects_.watch(record, elements_[i].index(), *this, i);
        --here;
      }
    }
    if (record_ == nullptr || !store::ObjectTable::are_packed(*record_, begin, size_of(block))) {
      for (std::uint32_t i = begin; i != begin + size_of(block); ++i) look_for_error(i);
    }
    come_ += here;
    missing_[block] = static_cast<std::uint8_t>(size_of(block) - here);
    if (missing_[block] == 0) block_ready(block);
  }
}

Folds::Level::~Level() {
  if (record_ == nullptr) {
    for (const Handle& element : elements_) {
      if (element && element.record()->mine && !element.record()->ready(element.index()))
        folds_.objects_.unwatch(*element.record(), element.index(), *this);
    }
  }
  let_go();
}

void Folds::Level::let_go() {
  if (record_ != nullptr) folds_.objects_.unfollow(*record_, *this);
  record_ = nullptr;
  batch_ = {};
  replaced_ = {};
}

void Folds::Level::block_ready(std::uint32_t block) {
  if (!ready_blocks.empty() && ready_blocks.back().end == block) {
    ++ready_blocks.back().end;
  } else {
    ready_blocks.push_back({block, block + 1});
  }
}

void Folds::Level::look_for_error(std::uint32_t position) {
  const auto [record, index] = place_of(position);
  if (reduction_.error == nullptr && record->ready(index)) reduction_.error = error_of(*record, index);
}

void Folds::Level::came(std::uint32_t begin, std::uint32_t n) {
  if (begin >= count_) return;
  n = std::min(n, count_ - begin);
  come_ += n;
  if (!costs_.empty()) {
    for (std::uint32_t i = begin; i != begin + n; ++i) reduction_.under_way -= costs_[i];
  }
  if (n == 1) look_for_error(begin);  // they come alone
  for (std::uint32_t i = begin; i != begin + n;) {
    const std::uint32_t block = i >> bits_;
    const std::uint32_t end = std::min(begin + n, begin_of(block) + size_of(block));
    missing_[block] = static_cast<std::uint8_t>(missing_[block] - (end - i));
    if (missing_[block] == 0) block_ready(block);
    i = end;
  }
  folds_.note(reduction_);
}

void Folds::Level::release(std::uint32_t block) {
  if (!elements_.empty()) {
    for (std::uint32_t i = begin_of(block); i != begin_of(block) + size_of(block); ++i) elements_[i] = {};
  }
  if (--unfolded_ == 0) let_go();
}

void Folds::Level::take_over(std::uint32_t position, Handle object) {
  replaced_ = std::exchange(elements_[position], std::move(object));
  came(position, 1);
}

void Folds::Level::made_at_cost(std::uint32_t position, std::size_t bytes) {
  costs_[position] = static_cast<std::uint32_t>(bytes);
  reduction_.under_way += bytes;
}

// ---- reductions --------------------------------------------------------------------------------------------------

Folds::Folds(store::ObjectTable& objects, Submitter& submitter) : objects_(objects), submitter_(submitter) {}

Folds::~Folds() = default;

// As many values in each task as may be, but for the last two levels: these are about the same, so that a slow function
// keeps several slots at work.
std::vector<std::uint32_t> Folds::plan(std::uint32_t n, std::uint32_t value_size) {
  constexpr std::uint32_t kFew = 3;  // bits: at once
  std::uint32_t most = std::bit_width(kMostInputs) - 1;
  if (value_size != kVariable) {
    const std::size_t fit = std::max<std::size_t>(kStretchBytes / std::max(value_size, 1U), 2);
    most = std::min(most, static_cast<std::uint32_t>(std::bit_width(fit)) - 1);
  }
  std::vector<std::uint32_t> levels;
  auto bits = static_cast<std::uint32_t>(std::bit_width(n - 1));
  const auto take = [&](std::uint32_t n_bits) {
    levels.push_back(n_bits);
    bits -= n_bits;
  };
  while (bits > 2 * most) take(most);
  if (bits > std::min(kFew, most)) take((bits + 1) / 2);
  take(bits);
  return levels;
}

Handle Folds::start(FoldKind kind, FoldValues values) {
  Handle result = objects_.mint();
  auto owned = std::make_unique<Reduction>();
  Reduction& reduction = *owned;
  reductions_.emplace(result.id(), std::move(owned));
  objects_.notice_unwanted(*result.record());
  reduction.kind = std::move(kind);
  reduction.result = result.id();
  std::uint32_t count = values.count();
  for (const std::uint32_t bits : plan(count, reduction.kind.function->fixed_result)) {
    const bool is_first = reduction.levels.empty();
    if (!is_first) {
      Record* record = objects_.new_batch(reduction.kind.function->fixed_result);
      objects_.append(*record, count);
      objects_.close(*record);
      values = {detail::BatchHandle(record, count), {}};
      for (std::uint32_t i = 0; !reduction.is_fixed() && i != count; ++i) {
        values.elements.push_back(values.batch.element(i));
      }
    }
    // NOLINTNEXTLINE(bugprone-use-after-move)
    reduction.levels.push_back(std::make_unique<Level>(*this, reduction, std::move(values), bits, !is_first));
    count = ((count - 1) >> bits) + 1;
  }
  note(reduction);
  return result;
}

void Folds::note(Reduction& reduction) {
  if (std::exchange(reduction.noted, true)) return;
  work_.push_back(reduction.result);
}

void Folds::step() {
  for (const ObjectId& id : objects_.take_unwanted()) {
    if (const auto found = reductions_.find(id); found != reductions_.end()) note(*found->second);
  }
  while (!work_.empty()) {
    for (const ObjectId& id : std::exchange(work_, {})) {
      const auto found = reductions_.find(id);
      if (found == reductions_.end()) continue;
      found->second->noted = false;
      advance(*found->second);
    }
  }
}

// Does what can be done now, the highest level first. May end the reduction.
void Folds::advance(Reduction& reduction) {
  const ObjectId id = reduction.result;
  if (!objects_.is_wanted(id)) {
    end(id);
    // Ranks that asked for it in vain wait here.
    submitter_.fail(id, false,
                    core::make_error(core::ErrorKind::object_lost, "object " + core::to_string(id) + " was freed", "",
                                     id, objects_.rank(), 0));
    return;
  }
  for (std::size_t level = reduction.levels.size(); level-- != 0;) {
    while (!reduction.levels[level]->ready_blocks.empty() && reduction.under_way < kWindow &&
           reduction.error == nullptr && !reduction.submitted) {
      fold(reduction, level);
    }
  }
  const ErrorPtr error = reduction.error;
  const bool promised = reduction.promised;
  const bool submitted = reduction.submitted;
  if (error == nullptr && !submitted) return;
  end(id);
  if (!submitted) submitter_.fail(id, promised, error);
}

void Folds::end(ObjectId id) {
  if (Record* record = objects_.find(id)) objects_.ignore_unwanted(*record);
  reductions_.erase(id);
}

// Folds some of the blocks that are ready, one after the other, or one that takes tasks of its own. Where a value has
// failed, sets the reduction's error and submits nothing. REQUIRES: a block of the level is ready.
void Folds::fold(Reduction& reduction, std::size_t level_index) {
  Level& level = *reduction.levels[level_index];
  Level* const next = level_index + 1 != reduction.levels.size() ? reduction.levels[level_index + 1].get() : nullptr;
  const std::uint32_t first = level.ready_blocks.front().begin;
  const std::uint32_t most = level.ready_blocks.front().end;
  const auto result_of = [&](std::uint32_t begin, std::uint32_t end) {
    if (next == nullptr) return Range{reduction.result.span, reduction.result.index, reduction.result.index + 1};
    const ObjectId id = next->id_at(begin);
    return Range{id.span, id.index, id.index + (end - begin)};
  };
  const auto taken = [&](std::uint32_t end) {
    level.ready_blocks.front().begin = end;
    if (end == most) level.ready_blocks.pop_front();
    reduction.submitted = next == nullptr;
  };

  FoldTasks tasks;
  std::vector<Input> inputs;
  std::uint32_t block = first;
  for (; block != most && tasks.args.size() < kStretchBytes; ++block) {
    const std::uint32_t begin = level.begin_of(block);
    const std::uint32_t n = level.size_of(block);
    if (const std::byte* values = level.packed_at(begin, n)) {
      const std::size_t bytes = std::size_t{n} * reduction.kind.function->fixed_result;
      open_task(tasks, n, bytes);
      tasks.args.append(values, bytes);
      close_task(tasks);
      continue;
    }
    if (n == 1 && !reduction.is_fixed()) {  // it goes up as it is
      if (block != first) break;            // those before it go first
      taken(block + 1);
      next->take_over(block, level.element(begin));
      level.release(block);
      return;
    }
    inputs.clear();
    std::size_t bytes = 0;
    bool is_simple = true;
    for (std::uint32_t i = begin; i != begin + n; ++i) {
      inputs.push_back(input_at(reduction, level, i));
      bytes += inputs.back().bytes.size();
      is_simple = is_simple && !inputs.back().is_dependency();
    }
    if (reduction.error != nullptr) return;
    if (is_simple && (bytes <= kMostBytes || n <= 2)) {
      open_task(tasks, n, bytes);
      for (const Input& input : inputs) tasks.args.append(input.bytes.data(), input.bytes.size());
      close_task(tasks);
      continue;
    }
    if (block != first) break;
    taken(block + 1);
    std::size_t cost = 0;
    const Range result = result_of(block, block + 1);
    fold_apart(reduction, inputs, result, cost);
    if (next != nullptr) next->made_at_cost(block, cost);
    level.release(block);
    return;
  }
  taken(block);
  if (next != nullptr) {
    for (std::uint32_t i = 0; i != block - first; ++i) {
      next->made_at_cost(first + i, tasks.ends[i] - (i == 0 ? 0 : tasks.ends[i - 1]) + kTaskBytes);
    }
  }
  tasks.results = result_of(first, block);
  submitter_.submit(reduction.kind, std::move(tasks));
  for (std::uint32_t i = first; i != block; ++i) level.release(i);
}

// Folds the values of an aligned range, or of what is left of one, some of which are dependencies, or which are too
// many bytes for one task. `cost` grows by what is submitted.
void Folds::fold_apart(Reduction& reduction, std::span<Input> inputs, const Range& result, std::size_t& cost) {
  std::size_t bytes = 0;
  bool is_simple = true;
  for (const Input& input : inputs) {
    bytes += input.bytes.size();
    is_simple = is_simple && !input.is_dependency();
  }
  const bool is_one = is_simple ? bytes <= kMostBytes : reduction.is_fixed();
  Input halves[2];
  if (!is_one && inputs.size() > 2) {
    const std::size_t middle = std::bit_floor(inputs.size() - 1);
    const std::span<Input> parts[2] = {inputs.first(middle), inputs.subspan(middle)};
    bytes = 0;
    for (int side = 0; side != 2; ++side) {
      if (parts[side].size() == 1) {
        halves[side] = std::move(parts[side].front());
        bytes += halves[side].bytes.size();
        continue;
      }
      halves[side].object = objects_.mint();
      const ObjectId id = halves[side].object.id();
      fold_apart(reduction, parts[side], {id.span, id.index, id.index + 1}, cost);
    }
    inputs = halves;
  }
  FoldTasks tasks;
  tasks.results = result;
  open_task(tasks, inputs.size(), bytes);
  for (std::size_t i = 0; i != inputs.size(); ++i) {
    if (inputs[i].is_dependency()) {
      tasks.dep_mask |= std::uint64_t{1} << i;
      tasks.deps.push_back(std::move(inputs[i].object));
    } else {
      tasks.args.append(inputs[i].bytes.data(), inputs[i].bytes.size());
    }
  }
  close_task(tasks);
  cost += tasks.args.size() + kTaskBytes;
  submitter_.submit(reduction.kind, std::move(tasks));
}

// A small value that is here goes as its bytes, unless it may hold objects, which only a dependency keeps: the head
// counts each value that does. Those of one size hold none.
Folds::Input Folds::input_at(Reduction& reduction, const Level& level, std::uint32_t position) {
  const auto [record, index] = level.place_of(position);
  const bool plain = reduction.is_fixed() || (record->mine && !objects_.is_tracked(*record, index));
  if (record->ready(index)) {
    if (const ErrorPtr error = error_of(*record, index)) {
      if (reduction.error == nullptr) reduction.error = error;
      return {};
    }
    if (plain) {
      if (const auto bytes = record->value(index)) return {*bytes, {}};
    }
  }
  return {{}, level.element(position)};
}

const FunctionInfo* Folds::promise(ObjectId id) {
  const auto found = reductions_.find(id);
  if (found == reductions_.end()) return nullptr;
  found->second->promised = true;
  return found->second->kind.function;
}

bool Folds::cancel(ObjectId id) {
  if (!has(id)) return false;
  end(id);
  return true;
}

std::optional<std::string> Folds::explain(ObjectId id) const {
  const auto found = reductions_.find(id);
  if (found == reductions_.end()) return std::nullopt;
  const Reduction& reduction = *found->second;
  const Level& values = *reduction.levels.front();
  const std::string missing = std::to_string(values.count() - values.come());
  return "reduce of " + std::to_string(values.count()) + " values by " + reduction.kind.function->name + ": " +
         (missing == "0" ? "all are there or elsewhere" : missing + " of them are not there yet") + ", and " +
         std::to_string(reduction.under_way) + " bytes of tasks that fold them are under way";
}

}  // namespace mobula::worker
