#include "cli/template.hpp"

#include <algorithm>
#include <array>
#include <utility>

#include "cli/launch.hpp"

namespace mobula::cli {
namespace {

constexpr std::array kPlaces{"{}", "{.}", "{/}", "{//}", "{/.}", "{#}"};

std::string name_of(const std::string& item) {
  const std::size_t slash = item.rfind('/');
  return slash == std::string::npos ? item : item.substr(slash + 1);
}

std::string without_extension(const std::string& item) {
  const std::size_t dot = item.rfind('.');
  const std::size_t slash = item.rfind('/');
  const bool has = dot != std::string::npos && dot != 0 && (slash == std::string::npos || dot > slash + 1);
  return has ? item.substr(0, dot) : item;
}

std::string folder_of(const std::string& item) {
  const std::size_t slash = item.rfind('/');
  if (slash == std::string::npos) return ".";
  return slash == 0 ? "/" : item.substr(0, slash);
}

std::string value_of(const std::string& place, const std::string& item, std::uint64_t number) {
  if (place == "{.}") return without_extension(item);
  if (place == "{/}") return name_of(item);
  if (place == "{//}") return folder_of(item);
  if (place == "{/.}") return without_extension(name_of(item));
  if (place == "{#}") return std::to_string(number);
  return item;
}

bool has_place(const std::string& word) {
  return std::any_of(kPlaces.begin(), kPlaces.end(),
                     [&word](const char* place) { return word.find(place) != std::string::npos; });
}

std::string filled(const std::string& word, const std::string& item, std::uint64_t number, bool quotes) {
  std::string text;
  for (std::size_t at = 0; at < word.size();) {
    const auto place = std::find_if(kPlaces.begin(), kPlaces.end(), [&](const char* p) {
      return word.compare(at, std::char_traits<char>::length(p), p) == 0;
    });
    if (place == kPlaces.end()) {
      text += word[at++];
      continue;
    }
    const std::string value = value_of(*place, item, number);
    text += quotes ? quoted(value) : value;
    at += std::char_traits<char>::length(*place);
  }
  return text;
}

}  // namespace

Template::Template(std::vector<std::string> words) : words_(std::move(words)), by_shell_(words_.size() <= 1) {
  if (words_.empty() || std::any_of(words_.begin(), words_.end(), has_place)) return;
  if (by_shell_) {
    words_.front() += " {}";
  } else {
    words_.emplace_back("{}");
  }
}

std::vector<std::string> Template::with(const std::string& item, std::uint64_t number) const {
  if (words_.empty()) return {"sh", "-c", item};
  if (by_shell_) return {"sh", "-c", filled(words_.front(), item, number, true)};
  std::vector<std::string> words;
  for (const std::string& word : words_) words.push_back(filled(word, item, number, false));
  return words;
}

}  // namespace mobula::cli
