// Processes for tasks that may crash.
//
// A zygote, forked before any thread or MPI is there, forks for each of them a nurse, and the nurse the child that runs
// the tasks. A child takes one task after the other over its channel; what goes in and out lies in a file of memory
// that it shares with the rank. The nurse waits for the child's end, kills what the child has left behind, and says how
// it ended. It kills the child, and all of that, once the rank closes the nurse's channel: in any case when the rank is
// gone. So the rank keeps no process ids, and waits for nothing but its channels.
//
// An actor has a child to itself, which holds its object. What a rank calls the actor's object is an ActorProcess then;
// it knows how to make the object again when the child has ended.
#pragma once

#include <functional>
#include <list>
#include <memory>
#include <mutex>
#include <string>

#include "core/messages.hpp"
#include "mobula/detail/task.hpp"
#include "mobula/run.hpp"

namespace mobula::nursery {

using detail::ByteView;

class Child;
struct Request;

class Nursery {
 public:
  // Forks the zygote. nullptr where threads run already, or the system refuses.
  static std::unique_ptr<Nursery> start();
  explicit Nursery(int zygote);
  Nursery(const Nursery&) = delete;
  Nursery& operator=(const Nursery&) = delete;
  ~Nursery();

  // Children see these bytes, which lie in the file, without a copy. To be called before the first task.
  void share(ByteView memory, int file);

  struct Task {
    const detail::FunctionInfo* function = nullptr;
    core::WireSandbox sandbox;
    Context context;
    const core::ActorTraits* actor = nullptr;  // of a constructor: of what it makes
    std::function<bool()> is_unwanted;         // it is to be stopped; called now and then
  };
  // Runs the task of the run, on the calling thread, as FunctionInfo::invoke does: results and errors are in the run
  // after it. Called by several threads, but by one at a time for one actor.
  void invoke(const Task& task, detail::TaskRun& run);
  // The state of an actor's object.
  void save(const Task& task, detail::TaskRun& run, detail::Encoder& state);

 private:
  std::unique_ptr<Child> take(const core::WireSandbox& sandbox, const std::function<bool()>& is_unwanted);
  std::unique_ptr<Child> make(const core::WireSandbox& sandbox, const std::function<bool()>& is_unwanted) const;
  void give(std::unique_ptr<Child> child);
  Request request_of(const Task& task, const detail::TaskRun& run) const;
  void run_task(const Task& task, detail::TaskRun& run);
  void construct(const Task& task, detail::TaskRun& run);
  void call(const Task& task, detail::TaskRun& run);

  static constexpr std::size_t kWarm = 64;  // children that wait for work

  int zygote_;
  ByteView memory_;
  int memory_file_ = -1;
  std::mutex mutex_;
  std::list<std::unique_ptr<Child>> warm_;  // the last used one first
};

// In a child: of the task that runs. nullptr elsewhere.
const Context* context();

}  // namespace mobula::nursery
