// Values that outlive the job, in its journal (setting `journal`). See also TaskOptions::durable.
//
//   mobula::keep("centres", centres);                        // in one job
//   if (auto centres = mobula::kept<Centres>("centres")) …   // in the next
#pragma once

#include <optional>
#include <string>

#include "mobula/detail/core.hpp"

namespace mobula {

namespace detail {
bool has_journal();
void keep(const std::string& name, Encoder&& value);
bool kept(const std::string& name, Buffer& value);
}  // namespace detail

// Whether the job has a journal.
inline bool has_journal() { return detail::has_journal(); }

// Keeps the value under the name, in place of an earlier one; it is on the disk when this returns. Of the driver.
// Throws Error where there is no journal, and std::invalid_argument for a value that holds Refs.
template <class T>
void keep(const std::string& name, const T& value) {
  detail::Encoder out;
  detail::encode<T>(out, value);
  detail::keep(name, std::move(out));
}

// What this job or an earlier one has kept under the name; none: nothing. Of the driver. Throws Error where there is no
// journal, and ProtocolError where it is a value of another type, as far as its bytes tell.
template <class T>
std::optional<T> kept(const std::string& name) {
  detail::Buffer bytes;
  if (!detail::kept(name, bytes)) return std::nullopt;
  detail::Decoder in(bytes.view());
  std::optional<T> value(detail::decode<T>(in));
  in.finish();
  return value;
}

}  // namespace mobula
