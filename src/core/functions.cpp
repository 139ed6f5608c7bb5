#include "core/functions.hpp"

#include <dlfcn.h>

#include <algorithm>
#include <bit>
#include <cmath>
#include <unordered_map>
#include <vector>

namespace mobula::core {
namespace {

std::vector<detail::FunctionInfo*>& table() {
  static std::vector<detail::FunctionInfo*> functions;
  return functions;
}

void mix(std::uint64_t& hash, const void* data, std::size_t size) {  // FNV-1a
  const auto* bytes = static_cast<const unsigned char*>(data);
  for (std::size_t i = 0; i < size; ++i) hash = (hash ^ bytes[i]) * 0x100'0000'01B3ULL;
}

}  // namespace

std::uint32_t function_count() { return static_cast<std::uint32_t>(table().size()); }

const detail::FunctionInfo* function_at(std::uint32_t index) {
  return index < table().size() ? table()[index] : nullptr;
}

std::string_view function_name(std::uint32_t index) {
  const auto* info = function_at(index);
  return info != nullptr ? std::string_view(info->name) : "?";
}

bool has_twin(const detail::FunctionInfo& function) {
  static const auto counts = [] {
    std::unordered_map<std::string_view, int> all;
    for (const auto* info : table()) ++all[info->signature];
    return all;
  }();
  const auto found = counts.find(function.signature);
  return found != counts.end() && found->second > 1;
}

std::uint64_t function_digest() {
  std::uint64_t hash = 0xCBF2'9CE4'8422'2325ULL;
  for (const auto* info : table()) {
    mix(hash, info->signature.data(), info->signature.size());
    mix(hash, &info->fixed_args, sizeof info->fixed_args);
    mix(hash, &info->fixed_result, sizeof info->fixed_result);
    // Where the code lies tells apart builds whose signatures are equal. In its file, which is loaded anywhere.
    Dl_info file{};
    dladdr(reinterpret_cast<const void*>(info->invoke), &file);
    const std::intptr_t offset =
        reinterpret_cast<std::intptr_t>(info->invoke) - reinterpret_cast<std::intptr_t>(file.dli_fbase);
    mix(hash, &offset, sizeof offset);
  }
  return hash;
}

std::string short_name(std::string_view signature) {
  const auto from = signature.find("F = ");
  if (from == std::string_view::npos) return std::string(signature);
  std::string_view name = signature.substr(from + 4);
  int depth = 0;
  for (std::size_t i = 0; i < name.size(); ++i) {
    const char c = name[i];
    if (c == '<' || c == '(' || c == '{') ++depth;
    if (c == '>' || c == ')' || c == '}') --depth;
    if (depth < 0 || (depth == 0 && (c == ';' || c == ']'))) {
      name = name.substr(0, i);
      break;
    }
  }
  if (name.starts_with('&')) name.remove_prefix(1);
  if (name.find("lambda") != std::string_view::npos) return "lambda";
  std::string result(name);
  for (const std::string_view hidden : {"{anonymous}::", "(anonymous namespace)::"}) {
    for (auto at = result.find(hidden); at != std::string::npos; at = result.find(hidden))
      result.erase(at, hidden.size());
  }
  return result;
}

namespace {

bool is_sound(const WireDemand& d) {
  bool sound = std::isfinite(d.cpus) && d.cpus >= 0 && std::isfinite(d.gpus) && d.gpus >= 0;
  sound = sound && (d.gpus <= 1 || d.gpus == std::floor(d.gpus));
  for (const auto& [name, amount] : d.resources) sound = sound && std::isfinite(amount) && amount >= 0;
  return sound;
}

}  // namespace

WireDemand checked(WireDemand d) {
  if (!is_sound(d)) {
    throw std::invalid_argument(
        "mobula: cpus, gpus and resources must be finite and not negative, and gpus above 1 whole");
  }
  std::erase_if(d.resources, [](const auto& amount) { return amount.second == 0; });
  return d;
}

void check_demands(std::span<const WireDemand> demands) {
  if (demands.empty() || !std::all_of(demands.begin(), demands.end(), is_sound)) {
    detail::throw_damaged("a demand makes no sense");
  }
}

CheckedTasks check_tasks(const TaskBody& body, const Range& range, std::size_t deps, detail::FunctionInfo::Kind kind) {
  const detail::FunctionInfo* function = function_at(body.function);
  if (function == nullptr || function->kind != kind || range.begin >= range.end) {
    detail::throw_damaged("it names no task of this program");
  }
  const std::uint32_t n = kind == detail::FunctionInfo::Kind::member ? 1 : range.end - range.begin;
  const bool fixed = function->fixed_args != detail::kVariable && body.dep_mask == 0;
  if (fixed ? body.args.size() != std::size_t{function->fixed_args} * n
            : body.ends.size() != n || body.ends.back() != body.args.size() ||
                  !std::is_sorted(body.ends.begin(), body.ends.end())) {
    detail::throw_damaged("a task's arguments are not of its function's size");
  }
  if (deps != static_cast<std::size_t>(std::popcount(body.dep_mask))) {
    detail::throw_damaged("a task's dependencies are not those of its arguments");
  }
  if (body.has_options) check_demands(body.options.demands);
  return {*function, fixed};
}

}  // namespace mobula::core

namespace mobula::detail {

FunctionInfo::FunctionInfo(std::string_view signature_, Invoke invoke_, std::uint32_t args, std::uint32_t result,
                           Kind kind_, const FunctionInfo* klass_, Save save_)
    : name(core::short_name(signature_)),
      signature(signature_),
      invoke(invoke_),
      fixed_args(args),
      fixed_result(result),
      kind(kind_),
      klass(klass_),
      save(save_),
      index(core::function_count()) {
  core::table().push_back(this);
}

}  // namespace mobula::detail
