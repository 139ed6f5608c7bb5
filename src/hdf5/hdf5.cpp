#include "mobula/hdf5.hpp"

#include <hdf5.h>

#include <algorithm>
#include <filesystem>
#include <mutex>

namespace mobula::detail {
namespace {

// The library has one state for the whole process, and is built without locks.
std::mutex g_mutex;

// An identifier, given back by the function that its kind needs.
class Id {
 public:
  using Close = herr_t (*)(hid_t);
  Id(hid_t id, Close close) : id_(id), close_(close) {}
  Id(Id&& other) noexcept : id_(std::exchange(other.id_, -1)), close_(other.close_) {}
  Id& operator=(Id&& other) noexcept {
    std::swap(id_, other.id_);
    std::swap(close_, other.close_);
    return *this;
  }
  ~Id() {
    if (id_ >= 0) close_(id_);
  }
  operator hid_t() const { return id_; }

 private:
  hid_t id_;
  Close close_;
};

std::string innermost_error() {
  std::string text;
  H5Ewalk2(
      H5E_DEFAULT, H5E_WALK_UPWARD,
      [](unsigned n, const H5E_error2_t* error, void* to) -> herr_t {
        if (n == 0 && error->desc != nullptr) *static_cast<std::string*>(to) = error->desc;
        return 0;
      },
      &text);
  return text.empty() ? "no reason is given" : text;
}

[[noreturn]] void fail(const std::string& file, const std::string& dataset, const std::string& what) {
  throw Error("mobula: HDF5 file " + file + ", dataset " + dataset + ": " + what);
}

// Errors come as exceptions, not as text on stderr.
class Quiet {
 public:
  Quiet() {
    H5Eget_auto2(H5E_DEFAULT, &function_, &data_);
    H5Eset_auto2(H5E_DEFAULT, nullptr, nullptr);
  }
  ~Quiet() { H5Eset_auto2(H5E_DEFAULT, function_, data_); }
  Quiet(const Quiet&) = delete;
  Quiet& operator=(const Quiet&) = delete;

 private:
  H5E_auto2_t function_ = nullptr;
  void* data_ = nullptr;
};

// `in_array`: the dimensions of an array type are those of the type; otherwise they are the dataset's.
Id make_type(const H5Type& type, bool in_array) {
  if (in_array && !type.dims.empty()) {
    const Id element = make_type(type, false);
    const std::vector<hsize_t> dims(type.dims.begin(), type.dims.end());
    return {H5Tarray_create2(element, static_cast<unsigned>(dims.size()), dims.data()), H5Tclose};
  }
  switch (type.kind) {
    case H5Type::Kind::real: {
      const hid_t native = type.size == sizeof(float)    ? H5T_NATIVE_FLOAT
                           : type.size == sizeof(double) ? H5T_NATIVE_DOUBLE
                                                         : H5T_NATIVE_LDOUBLE;
      return {H5Tcopy(native), H5Tclose};
    }
    case H5Type::Kind::boolean: {  // as h5py has it
      Id made(H5Tenum_create(H5T_NATIVE_INT8), H5Tclose);
      const std::int8_t no = 0;
      const std::int8_t yes = 1;
      H5Tenum_insert(made, "FALSE", &no);
      H5Tenum_insert(made, "TRUE", &yes);
      return made;
    }
    case H5Type::Kind::compound: {
      Id made(H5Tcreate(H5T_COMPOUND, type.size), H5Tclose);
      for (const H5Type::Field& field : type.fields) {
        const Id part = make_type(field.type.front(), true);
        H5Tinsert(made, field.name.c_str(), field.offset, part);
      }
      return made;
    }
    case H5Type::Kind::text: {
      Id made(H5Tcopy(H5T_C_S1), H5Tclose);
      H5Tset_size(made, std::max<std::size_t>(type.size, 1));
      H5Tset_strpad(made, H5T_STR_NULLPAD);
      H5Tset_cset(made, H5T_CSET_UTF8);
      return made;
    }
    case H5Type::Kind::integer: break;
  }
  const hid_t native = type.size == 1   ? type.is_signed ? H5T_NATIVE_INT8 : H5T_NATIVE_UINT8
                       : type.size == 2 ? type.is_signed ? H5T_NATIVE_INT16 : H5T_NATIVE_UINT16
                       : type.size == 4 ? type.is_signed ? H5T_NATIVE_INT32 : H5T_NATIVE_UINT32
                                        : (type.is_signed ? H5T_NATIVE_INT64 : H5T_NATIVE_UINT64);
  return {H5Tcopy(native), H5Tclose};
}

void write_text(hid_t to, const char* name, const std::string& text) {
  H5Type type;
  type.kind = H5Type::Kind::text;
  type.size = text.size();
  const Id made = make_type(type, false);
  const Id space(H5Screate(H5S_SCALAR), H5Sclose);
  const Id attribute(H5Acreate2(to, name, made, space, H5P_DEFAULT, H5P_DEFAULT), H5Aclose);
  H5Awrite(attribute, made, text.c_str());
}

void write_numbers(hid_t to, const char* name, const std::vector<hsize_t>& numbers) {
  const hsize_t n = numbers.size();
  const Id space(n == 0 ? H5Screate(H5S_NULL) : H5Screate_simple(1, &n, nullptr), H5Sclose);
  const Id attribute(H5Acreate2(to, name, H5T_STD_U64LE, space, H5P_DEFAULT, H5P_DEFAULT), H5Aclose);
  if (n != 0) H5Awrite(attribute, H5T_NATIVE_HSIZE, numbers.data());
}

// T of "… [with T = type; …]".
std::string type_in(std::string_view function) {
  const std::size_t from = function.find("T = ");
  if (from == std::string_view::npos) return std::string(function);
  const std::string_view rest = function.substr(from + 4);
  return std::string(rest.substr(0, rest.find_first_of(";]")));
}

}  // namespace

void h5_save(const std::string& file, const std::string& dataset, const H5Type& type, std::vector<std::uint64_t> dims,
             const void* data, std::string_view type_name, const SaveOptions& options) {
  if (options.compression < 0 || options.compression > 9) {
    throw std::invalid_argument("mobula::save: compression goes from 0 to 9");
  }
  const std::lock_guard lock(g_mutex);
  const Quiet quiet;
  const bool is_there = std::filesystem::exists(file);
  const Id out(is_there ? H5Fopen(file.c_str(), H5F_ACC_RDWR, H5P_DEFAULT)
                        : H5Fcreate(file.c_str(), H5F_ACC_EXCL, H5P_DEFAULT, H5P_DEFAULT),
               H5Fclose);
  if (out < 0) fail(file, dataset, "the file can't be opened for writing: " + innermost_error());

  const Id links(H5Pcreate(H5P_LINK_CREATE), H5Pclose);
  H5Pset_create_intermediate_group(links, 1);
  if (H5Oexists_by_name(out, dataset.c_str(), H5P_DEFAULT) > 0) {
    if (!options.overwrite) fail(file, dataset, "it is there already; SaveOptions::overwrite replaces it");
    if (H5Ldelete(out, dataset.c_str(), H5P_DEFAULT) < 0)
      fail(file, dataset, "it can't be replaced: " + innermost_error());
  }

  const Id element = make_type(type, false);
  std::vector<hsize_t> shape(dims.begin(), dims.end());
  shape.insert(shape.end(), type.dims.begin(), type.dims.end());
  const Id space(
      shape.empty() ? H5Screate(H5S_SCALAR) : H5Screate_simple(static_cast<int>(shape.size()), shape.data(), nullptr),
      H5Sclose);
  const Id layout(H5Pcreate(H5P_DATASET_CREATE), H5Pclose);
  const bool any = std::all_of(shape.begin(), shape.end(), [](hsize_t n) { return n != 0; });
  if (!shape.empty() && any) {
    constexpr hsize_t kChunkBytes = 1 << 20;
    std::vector<hsize_t> chunk = shape;
    hsize_t row = H5Tget_size(element);
    for (std::size_t i = 1; i < chunk.size(); ++i) row *= chunk[i];
    chunk[0] = std::clamp<hsize_t>(kChunkBytes / row, 1, shape[0]);
    H5Pset_chunk(layout, static_cast<int>(chunk.size()), chunk.data());
    if (options.compression > 0) {
      H5Pset_shuffle(layout);
      H5Pset_deflate(layout, static_cast<unsigned>(options.compression));
    }
  }
  const Id set(H5Dcreate2(out, dataset.c_str(), element, space, links, layout, H5P_DEFAULT), H5Dclose);
  if (set < 0) fail(file, dataset, "it can't be made: " + innermost_error());
  const char empty = '\0';
  const bool is_empty_text = type.kind == H5Type::Kind::text && type.size == 0;
  if (any && H5Dwrite(set, element, H5S_ALL, H5S_ALL, H5P_DEFAULT, is_empty_text ? &empty : data) < 0) {
    fail(file, dataset, "writing fails: " + innermost_error());
  }
  write_text(set, "type", type_in(type_name));
  write_numbers(set, "shape", shape);
  if (H5Fflush(out, H5F_SCOPE_LOCAL) < 0) fail(file, dataset, "writing fails: " + innermost_error());
}

struct H5Reader::State {
  std::string file;
  std::string dataset;
  std::lock_guard<std::mutex> lock;
  Quiet quiet;
  Id in;
  Id set;
  Id space;
  Id type;
  State(const std::string& file, const std::string& dataset)
      : file(file),
        dataset(dataset),
        lock(g_mutex),
        in(H5Fopen(file.c_str(), H5F_ACC_RDONLY, H5P_DEFAULT), H5Fclose),
        set(in < 0 ? -1 : H5Dopen2(in, dataset.c_str(), H5P_DEFAULT), H5Dclose),
        space(set < 0 ? -1 : H5Dget_space(set), H5Sclose),
        type(set < 0 ? -1 : H5Dget_type(set), H5Tclose) {
    if (in < 0) fail(file, dataset, "the file can't be opened: " + innermost_error());
    if (set < 0) fail(file, dataset, "there is no such dataset");
  }
};

H5Reader::H5Reader(const std::string& file, const std::string& dataset)
    : state_(std::make_unique<State>(file, dataset)) {}
H5Reader::~H5Reader() = default;

std::uint64_t H5Reader::elements(const H5Type& type, bool many) const {
  if (type.kind == H5Type::Kind::text) {
    if (H5Tget_class(state_->type) != H5T_STRING || H5Tis_variable_str(state_->type) > 0 ||
        H5Sget_simple_extent_npoints(state_->space) != 1) {
      fail(state_->file, state_->dataset, "it is not one string of fixed length");
    }
    std::string text(H5Tget_size(state_->type), '\0');
    const Id same(H5Tcopy(state_->type), H5Tclose);
    if (H5Dread(state_->set, same, H5S_ALL, H5S_ALL, H5P_DEFAULT, text.data()) < 0) {
      fail(state_->file, state_->dataset, "reading fails: " + innermost_error());
    }
    return text == std::string(1, '\0') ? 0 : text.size();
  }
  const int rank = H5Sget_simple_extent_ndims(state_->space);
  std::vector<hsize_t> shape(static_cast<std::size_t>(std::max(rank, 0)));
  if (rank > 0) H5Sget_simple_extent_dims(state_->space, shape.data(), nullptr);
  const std::size_t expected = type.dims.size() + (many ? 1 : 0);
  if (shape.size() != expected || !std::equal(type.dims.begin(), type.dims.end(), shape.begin() + (many ? 1 : 0))) {
    std::string text;
    for (const hsize_t n : shape) text += (text.empty() ? "" : " x ") + std::to_string(n);
    fail(state_->file, state_->dataset, "its shape (" + text + ") is not that of the type it is loaded as");
  }
  const H5T_class_t has = H5Tget_class(state_->type);
  const H5T_class_t wants = H5Tget_class(make_type(type, false));
  const auto is_number = [](H5T_class_t c) { return c == H5T_INTEGER || c == H5T_FLOAT; };
  if (has != wants && !(is_number(has) && is_number(wants))) {
    fail(state_->file, state_->dataset, "its elements are not of the type it is loaded as");
  }
  return many ? shape[0] : 1;
}

void H5Reader::read(const H5Type& type, void* into) const {
  if (type.kind == H5Type::Kind::text && type.size == 0) return;
  if (H5Sget_simple_extent_npoints(state_->space) == 0) return;
  const Id element = make_type(type, false);
  if (H5Dread(state_->set, element, H5S_ALL, H5S_ALL, H5P_DEFAULT, into) < 0) {
    fail(state_->file, state_->dataset, "reading fails: " + innermost_error());
  }
}

}  // namespace mobula::detail
