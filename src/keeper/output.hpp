// What a rank writes to stdout and stderr, on its way through its keeper: the lines of workers get the rank's number in
// front, and no more of them go on than people can read, so that a thousand ranks that print don't hide what the driver
// says. All of it is kept in the job's folder, if there is one. The keeper outlives the rank: a crash's last words come
// through too.
#pragma once

#include <poll.h>

#include <array>
#include <cstdint>
#include <string>
#include <vector>

namespace mobula::keeper {

class Output {
 public:
  // `folder`: of the job; "": nothing is kept. Takes part in nothing where there is nothing for it to do.
  Output(int rank, bool tags, const std::string& folder);
  Output(const Output&) = delete;
  Output& operator=(const Output&) = delete;
  ~Output();

  // In the rank: from here on it writes to us.
  void write_here();
  // In the keeper:
  void read_there();
  void add_to(std::vector<pollfd>& files) const;
  void pass_on();  // what has come, without waiting
  void finish();   // that, and a last line without its end

 private:
  struct Stream {
    int to = -1;  // the keeper's own
    int from = -1;
    int in = -1;  // the rank's side
    std::string line;
  };
  bool active() const { return streams_[0].to >= 0; }
  void take(Stream& stream, const char* bytes, std::size_t size);
  void tell_lines(Stream& stream, bool all);
  void tell_left_out();
  bool may_tell();

  std::array<Stream, 2> streams_;
  std::string tag_;  // "": all goes on as it is
  std::string folder_;
  int rank_ = 0;
  int file_ = -1;
  double allowed_ = 0;  // lines
  std::int64_t refilled_ = 0;
  bool silent_ = false;
  std::uint64_t left_out_ = 0;
};

}  // namespace mobula::keeper
