// What the head answers about the whole job, on its way to who asked.
#pragma once

#include <string>

#include "mobula/run.hpp"
#include "mobula/store.hpp"

namespace mobula::core {

std::string encode_cluster(const ClusterInfo& info);
ClusterInfo decode_cluster(const std::string& bytes);  // throws ProtocolError

std::string encode_stats(const StoreStats& stats);
StoreStats decode_stats(const std::string& bytes);  // throws ProtocolError

}  // namespace mobula::core
