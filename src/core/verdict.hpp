// How the job ended, for whoever started its launcher: some launchers, told that ranks may be lost, end with 0 whatever
// the head's code, or never. The head writes it to the file that is named by a variable; without one nothing is
// written.
#pragma once

#include <optional>
#include <string>

namespace mobula::core {

constexpr const char* kVerdict = "VERDICT_OF_MOBULA";

void write_verdict(const std::string& text);
inline void job_begins() { write_verdict("begun"); }
inline void job_ends(int code) { write_verdict("code " + std::to_string(code)); }

struct Verdict {
  bool begun = false;
  std::optional<int> code;
};
Verdict read_verdict(const std::string& path);

}  // namespace mobula::core
