// A ClusterInfo on its way from the head to who asked.
#pragma once

#include <string>

#include "mobula/run.hpp"

namespace mobula::core {

std::string encode_cluster(const ClusterInfo& info);
ClusterInfo decode_cluster(const std::string& bytes);  // throws ProtocolError

}  // namespace mobula::core
