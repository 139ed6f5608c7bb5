// Where people's tools ask a running job: a socket in the job's own folder on the head's host, for this user only.
// Nothing listens on the network. A question is a line of JSON, as is the answer; then the connection ends.
#pragma once

#include <functional>
#include <string>
#include <thread>

namespace mobula::exec {

// All jobs of this user on this host: a folder that nobody else can enter, and that is there while jobs are. "": there
// is none, or it can't be trusted, or not made.
std::string folder_of_jobs(bool make);

class Door {
 public:
  // `record`: what is known of the job from its start, a JSON object, for job.json. `answer` is called by a thread of
  // the door's own. Throws Error. What jobs that were killed have left in the folder of jobs is removed.
  Door(const std::string& name, const std::string& record, std::function<std::string(const std::string&)> answer);
  Door(const Door&) = delete;
  Door& operator=(const Door&) = delete;
  ~Door();  // the folder goes

  const std::string& folder() const { return folder_; }

 private:
  void serve();

  std::string folder_;
  std::function<std::string(const std::string&)> answer_;
  int listener_ = -1;
  std::thread thread_;
};

// The other side. Throws Error where nobody answers.
std::string ask_door(const std::string& folder, const std::string& question);

}  // namespace mobula::exec
