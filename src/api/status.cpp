#include "api/status.hpp"

#include <unistd.h>

#include <csignal>
#include <cstdlib>
#include <filesystem>
#include <nlohmann/json.hpp>

#include "core/cluster.hpp"
#include "core/functions.hpp"
#include "core/host.hpp"
#include "core/log.hpp"
#include "core/version.hpp"
#include "exec/engine.hpp"
#include "head/head.hpp"

namespace mobula::api {
namespace {

using Json = nlohmann::json;

Json tasks_of(const head::Head& head, Json& functions) {
  head::Head::Tally sum;
  for (const auto& [function, of] : head.tally()) {
    sum.waiting += of.waiting;
    sum.queued += of.queued;
    sum.assigned += of.assigned;
    functions.push_back({{"name", std::string(core::function_name(function))},
                         {"waiting", of.waiting},
                         {"queued", of.queued},
                         {"assigned", of.assigned}});
  }
  return {{"ended", head.ended()},
          {"waiting", sum.waiting},
          {"queued", sum.queued},
          {"assigned", sum.assigned},
          {"retried", head.retried()}};
}

Json status_of(const head::Head& head) {
  const ClusterInfo cluster = core::decode_cluster(head.cluster_bytes());
  Json functions = Json::array();
  Json tasks = tasks_of(head, functions);
  Json ranks = Json::array();
  for (const RankInfo& of : cluster.ranks) {
    ranks.push_back({{"rank", of.rank},
                     {"node", of.node},
                     {"host", of.host},
                     {"slots", of.slots},
                     {"alive", of.alive},
                     {"tasks", head.assigned_to(of.rank)},
                     {"end", head.ranks()[of.rank].end}});
  }
  return {{"tasks", std::move(tasks)},
          {"functions", std::move(functions)},
          {"ranks", std::move(ranks)},
          {"nodes", cluster.nodes.size()},
          {"lost", head.lost() - head.left()},
          {"left", head.left()},
          {"actors", head.actors()},
          {"objects", head.entries()},
          {"ends", head.is_draining()},
          {"total", cluster.total},
          {"free", cluster.free},
          {"time", core::system_seconds()}};
}

// As in 1234.0-567: the job and step of Slurm, if there is one, and the process.
std::string name_of_job() {
  std::string name;
  if (const char* job = std::getenv("SLURM_JOB_ID")) {
    name = job;
    if (const char* step = std::getenv("SLURM_STEP_ID")) name += std::string(".") + step;
    name += "-";
  }
  return name + std::to_string(getpid());
}

Json record_of(exec::Engine& engine, const Config& config, const std::string& name) {
  std::error_code error;
  const auto variable = [](const char* of) {
    const char* value = std::getenv(of);
    return std::string(value != nullptr ? value : "");
  };
  return {{"job", name},
          {"program", std::filesystem::read_symlink("/proc/self/exe", error).string()},
          {"host", engine.settings().host},
          {"process", getpid()},
          {"folder", std::filesystem::current_path(error).string()},
          {"slurm_job", variable("SLURM_JOB_ID")},
          {"output", config.job_dir.empty() ? "" : std::filesystem::absolute(config.job_dir, error).string()},
          {"journal", config.journal},
          {"version", std::string(core::kVersion)},
          {"started", core::system_seconds()}};
}

}  // namespace

std::unique_ptr<exec::Door> open_door(exec::Engine& engine, const Config& config, std::function<void(int)> stop) {
  if (!config.status) return nullptr;
  const std::string name = name_of_job();
  const auto answer = [&engine, stop = std::move(stop)](const std::string& question) -> std::string {
    try {
      const std::string ask = Json::parse(question).at("ask");
      Json said;
      if (ask == "status") {
        engine.look_at_head([&said](const head::Head& head) { said = status_of(head); });
      } else if (ask == "stop" || ask == "stop_now") {
        stop(ask == "stop" ? SIGTERM : SIGINT);
        said = {{"stops", true}};
      } else {
        said = {{"error", "there is no question '" + ask + "'"}};
      }
      return said.dump(-1, ' ', false, Json::error_handler_t::replace);
    } catch (const Json::exception& e) {
      return Json{{"error", std::string("that is no question: ") + e.what()}}.dump();
    }
  };
  try {
    return std::make_unique<exec::Door>(name, record_of(engine, config, name).dump(), answer);
  } catch (const std::exception& e) {
    core::log_info(std::string("the job can't be asked how it is: ") + e.what());
    return nullptr;
  }
}

}  // namespace mobula::api
