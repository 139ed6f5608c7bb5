// Values in place: no copy, however large.
#pragma once

#include <cstddef>
#include <memory>
#include <span>
#include <utility>

#include "mobula/ref.hpp"

namespace mobula {

namespace detail {

template <class T>
concept ViewsElements = BitwiseSequence<T> ||
    (is_bitwise<T>&& std::ranges::contiguous_range<const T>&& is_bitwise<std::ranges::range_value_t<T>>);

// The bytes from `offset` on, at a multiple of `align`: where they are, or, if they lie otherwise (small values that
// came inline), in a copy. The rest of the value is dropped.
Value aligned(Value&& value, std::size_t offset, std::size_t align);

}  // namespace detail

// A read-only view of a value. For a contiguous range of trivially copyable elements (std::vector, std::string,
// std::array, …) it is a range of them and converts to std::span; a trivially copyable T is dereferenced. Large values
// stay where they are while a View of them lives: they are neither moved out of memory nor freed. Copies are cheap and
// share the pin. A View must not outlive mobula::run.
template <class T>
class View {
  static_assert(detail::ViewsElements<T> || detail::is_bitwise<T>,
                "mobula: view is for trivially copyable types and contiguous ranges of them; use get for this type");

  template <class U>
  struct ElementOf {
    using type = U;
  };
  template <detail::ViewsElements U>
  struct ElementOf<U> {
    using type = std::ranges::range_value_t<U>;
  };

 public:
  using element_type = typename ElementOf<T>::type;
  static constexpr bool is_range = detail::ViewsElements<T>;

  View() = default;
  View(detail::Handle handle, detail::Value value) : handle_(std::move(handle)) {
    if constexpr (detail::is_bitwise<T>) {
      if (value.bytes.size() != sizeof(T)) detail::throw_damaged("a value is not of its type's size");
      size_ = is_range ? sizeof(T) / sizeof(element_type) : 1;
      value_ = detail::aligned(std::move(value), 0, alignof(T));
    } else {
      detail::Decoder in(value.bytes);
      const auto n = in.get<std::uint64_t>();
      if (in.remaining() % sizeof(element_type) != 0 || n != in.remaining() / sizeof(element_type)) {
        detail::throw_damaged("a value is not of its type's size");
      }
      size_ = static_cast<std::size_t>(n);
      value_ = detail::aligned(std::move(value), sizeof n, alignof(element_type));
    }
  }

  std::size_t size() const requires is_range { return size_; }
  bool empty() const requires is_range { return size_ == 0; }
  const element_type* data() const { return reinterpret_cast<const element_type*>(value_.bytes.data()); }
  const element_type* begin() const requires is_range { return data(); }
  const element_type* end() const requires is_range { return data() + size_; }
  const element_type& operator[](std::size_t i) const requires is_range { return data()[i]; }
  operator std::span<const element_type>() const requires is_range { return {data(), size_}; }

  const T& operator*() const requires detail::is_bitwise<T> { return *reinterpret_cast<const T*>(value_.bytes.data()); }
  const T* operator->() const requires detail::is_bitwise<T> { return &**this; }

 private:
  detail::Handle handle_;
  detail::Value value_;
  std::size_t size_ = 0;
};

// Waits for the value and gives a view of it where it lies: in the memory of this rank, of another rank of this node,
// or of this rank once it has come from another node. Throws as get does.
template <class T>
View<T> view(const Ref<T>& ref, Duration timeout = none) {
  return View<T>(ref.handle(), detail::await(ref.handle(), timeout));
}

}  // namespace mobula
