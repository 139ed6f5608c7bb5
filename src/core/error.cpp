#include "core/error.hpp"

#include <cxxabi.h>

#include <any>
#include <charconv>
#include <cstdio>
#include <cstdlib>
#include <filesystem>
#include <functional>
#include <future>
#include <ios>
#include <memory>
#include <new>
#include <optional>
#include <regex>
#include <system_error>
#include <typeindex>
#include <unordered_map>
#include <variant>

#include "core/trace.hpp"

namespace mobula::core {
namespace {

// What a raised exception remembers, so that it is captured again as it was: a dependent fails with the first error.
class Origin {
 public:
  explicit Origin(const ErrorRecord& from) : record(from) {}
  virtual ~Origin() = default;
  ErrorRecord record;
};

// A standard exception with its origin beside it, still caught as E.
template <class E>
class Carried final : public E, public Origin {
 public:
  template <class... A>
  Carried(const ErrorRecord& from, A&&... args) : E(std::forward<A>(args)...), Origin(from) {}
  const char* what() const noexcept override { return record.message.c_str(); }
};

// Stands for an exception of the user's.
struct Detached final : std::exception {
  explicit Detached(ErrorRecord from) : record(std::move(from)) {}
  ErrorRecord record;  // without the failure, unless it came out of a Ref
};

using Raise = void (*)(const ErrorRecord&);

template <class E>
[[noreturn]] void raise_plain(const ErrorRecord& record) {
  if constexpr (std::is_constructible_v<E, std::string>) {
    throw Carried<E>(record, record.message);
  } else {
    throw Carried<E>(record);
  }
}

std::error_code code_of(const ErrorRecord& record) {
  return {record.code, record.system_category ? std::system_category() : std::generic_category()};
}

template <class E>
void add(std::unordered_map<std::type_index, Raise>& table) {
  table.emplace(typeid(E), &raise_plain<E>);
}

const std::unordered_map<std::type_index, Raise>& standard_types() {
  static const auto table = [] {
    std::unordered_map<std::type_index, Raise> t;
    add<std::exception>(t);
    add<std::logic_error>(t);
    add<std::invalid_argument>(t);
    add<std::domain_error>(t);
    add<std::length_error>(t);
    add<std::out_of_range>(t);
    add<std::runtime_error>(t);
    add<std::range_error>(t);
    add<std::overflow_error>(t);
    add<std::underflow_error>(t);
    add<std::bad_alloc>(t);
    add<std::bad_array_new_length>(t);
    add<std::bad_cast>(t);
    add<std::bad_any_cast>(t);
    add<std::bad_typeid>(t);
    add<std::bad_exception>(t);
    add<std::bad_weak_ptr>(t);
    add<std::bad_function_call>(t);
    add<std::bad_optional_access>(t);
    add<std::bad_variant_access>(t);
    t.emplace(typeid(std::future_error),
              [](const ErrorRecord& r) { throw Carried<std::future_error>(r, static_cast<std::future_errc>(r.code)); });
    t.emplace(typeid(std::regex_error), [](const ErrorRecord& r) {
      throw Carried<std::regex_error>(r, static_cast<std::regex_constants::error_type>(r.code));
    });
    t.emplace(typeid(std::system_error),
              [](const ErrorRecord& r) { throw Carried<std::system_error>(r, code_of(r), r.message); });
    t.emplace(typeid(std::ios_base::failure),
              [](const ErrorRecord& r) { throw Carried<std::ios_base::failure>(r, r.message, code_of(r)); });
    t.emplace(typeid(std::filesystem::filesystem_error),
              [](const ErrorRecord& r) { throw Carried<std::filesystem::filesystem_error>(r, r.message, code_of(r)); });
    return t;
  }();
  return table;
}

const std::unordered_map<std::string, Raise>& standard_names() {
  static const auto table = [] {
    std::unordered_map<std::string, Raise> t;
    for (const auto& [type, raise] : standard_types()) t.emplace(demangle(type.name()), raise);
    return t;
  }();
  return table;
}

std::string located(const ErrorRecord& record) {
  const Failure& f = record.failure;
  if (f.task.empty()) return record.message;
  const std::string task = record.message + " [task " + f.task + " " + f.id;
  // The head's word: no rank has run it, or that is lost.
  if (f.host.empty()) return task + (f.attempt > 0 ? ", attempt " + std::to_string(f.attempt) : "") + "]";
  return task + ", rank " + std::to_string(f.rank) + " on " + f.host + ", attempt " + std::to_string(f.attempt) + "]";
}

void note_code(ErrorRecord& record, const std::error_code& code) {
  record.code = code.value();
  record.system_category = code.category() == std::system_category();
}

template <class E>
bool keep_kind(ErrorRecord& record, const std::exception& e, ErrorKind kind) {
  if (dynamic_cast<const E*>(&e) == nullptr) return false;
  record.kind = kind;
  return true;
}

void describe(ErrorRecord& record, const std::exception& e) {
  const std::type_info& type = typeid(e);
  record.type = demangle(type.name());
  record.message = e.what();
  if (standard_types().contains(type)) {
    record.kind = ErrorKind::standard;
  } else if (!(keep_kind<WorkerLost>(record, e, ErrorKind::worker_lost) ||
               keep_kind<ObjectLost>(record, e, ErrorKind::object_lost) ||
               keep_kind<Infeasible>(record, e, ErrorKind::infeasible) ||
               keep_kind<StoreFull>(record, e, ErrorKind::store_full) ||
               keep_kind<TimedOut>(record, e, ErrorKind::timed_out) ||
               keep_kind<Cancelled>(record, e, ErrorKind::cancelled) ||
               keep_kind<ProtocolError>(record, e, ErrorKind::protocol) ||
               keep_kind<ActorDied>(record, e, ErrorKind::actor_died) ||
               keep_kind<NoSuchActor>(record, e, ErrorKind::no_such_actor) ||
               keep_kind<Backpressure>(record, e, ErrorKind::backpressure) ||
               keep_kind<TaskCrashed>(record, e, ErrorKind::task_crashed) ||
               keep_kind<CommandFailed>(record, e, ErrorKind::command_failed))) {
    record.kind = ErrorKind::task;
  }
  if (const auto* regex = dynamic_cast<const std::regex_error*>(&e)) record.code = regex->code();
  if (const auto* future = dynamic_cast<const std::future_error*>(&e)) record.code = future->code().value();
  if (const auto* system = dynamic_cast<const std::system_error*>(&e)) note_code(record, system->code());
}

template <class E>
class CarriedError final : public E, public Origin {
 public:
  explicit CarriedError(const ErrorRecord& from) : E(located(from)), Origin(from) {}
};

}  // namespace

std::string demangle(const char* name) {
  int status = 0;
  const std::unique_ptr<char, void (*)(void*)> text(abi::__cxa_demangle(name, nullptr, nullptr, &status), std::free);
  return status == 0 ? text.get() : name;
}

std::string type_name(const std::exception& error) {
  std::string name = demangle(typeid(error).name());
  if (dynamic_cast<const Origin*>(&error) == nullptr) return name;
  const std::size_t from = name.find('<') + 1;
  return name.substr(from, name.rfind('>') - from);
}

std::string to_string(detail::ObjectId id) {
  return std::to_string(id.span.owner()) + "." + std::to_string(id.span.value & 0xff'ffff'ffff) + "." +
         std::to_string(id.index);
}

ErrorPtr make_error(ErrorKind kind, std::string message, std::string task, detail::ObjectId id, detail::RankId rank,
                    int attempt, std::string host) {
  auto error = std::make_shared<ErrorRecord>();
  error->kind = kind;
  error->message = std::move(message);
  error->failure = {std::move(task), to_string(id), rank == detail::kNoRank ? 0 : rank, std::move(host), attempt};
  return error;
}

std::optional<detail::ObjectId> parse_id(const std::string& text) {
  std::uint32_t owner = 0;
  std::uint64_t number = 0;
  std::uint32_t index = 0;
  const char* at = text.data();
  const char* const end = at + text.size();
  const auto next = [&at, end](auto& value) {
    const auto result = std::from_chars(at, end, value);
    at = result.ptr;
    return result.ec == std::errc();
  };
  const auto dot = [&at, end] { return at != end && *at++ == '.'; };
  if (!next(owner) || !dot() || !next(number) || !dot() || !next(index) || at != end) return std::nullopt;
  return detail::ObjectId{detail::SpanId::make(owner, number), index};
}

ErrorRecord capture(const std::exception_ptr& error, const Failure& where) {
  ErrorRecord record;
  record.failure = where;
  try {
    std::rethrow_exception(error);
  } catch (const std::exception& e) {
    if (const auto* origin = dynamic_cast<const Origin*>(&e)) return origin->record;
    if (const auto* detached = dynamic_cast<const Detached*>(&e)) {
      record = detached->record;
      if (record.failure.id.empty()) record.failure = where;
      return record;
    }
    describe(record, e);
  } catch (...) {
    const std::type_info* type = abi::__cxa_current_exception_type();
    record.type = type != nullptr ? demangle(type->name()) : "unknown";
    record.message = "an exception of type " + record.type;
  }
  return record;
}

std::exception_ptr detached() { return std::make_exception_ptr(Detached(capture(std::current_exception(), {}))); }

void raise(const ErrorRecord& record) {
  switch (record.kind) {
    case ErrorKind::standard:
      if (const auto found = standard_names().find(record.type); found != standard_names().end()) {
        found->second(record);
      }
      break;
    case ErrorKind::task: {
      ErrorRecord named = record;
      if (record.message.find(record.type) == std::string::npos) named.message = record.type + ": " + record.message;
      throw CarriedError<TaskError>(named);
    }
    case ErrorKind::worker_lost: throw CarriedError<WorkerLost>(record);
    case ErrorKind::object_lost: throw CarriedError<ObjectLost>(record);
    case ErrorKind::infeasible: throw CarriedError<Infeasible>(record);
    case ErrorKind::store_full: throw CarriedError<StoreFull>(record);
    case ErrorKind::timed_out: throw CarriedError<TimedOut>(record);
    case ErrorKind::cancelled: throw CarriedError<Cancelled>(record);
    case ErrorKind::protocol: throw CarriedError<ProtocolError>(record);
    case ErrorKind::actor_died: throw CarriedError<ActorDied>(record);
    case ErrorKind::no_such_actor: throw CarriedError<NoSuchActor>(record);
    case ErrorKind::backpressure: throw CarriedError<Backpressure>(record);
    case ErrorKind::task_crashed: throw CarriedError<TaskCrashed>(record);
    case ErrorKind::command_failed: throw CarriedError<CommandFailed>(record);
    case ErrorKind::deadlock: throw CarriedError<Error>(record);
  }
  throw CarriedError<TaskError>(record);
}

void check_failed(const char* condition, const char* file, int line, const std::string& message) {
  std::fprintf(stderr, "mobula: internal error: %s (%s) at %s:%d\n", message.c_str(), condition, file, line);
  trace_dump_recent(stderr);
  std::abort();
}

}  // namespace mobula::core

namespace mobula {

const Failure* failure_of(const std::exception& e) noexcept {
  const auto* origin = dynamic_cast<const core::Origin*>(&e);
  return origin != nullptr ? &origin->record.failure : nullptr;
}

namespace detail {
void throw_damaged(const char* what) { throw ProtocolError(std::string("a message or value is damaged: ") + what); }
}  // namespace detail

}  // namespace mobula
