// Progress: every wait is noted here while it lasts, and a thread of each process looks whether one takes too long.
// Also how the processes of one job tell the driver's of something wrong: by signals, since what is under test may
// hang.
#pragma once

#include <sys/types.h>

#include <chrono>
#include <cstddef>
#include <functional>
#include <string>
#include <vector>

namespace random_programs {

// Exit codes of the program.
inline constexpr int kWell = 0;
inline constexpr int kUsage = 2;
inline constexpr int kWrongValue = 3;
inline constexpr int kHang = 4;
inline constexpr int kNotAtRest = 5;

// To be called first in each process, by its main thread: signals come in from now on.
void prepare_watch();
// The first call in a process starts its thread. In the driver's process `driver` is its own.
void start_watch(pid_t driver, std::chrono::milliseconds patience);

// Driver only: the other processes of the job, to be asked what they wait for where something hangs; and what leads
// back to the program, in one line.
void set_others(std::vector<pid_t> others);
void set_title(std::string title);
// Prints what all processes of the job wait for, and takes some seconds for it.
void say_all_waits();

using Explanation = std::function<std::string()>;

// A wait, from its construction to its end. `explain` is called on another thread meanwhile, and may hang.
class Watched {
 public:
  explicit Watched(std::string what, std::vector<Explanation> explain = {});
  Watched(const Watched&) = delete;
  Watched& operator=(const Watched&) = delete;
  ~Watched();

 private:
  std::size_t number_;
};

// Something has come to its end in this process. On any thread, cheap.
void note_progress();

// Prints the words, in any process of the job, and lets the driver know, who ends the job soon.
void tell_wrong(const std::string& text);
// The same where this process may not know its driver's.
void tell_driver_wrong(pid_t driver, const std::string& text);
// Driver only: whether any process has told so.
bool something_is_wrong();

// Ends this process, and so the job, with the code, should it take longer than the time to end in order.
void end_within(std::chrono::milliseconds time, int code);

}  // namespace random_programs
