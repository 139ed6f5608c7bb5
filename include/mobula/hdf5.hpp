// Values in HDF5 files, so that results outlive the job. Link Mobula::hdf5. The files open in h5dump, h5py and others.
//
//   mobula::save(ref, "results.h5", "run1/energies", {.compression = 4});
//   mobula::Ref<std::vector<double>> again = mobula::load<std::vector<double>>("results.h5", "run1/energies");
//
// What can be saved: numbers, enums, bool, std::complex, plain structs of these (describe their members once, see
// Hdf5Fields), std::array and std::string, and std::vector (or another contiguous range) of those. A vector becomes a
// dataset of one dimension, a vector of arrays one of two, a single value one of none.
#pragma once

#include <array>
#include <complex>
#include <cstddef>
#include <cstdint>
#include <string>
#include <string_view>
#include <tuple>
#include <type_traits>
#include <vector>

#include "mobula/error.hpp"
#include "mobula/view.hpp"

namespace mobula {

// The members of a plain struct, as HDF5 shows them:
//   template <> struct mobula::Hdf5Fields<Atom> {
//     static constexpr auto fields = std::tuple{std::pair{"x", &Atom::x}, std::pair{"charge", &Atom::charge}};
//   };
template <class S>
struct Hdf5Fields;

struct SaveOptions {
  int compression = 0;     // 0 to 9: deflate, with the bytes shuffled first
  bool overwrite = false;  // replace a dataset of that name
};

namespace detail {

// A type as HDF5 knows it.
struct H5Type {
  enum class Kind : std::uint8_t { integer, real, boolean, compound, text };
  struct Field {
    std::string name;
    std::size_t offset;
    std::vector<H5Type> type;  // one
  };
  Kind kind = Kind::integer;
  std::size_t size = 0;
  bool is_signed = false;
  std::vector<std::uint64_t> dims;  // of an array of `kind`; size is then that of one element
  std::vector<Field> fields;
};

template <class T>
inline constexpr bool is_std_array = false;
template <class E, std::size_t N>
inline constexpr bool is_std_array<std::array<E, N>> = true;
template <class T>
inline constexpr bool is_std_complex = false;
template <class E>
inline constexpr bool is_std_complex<std::complex<E>> = true;

template <class T>
H5Type h5_type() {
  H5Type type;
  type.size = sizeof(T);
  if constexpr (std::is_same_v<T, bool>) {
    type.kind = H5Type::Kind::boolean;
  } else if constexpr (std::is_enum_v<T>) {
    return h5_type<std::underlying_type_t<T>>();
  } else if constexpr (std::is_integral_v<T>) {
    type.is_signed = std::is_signed_v<T>;
  } else if constexpr (std::is_floating_point_v<T>) {
    type.kind = H5Type::Kind::real;
  } else if constexpr (is_std_complex<T>) {
    type.kind = H5Type::Kind::compound;
    const H5Type part = h5_type<typename T::value_type>();
    type.fields = {{"r", 0, {part}}, {"i", part.size, {part}}};
  } else if constexpr (is_std_array<T>) {
    type = h5_type<typename T::value_type>();
    type.dims.insert(type.dims.begin(), std::tuple_size_v<T>);
  } else {
    static_assert(
        requires { Hdf5Fields<T>::fields; },
        "mobula: describe the members of this struct in a specialization of mobula::Hdf5Fields");
    static_assert(std::is_trivially_copyable_v<T>, "mobula: only plain structs can be saved");
    type.kind = H5Type::Kind::compound;
    static const T sample{};
    std::apply(
        [&type](const auto&... field) {
          (type.fields.push_back({field.first,
                                  static_cast<std::size_t>(reinterpret_cast<const char*>(&(sample.*field.second)) -
                                                           reinterpret_cast<const char*>(&sample)),
                                  {h5_type<std::remove_cvref_t<decltype(sample.*field.second)>>()}}),
           ...);
        },
        Hdf5Fields<T>::fields);
  }
  return type;
}

// A dataset: `dims` of elements of `type`; an array type adds its own dimensions.
void h5_save(const std::string& file, const std::string& dataset, const H5Type& type, std::vector<std::uint64_t> dims,
             const void* data, std::string_view type_name, const SaveOptions& options);

// Reads a dataset in two steps: its shape, then its elements.
class H5Reader {
 public:
  H5Reader(const std::string& file, const std::string& dataset);
  ~H5Reader();
  H5Reader(const H5Reader&) = delete;
  H5Reader& operator=(const H5Reader&) = delete;
  // The number of elements of the type, of which the dataset has one dimension (`many`) or none.
  std::uint64_t elements(const H5Type& type, bool many) const;
  void read(const H5Type& type, void* into) const;

 private:
  struct State;
  std::unique_ptr<State> state_;
};

// What a value is made of: itself, the elements of a range, or the characters of a string.
template <class T>
struct H5Element {
  using type = T;
};
template <ViewsElements T>
requires(!is_std_array<T>) struct H5Element<T> {
  using type = std::ranges::range_value_t<T>;
};

}  // namespace detail

// Writes a value into a file, which is made if there is none, as a dataset with the attributes "type" (the C++ type)
// and "shape". Groups in the dataset's name are made. Waits for the value; runs where it is called. Throws what get
// throws; Error if the file can't be written or the dataset is there already.
template <class T>
void save(const Ref<T>& ref, const std::string& file, const std::string& dataset, const SaveOptions& options = {}) {
  using Element = typename detail::H5Element<T>::type;
  const auto view = mobula::view(ref);
  detail::H5Type type = detail::h5_type<Element>();
  if constexpr (std::is_same_v<T, std::string>) {
    type.kind = detail::H5Type::Kind::text;
    type.size = view.size();
    detail::h5_save(file, dataset, type, {}, view.data(), "std::string", options);
  } else if constexpr (std::is_same_v<T, Element>) {
    detail::h5_save(file, dataset, type, {}, &*view, __PRETTY_FUNCTION__, options);
  } else {
    detail::h5_save(file, dataset, type, {view.size()}, view.data(), __PRETTY_FUNCTION__, options);
  }
}

// Reads a dataset into the object store. Numbers are converted where HDF5 can. Throws Error if the file, the dataset or
// its shape is not what T needs; StoreFull.
template <class T>
Ref<T> load(const std::string& file, const std::string& dataset) {
  using Element = typename detail::H5Element<T>::type;
  detail::H5Type type = detail::h5_type<Element>();
  const detail::H5Reader reader(file, dataset);
  detail::Encoder out;
  if constexpr (std::is_same_v<T, Element>) {
    out.buffer = detail::room_for(sizeof(T));
    reader.elements(type, false);
    reader.read(type, out.buffer.extend(sizeof(T)));
  } else {
    if constexpr (std::is_same_v<T, std::string>) type.kind = detail::H5Type::Kind::text;
    const std::uint64_t n = reader.elements(type, true);
    if constexpr (std::is_same_v<T, std::string>) type.size = n;
    out.buffer = detail::room_for(sizeof n + n * sizeof(Element));
    out.put(n);
    reader.read(type, out.buffer.extend(n * sizeof(Element)));
  }
  return Ref<T>(detail::put(std::move(out)));
}

}  // namespace mobula
