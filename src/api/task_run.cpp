// The parts of a run that are off its hot path, and refs inside values.
#include <mutex>

#include "api/runtime.hpp"
#include "mobula/detail/core.hpp"

namespace mobula::detail {

void TaskRun::finish_variable() {
  const std::size_t size = out.buffer.size() - from;
  if (fixed_result == kVariable && size > inline_limit) {
    Encoder large;
    large.buffer = room_for(size);  // may wait, and what came before it be reported meanwhile
    large.bytes(out.buffer.data() + from, size);
    large.refs = std::move(out.refs);
    out.refs.clear();
    out.buffer.shrink(from);
    finish_large(std::move(large));
    return;
  }
  if (!out.refs.empty()) {
    Oddity oddity;
    oddity.index = next;
    oddity.refs = std::move(out.refs);
    out.refs.clear();
    oddities.push_back(std::move(oddity));
  }
  if (fixed_result == kVariable) ends.push_back(static_cast<std::uint32_t>(out.buffer.size()));
}

void TaskRun::finish_large(Encoder&& value) {
  Oddity oddity;
  oddity.index = next;
  oddity.is_stored = true;
  oddity.stored = std::move(value.buffer);
  oddity.refs = std::move(value.refs);
  oddities.push_back(std::move(oddity));
  ends.push_back(static_cast<std::uint32_t>(out.buffer.size()));
}

void TaskRun::give(ByteView value) {
  if (fixed_result == kVariable && value.size() > inline_limit) {
    Encoder large;
    large.buffer = room_for(value.size());
    large.bytes(value.data(), value.size());
    finish_large(std::move(large));
  } else {
    out.bytes(value.data(), value.size());
    finish();
  }
}

void TaskRun::fail() noexcept {
  out.buffer.shrink(from);
  out.refs.clear();
  if (fixed_result == kVariable) {
    ends.push_back(static_cast<std::uint32_t>(from));
  } else if (fixed_result > 0) {
    std::memset(out.buffer.extend(fixed_result), 0, fixed_result);
  }
  Oddity oddity;
  oddity.index = next;
  oddity.error = core::detached();  // it is looked at under the rank's lock
  oddities.push_back(std::move(oddity));
}

void Encoder::ref(const Handle& handle) {
  if (!handle) throw std::invalid_argument("mobula: an empty Ref can't be passed on; it refers to nothing");
  const ObjectId id = handle.id();
  bytes(&id.span.value, sizeof id.span.value);
  bytes(&id.index, sizeof id.index);
  refs.push_back(handle);
}

Handle Decoder::ref() {
  ObjectId id;
  id.span.value = get<std::uint64_t>();
  id.index = get<std::uint32_t>();
  exec::Engine& engine = api::engine();
  if (id.span.owner() >= engine.transport().wire().size()) throw_damaged("a ref names a rank that does not exist");
  const exec::Engine::Lock lock(engine);
  return engine.objects().handle_of(id);
}

}  // namespace mobula::detail
