// Frames and values from an enemy: decoding ends in ProtocolError or success, nothing else.
#include <map>
#include <optional>
#include <string>
#include <tuple>
#include <variant>
#include <vector>

#include "core/messages.hpp"
#include "mobula/ref.hpp"

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  using Value = std::vector<std::variant<std::map<std::string, std::optional<int>>,
                                         std::tuple<bool, std::vector<std::string>>, std::vector<double>>>;
  const mobula::detail::ByteView bytes(reinterpret_cast<const std::byte*>(data), size);
  try {
    // What is decoded is encoded again, so that all of it is read.
    mobula::core::read_frame(bytes, [](const auto& message) {
      mobula::detail::Buffer again;
      mobula::core::append_message(again, message);
    });
  } catch (const mobula::ProtocolError&) {
  }
  try {
    mobula::detail::Encoder again;
    mobula::detail::encode(again, mobula::detail::decode_value<Value>(bytes));
  } catch (const mobula::ProtocolError&) {
  }
  return 0;
}
