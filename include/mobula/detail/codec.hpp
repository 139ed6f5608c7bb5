// Values to bytes and back. Trivially copyable types and contiguous ranges of them are one copy; standard containers,
// strings, pairs, tuples, optionals and variants go element by element; other classes through the `serialize` that
// Boost.Serialization users write (intrusive, free, or split). Raw pointers and views are rejected at compile time.
//
// Decoding trusts nothing: every damaged input ends in ProtocolError, never in undefined behaviour. The one thing it
// can't check is what a trivially copyable struct of the user's means by its bytes.
//
// The bytes are those of this machine's memory: all ranks of a job run the same binary.
#pragma once

#include <array>
#include <bit>
#include <boost/serialization/serialization.hpp>
#include <boost/serialization/version.hpp>
#include <concepts>
#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <memory>
#include <new>
#include <optional>
#include <ranges>
#include <span>
#include <string>
#include <tuple>
#include <type_traits>
#include <utility>
#include <variant>
#include <vector>

#include "mobula/detail/handle.hpp"

namespace boost::serialization {
template <class T>
class nvp;
}

namespace mobula::detail {

using ByteView = std::span<const std::byte>;

[[noreturn]] void throw_damaged(const char* what);

// Where a buffer's bytes lie, if not on the heap.
class Memory {
 public:
  // Takes bytes back that were given as `data`. On any thread.
  virtual void release(std::byte* data, std::size_t capacity) noexcept = 0;

 protected:
  ~Memory() = default;
};

// Growing bytes, not initialised before they are written. What outgrows memory that was given goes to the heap.
class Buffer {
 public:
  Buffer() = default;
  Buffer(Buffer&& o) noexcept
      : data_(std::exchange(o.data_, nullptr)),
        size_(std::exchange(o.size_, 0)),
        capacity_(std::exchange(o.capacity_, 0)),
        memory_(std::exchange(o.memory_, nullptr)) {}
  Buffer& operator=(Buffer&& o) noexcept {
    std::swap(data_, o.data_);
    std::swap(size_, o.size_);
    std::swap(capacity_, o.capacity_);
    std::swap(memory_, o.memory_);
    return *this;
  }
  explicit Buffer(ByteView bytes) { append(bytes.data(), bytes.size()); }
  Buffer(std::byte* data, std::size_t capacity, Memory& memory) : data_(data), capacity_(capacity), memory_(&memory) {}
  ~Buffer() { drop(); }

  std::byte* data() { return data_; }
  const std::byte* data() const { return data_; }
  std::size_t size() const { return size_; }
  std::size_t capacity() const { return capacity_; }
  bool empty() const { return size_ == 0; }
  ByteView view() const { return {data_, size_}; }
  void clear() { size_ = 0; }
  void shrink(std::size_t size) { size_ = size; }

  void reserve(std::size_t capacity) {
    if (capacity > capacity_) grow(capacity);
  }
  // Room for n more bytes; returns where they start.
  std::byte* extend(std::size_t n) {
    if (n > capacity_ - size_) grow(size_ + n);
    std::byte* at = data_ + size_;
    size_ += n;
    return at;
  }
  void append(const void* bytes, std::size_t n) {
    if (n != 0) std::memcpy(extend(n), bytes, n);
  }

 private:
  void grow(std::size_t least) {
    std::size_t capacity = capacity_ + capacity_ / 2;
    if (capacity < least) capacity = least;
    if (capacity < 64) capacity = 64;
    void* data = std::realloc(memory_ == nullptr ? data_ : nullptr, capacity);
    if (data == nullptr) throw std::bad_alloc();
    if (memory_ != nullptr) {
      if (size_ != 0) std::memcpy(data, data_, size_);
      drop();
      memory_ = nullptr;
    }
    data_ = static_cast<std::byte*>(data);
    capacity_ = capacity;
  }
  void drop() noexcept {
    if (memory_ == nullptr) {
      std::free(data_);
    } else if (data_ != nullptr) {
      memory_->release(data_, capacity_);
    }
  }

  std::byte* data_ = nullptr;
  std::size_t size_ = 0;
  std::size_t capacity_ = 0;
  Memory* memory_ = nullptr;
};

class Encoder {
 public:
  template <class T>
  void put(const T& value) {
    static_assert(std::is_trivially_copyable_v<T>);
    std::memcpy(buffer.extend(sizeof(T)), &value, sizeof(T));
  }
  void bytes(const void* data, std::size_t n) { buffer.append(data, n); }
  // Writes the id, and notes that the value holds the object.
  void ref(const Handle& handle);

  Buffer buffer;
  std::vector<Handle> refs;  // the objects that the encoded values hold
};

class Decoder {
 public:
  Decoder() = default;
  explicit Decoder(ByteView bytes) : at_(bytes.data()), end_(bytes.data() + bytes.size()) {}

  std::size_t remaining() const { return static_cast<std::size_t>(end_ - at_); }
  const std::byte* take(std::size_t n) {
    if (n > remaining()) throw_damaged("it ends too early");
    const std::byte* at = at_;
    at_ += n;
    return at;
  }
  template <class T>
  T get() {
    static_assert(std::is_trivially_copyable_v<T>);
    std::array<std::byte, sizeof(T)> raw;
    std::memcpy(raw.data(), take(sizeof(T)), sizeof(T));
    return std::bit_cast<T>(raw);
  }
  // A length that was written before elements of at least one byte each.
  std::size_t length() {
    const auto n = get<std::uint64_t>();
    if (n > remaining()) throw_damaged("a length is larger than the rest");
    return static_cast<std::size_t>(n);
  }
  bool flag() {
    const auto value = get<std::uint8_t>();
    if (value > 1) throw_damaged("a flag is neither 0 nor 1");
    return value == 1;
  }
  // A counted handle to the object whose id comes next.
  Handle ref();
  void finish() const {
    if (at_ != end_) throw_damaged("bytes are left over");
  }

 private:
  const std::byte* at_ = nullptr;
  const std::byte* end_ = nullptr;
};

template <class T>
inline constexpr bool is_nvp = false;  // Boost's name-value pair: the name is not kept
template <class T>
inline constexpr bool is_nvp<boost::serialization::nvp<T>> = true;

template <class T>
void encode(Encoder& out, const T& value);
template <class T>
void decode(Decoder& in, T& value);

// What Boost.Serialization's `serialize(archive, version)` sees.
class OutArchive {
 public:
  using is_saving = boost::mpl::bool_<true>;
  using is_loading = boost::mpl::bool_<false>;
  explicit OutArchive(Encoder& out) : out_(out) {}
  template <class T>
  OutArchive& operator&(const T& value) {
    if constexpr (is_nvp<T>) {
      encode(out_, value.const_value());
    } else {
      encode(out_, value);
    }
    return *this;
  }
  template <class T>
  OutArchive& operator<<(const T& value) {
    return *this & value;
  }

 private:
  Encoder& out_;
};

class InArchive {
 public:
  using is_saving = boost::mpl::bool_<false>;
  using is_loading = boost::mpl::bool_<true>;
  explicit InArchive(Decoder& in) : in_(in) {}
  template <class T>
  InArchive& operator&(T&& value) {
    if constexpr (is_nvp<std::remove_cvref_t<T>>) {
      return *this & const_cast<std::remove_cvref_t<T>&>(value).value();
    } else {
      decode(in_, value);
      return *this;
    }
  }
  template <class T>
  InArchive& operator>>(T&& value) {
    return *this & std::forward<T>(value);
  }

 private:
  Decoder& in_;
};

template <class T>
inline constexpr bool is_ref = std::is_base_of_v<RefBase, T>;

template <class T>
inline constexpr bool is_actor = std::is_base_of_v<ActorBase, T>;

template <class T>
inline constexpr bool is_optional = false;
template <class T>
inline constexpr bool is_optional<std::optional<T>> = true;

template <class T>
inline constexpr bool is_variant = false;
template <class... T>
inline constexpr bool is_variant<std::variant<T...>> = true;

template <class T>
concept TupleLike = requires {
  std::tuple_size<T>::value;
}
&&!std::ranges::range<T>;

template <class T>
inline constexpr bool is_view_or_pointer =
    std::is_pointer_v<T> || std::is_member_pointer_v<T> || std::is_null_pointer_v<T> || std::ranges::view<T>;

// One copy of sizeof(T) bytes. bool is apart, since two bit patterns of it are valid and 254 are not.
template <class T>
inline constexpr bool is_bitwise = std::is_trivially_copyable_v<T> && !is_view_or_pointer<T> &&
                                   !std::is_same_v<T, bool> && !is_ref<T> && !is_optional<T> && !is_variant<T>;

template <class T>
concept BitwiseSequence = std::ranges::contiguous_range<const T> && std::ranges::sized_range<const T> &&
    requires(T& t, std::size_t n) {
  t.resize(n);
} && is_bitwise<std::ranges::range_value_t<T>>;

template <class T>
concept Container = std::ranges::range<const T> && requires(const T& t, T& m) {
  typename T::value_type;
  t.begin();
  m.clear();
} &&(
    requires(T& t) { t.push_back(std::declval<typename T::value_type>()); } ||
    requires(T & t) { t.insert(t.end(), std::declval<typename T::value_type>()); });

template <class T>
struct Decoded {  // the type that an element is decoded as: map entries have a const key
  using type = T;
};
template <class K, class V>
struct Decoded<std::pair<const K, V>> {
  using type = std::pair<K, V>;
};

template <class T>
void encode(Encoder& out, const T& value) {
  static_assert(!is_view_or_pointer<T>,
                "mobula: a raw pointer, string_view, span or other view can't travel to another rank; "
                "pass the value itself, or a Ref to it");
  if constexpr (is_ref<T>) {
    out.ref(value.handle());
    if constexpr (is_actor<T>) out.put(value.limits());
  } else if constexpr (std::is_same_v<T, bool>) {
    out.put(static_cast<std::uint8_t>(value));
  } else if constexpr (is_bitwise<T>) {
    out.put(value);
  } else if constexpr (is_optional<T>) {
    out.put(static_cast<std::uint8_t>(value.has_value()));
    if (value) encode(out, *value);
  } else if constexpr (is_variant<T>) {
    if (value.valueless_by_exception()) throw std::bad_variant_access();
    out.put(static_cast<std::uint32_t>(value.index()));
    std::visit([&out](const auto& held) { encode(out, held); }, value);
  } else if constexpr (TupleLike<T>) {
    std::apply([&out](const auto&... part) { (encode(out, part), ...); }, value);
  } else if constexpr (BitwiseSequence<T>) {
    out.put(static_cast<std::uint64_t>(std::ranges::size(value)));
    out.bytes(std::ranges::data(value), std::ranges::size(value) * sizeof(std::ranges::range_value_t<T>));
  } else if constexpr (Container<T>) {
    out.put(static_cast<std::uint64_t>(std::ranges::distance(value)));
    for (const auto& element : value) {
      using Element = typename T::value_type;
      if constexpr (std::is_same_v<std::remove_cvref_t<decltype(element)>, Element>) {
        encode(out, element);
      } else {
        encode<Element>(out, element);  // a proxy, as of std::vector<bool>
      }
    }
  } else if constexpr (requires { std::tuple_size<T>::value; }) {  // std::array of what is not bitwise
    for (const auto& element : value) encode(out, element);
  } else {
    static_assert(std::is_class_v<T>, "mobula: this type can't be encoded");
    OutArchive archive(out);
    boost::serialization::serialize_adl(archive, const_cast<T&>(value), boost::serialization::version<T>::value);
  }
}

template <class T>
void decode(Decoder& in, T& value) {
  static_assert(!is_view_or_pointer<T>, "mobula: a raw pointer or view can't come from another rank");
  if constexpr (is_ref<T>) {
    if constexpr (is_actor<T>) {
      Handle handle = in.ref();
      value = T(std::move(handle), in.get<CallLimits>());
    } else {
      value = T(in.ref());
    }
  } else if constexpr (std::is_same_v<T, bool>) {
    value = in.flag();
  } else if constexpr (is_bitwise<T>) {
    std::memcpy(&value, in.take(sizeof(T)), sizeof(T));
  } else if constexpr (is_optional<T>) {
    if (in.flag()) {
      decode(in, value.emplace());
    } else {
      value.reset();
    }
  } else if constexpr (is_variant<T>) {
    const auto index = in.get<std::uint32_t>();
    if (index >= std::variant_size_v<T>) throw_damaged("a variant has no such alternative");
    [&]<std::size_t... I>(std::index_sequence<I...>) {
      ((I == index ? decode(in, value.template emplace<I>()) : void()), ...);
    }
    (std::make_index_sequence<std::variant_size_v<T>>{});
  } else if constexpr (TupleLike<T>) {
    std::apply([&in](auto&... part) { (decode(in, part), ...); }, value);
  } else if constexpr (BitwiseSequence<T>) {
    using Element = std::ranges::range_value_t<T>;
    const auto n = in.get<std::uint64_t>();
    if (n > in.remaining() / sizeof(Element)) throw_damaged("a length is larger than the rest");
    const std::byte* from = in.take(static_cast<std::size_t>(n) * sizeof(Element));
    if constexpr (requires(const Element* e) { value.assign(e, e); } && alignof(Element) == 1) {
      const auto* first = reinterpret_cast<const Element*>(from);
      value.assign(first, first + n);
    } else {
      value.resize(static_cast<std::size_t>(n));
      if (n != 0) std::memcpy(std::ranges::data(value), from, static_cast<std::size_t>(n) * sizeof(Element));
    }
  } else if constexpr (Container<T>) {
    using Element = typename Decoded<typename T::value_type>::type;
    const std::size_t n = in.length();
    value.clear();
    for (std::size_t i = 0; i < n; ++i) {
      Element element{};
      decode(in, element);
      if constexpr (requires { value.push_back(std::move(element)); }) {
        value.push_back(std::move(element));
      } else {
        value.insert(value.end(), std::move(element));
      }
    }
  } else if constexpr (requires { std::tuple_size<T>::value; }) {
    for (auto& element : value) decode(in, element);
  } else {
    InArchive archive(in);
    boost::serialization::serialize_adl(archive, value, boost::serialization::version<T>::value);
  }
}

template <class T>
T decode(Decoder& in) {
  static_assert(std::is_default_constructible_v<T>,
                "mobula: a value that travels must be default constructible, so that it can be decoded");
  if constexpr (is_bitwise<T>) {
    if constexpr (requires { std::bit_cast<T>(std::array<std::byte, sizeof(T)>{}); }) return in.get<T>();
  }
  T value{};
  decode(in, value);
  return value;
}

// Has `serialize`, as a member (which may be private, with boost::serialization::access as a friend) or beside it.
// Looked up by name: a base that has it too makes the name ambiguous.
struct WithSerialize {
  void serialize() {}
};
template <class T>
struct AlsoSerialize : T, WithSerialize {};
template <class T>
concept NamesSerialize = std::is_class_v<T> && !std::is_final_v<T> && !requires {
  &AlsoSerialize<T>::serialize;
};
template <class T>
inline constexpr bool has_serialize = NamesSerialize<T> || requires(T& value, OutArchive& archive) {
  value.serialize(archive, 0U);
}
|| requires(T& value, OutArchive& archive) { serialize(archive, value, 0U); };

// By `serialize`, whatever else the type is.
template <class T>
void save_state(Encoder& out, T& value) {
  OutArchive archive(out);
  boost::serialization::serialize_adl(archive, value, boost::serialization::version<T>::value);
}
template <class T>
void restore_state(Decoder& in, T& value) {
  InArchive archive(in);
  boost::serialization::serialize_adl(archive, value, boost::serialization::version<T>::value);
  in.finish();
}

// Bytes that encoding will take, where that is known without encoding; 0 where it is not.
template <class T>
std::size_t encoded_size(const T& value) {
  if constexpr (is_bitwise<T>) {
    return sizeof(T);
  } else if constexpr (BitwiseSequence<T> && !is_ref<T>) {
    return sizeof(std::uint64_t) + std::ranges::size(value) * sizeof(std::ranges::range_value_t<T>);
  } else {
    return 0;
  }
}

// The size that every value of T takes, or kVariable.
inline constexpr std::uint32_t kVariable = 0xffff'ffff;
template <class T>
constexpr std::uint32_t fixed_size_of() {
  if constexpr (std::is_void_v<T>) {
    return 0;
  } else if constexpr (std::is_same_v<T, bool>) {
    return 1;
  } else if constexpr (is_bitwise<T>) {
    return sizeof(T) <= 4096 ? sizeof(T) : kVariable;
  } else {
    return kVariable;
  }
}
template <class T>
inline constexpr std::uint32_t fixed_size = fixed_size_of<T>();

}  // namespace mobula::detail
