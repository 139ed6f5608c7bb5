// How protocol structs become bytes: each lists its members once, in `fields`, for both directions.
#pragma once

#include <chrono>
#include <map>
#include <string>
#include <vector>

#include "mobula/detail/codec.hpp"
#include "mobula/options.hpp"

namespace mobula::core {

using detail::ByteView;

class WireWriter {
 public:
  explicit WireWriter(detail::Buffer& out) : out_(out) {}

  template <class... T>
  void operator()(const T&... values) {
    (put(values), ...);
  }

 private:
  template <class T>
  void put(const T& value) {
    if constexpr (std::is_same_v<T, ByteView>) {
      put(static_cast<std::uint64_t>(value.size()));
      out_.append(value.data(), value.size());
    } else if constexpr (std::is_same_v<T, std::string>) {
      put(static_cast<std::uint64_t>(value.size()));
      out_.append(value.data(), value.size());
    } else if constexpr (requires { value.fields(*this); }) {
      value.fields(*this);
    } else if constexpr (requires { const_cast<T&>(value).fields(*this); }) {
      const_cast<T&>(value).fields(*this);  // `fields` serves both directions, so it is not const
    } else if constexpr (requires { typename T::mapped_type; }) {
      put(static_cast<std::uint64_t>(value.size()));
      for (const auto& [key, mapped] : value) (*this)(key, mapped);
    } else if constexpr (requires {
                           value.begin();
                           value.size();
                         }) {
      put(static_cast<std::uint64_t>(value.size()));
      if constexpr (std::is_trivially_copyable_v<typename T::value_type> && !kVisited<typename T::value_type>) {
        out_.append(value.data(), value.size() * sizeof(typename T::value_type));
      } else {
        for (const auto& element : value) put(element);
      }
    } else if constexpr (std::is_same_v<T, bool>) {
      put(static_cast<std::uint8_t>(value));
    } else {
      static_assert(std::is_trivially_copyable_v<T>);
      out_.append(&value, sizeof value);
    }
  }

  template <class T>
  static constexpr bool kVisited = requires(T& t, WireWriter& w) {
    t.fields(w);
  }
  || std::is_same_v<T, ByteView>;

  detail::Buffer& out_;
};

// Views that are read point into the frame.
class WireReader {
 public:
  explicit WireReader(ByteView bytes) : in_(bytes) {}

  template <class... T>
  void operator()(T&... values) {
    (get(values), ...);
  }
  std::size_t remaining() const { return in_.remaining(); }

 private:
  template <class T>
  void get(T& value) {
    if constexpr (std::is_same_v<T, ByteView>) {
      const std::size_t n = in_.length();
      value = ByteView(in_.take(n), n);
    } else if constexpr (std::is_same_v<T, std::string>) {
      const std::size_t n = in_.length();
      value.assign(reinterpret_cast<const char*>(in_.take(n)), n);
    } else if constexpr (requires { value.fields(*this); }) {
      value.fields(*this);
    } else if constexpr (requires { typename T::mapped_type; }) {
      const std::size_t n = in_.length();
      value.clear();
      for (std::size_t i = 0; i < n; ++i) {
        typename T::key_type key{};
        get(key);
        get(value[std::move(key)]);
      }
    } else if constexpr (requires {
                           value.begin();
                           value.size();
                         }) {
      using Element = typename T::value_type;
      const auto n = in_.get<std::uint64_t>();
      if constexpr (std::is_trivially_copyable_v<Element> && !kVisited<Element>) {
        if (n > in_.remaining() / sizeof(Element)) detail::throw_damaged("a length is larger than the rest");
        value.resize(static_cast<std::size_t>(n));
        if (n != 0) std::memcpy(value.data(), in_.take(n * sizeof(Element)), n * sizeof(Element));
      } else {
        if (n > in_.remaining()) detail::throw_damaged("a length is larger than the rest");
        value.clear();
        for (std::uint64_t i = 0; i < n; ++i) get(value.emplace_back());
      }
    } else if constexpr (std::is_same_v<T, bool>) {
      value = in_.flag();
    } else if constexpr (std::is_enum_v<T> && requires { T::last; }) {
      value = in_.get<T>();
      if (value > T::last) detail::throw_damaged("an enumerator does not exist");
    } else {
      static_assert(std::is_trivially_copyable_v<T>);
      value = in_.get<T>();
    }
  }

  template <class T>
  static constexpr bool kVisited = requires(T& t, WireReader& r) {
    t.fields(r);
  }
  || std::is_same_v<T, ByteView>;

  detail::Decoder in_;
};

}  // namespace mobula::core
