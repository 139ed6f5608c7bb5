// Images that must be fetched or unpacked before a runtime takes them: done once for a node, by the first who asks,
// while others wait. What was made is kept for later jobs.
#pragma once

#include <functional>
#include <string>
#include <vector>

namespace mobula::programs {

struct Runtime {
  const char* name;     // in the API
  const char* program;  // that starts containers
};

// What the runtime takes for the image. Throws CommandFailed where the image is not there, or can't be made ready;
// Cancelled.
std::string ready_image(const Runtime& runtime, const std::string& image, const std::vector<std::string>& env,
                        const std::function<bool()>& is_unwanted);

}  // namespace mobula::programs
