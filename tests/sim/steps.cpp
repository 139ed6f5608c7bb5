#include "sim/steps.hpp"

#include <array>

namespace mobula::sim {

const Step kCrowd{"many tasks on several large values", 1, crowd};

std::span<const Step> steps() {
  static const std::array all{
      Step{"many small tasks", 2, many_tasks},
      Step{"a task with children", 1, nested_tasks},
      Step{"a task that depends on two", 3, dependent},
      Step{"a large value and a reader", 1, large_value},
      Step{"a Ref that comes back and goes on", 1, box},
      Step{"a task that throws", 1, broken_task},
      Step{"a value that is put", 1, put_value},
      Step{"cancel", 1, cancel_one},
      Step{"drop some Refs", 1, drop_some},
      Step{"make an actor", 1, make_actor},
      Step{"calls of an actor", 3, call_actor},
      Step{"a task that calls an actor", 2, drive_actor},
      Step{"Refs that an actor keeps", 1, keep_refs},
      Step{"drop or kill an actor", 1, end_actor},
      Step{"a large value that all look at", 1, look_everywhere},
      Step{"a gang", 2, gang},
      Step{"a placement group", 1, group},
      Step{"await one", 2, await_one},
      Step{"a batch", 3, batch},
      Step{"a task with many children", 2, task_with_batch},
      Step{"a reduction", 2, reduce_leaves},
      Step{"a reduction of anything", 1, reduce_any},
      Step{"a reduction of large values", 1, reduce_large},
      Step{"a reduction that is given on", 1, reduction_that_is_given_on},
      Step{"a task with a timeout", 1, task_with_timeout},
      Step{"a task that is tried again", 1, task_that_is_tried_again},
      Step{"a task whose input may fail is tried again", 1, retry_of_an_input},
      Step{"a task that cancels its child", 1, fickle_task},
      Step{"a result that holds Refs", 1, pack_of_refs},
      Step{"a task that waits for some of many", 1, wait_for_some},
      Step{"wait for some", 1, driver_waits_for_some},
      Step{"tasks with a place", 1, placed_tasks},
      Step{"parts of a value", 1, parts_of_a_value},
      Step{"many classes", 1, many_classes},
      Step{"an actor with a name", 1, named_actor},
      kCrowd,
  };
  return all;
}

}  // namespace mobula::sim
