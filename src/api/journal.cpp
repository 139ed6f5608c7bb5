#include "mobula/journal.hpp"

#include "api/runtime.hpp"
#include "journal/journal.hpp"
#include "mobula/error.hpp"

namespace mobula::detail {
namespace {

journal::Journal& of_driver(const char* what) {
  exec::Engine& engine = api::engine();
  const std::string name = std::string("mobula::") + what;
  if (engine.head() == nullptr || exec::Engine::current_run() != nullptr) {
    throw Error(name + " is for the driver: a task returns what is to be kept");
  }
  if (engine.journal() == nullptr)
    throw Error(name + ": the job has no journal: name a folder by --mobula-journal=DIR");
  return *engine.journal();
}

}  // namespace

bool has_journal() { return api::engine().journal() != nullptr; }

void keep(const std::string& name, Encoder&& value) {
  journal::Journal& journal = of_driver("keep");
  if (!value.refs.empty()) throw std::invalid_argument("mobula::keep: the value holds Refs, which end with the job");
  journal.keep(name, std::move(value.buffer));
}

bool kept(const std::string& name, Buffer& value) { return of_driver("kept").kept(name, value); }

}  // namespace mobula::detail
