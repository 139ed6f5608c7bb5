// The steps of random programs, by file. Each may find nothing to do.
#pragma once

#include "sim/program.hpp"

namespace mobula::sim {

// steps_tasks.cpp
Body many_tasks(Program& program, Draw draw);
Body nested_tasks(Program& program, Draw draw);
Body dependent(Program& program, Draw draw);
Body large_value(Program& program, Draw draw);
Body box(Program& program, Draw draw);
Body broken_task(Program& program, Draw draw);
Body put_value(Program& program, Draw draw);
Body look_everywhere(Program& program, Draw draw);
Body crowd(Program& program, Draw draw);

// steps_batches.cpp
Body batch(Program& program, Draw draw);
Body task_with_batch(Program& program, Draw draw);

// steps_objects.cpp
Body cancel_one(Program& program, Draw draw);
Body drop_some(Program& program, Draw draw);
Body await_one(Program& program, Draw draw);

// steps_failures.cpp
Body task_with_timeout(Program& program, Draw draw);
Body task_that_is_tried_again(Program& program, Draw draw);
Body retry_of_an_input(Program& program, Draw draw);
Body fickle_task(Program& program, Draw draw);

// steps_reductions.cpp
Body reduce_leaves(Program& program, Draw draw);
Body reduce_any(Program& program, Draw draw);
Body reduce_large(Program& program, Draw draw);
Body reduction_that_is_given_on(Program& program, Draw draw);

// steps_refs.cpp
Body pack_of_refs(Program& program, Draw draw);
Body wait_for_some(Program& program, Draw draw);
Body driver_waits_for_some(Program& program, Draw draw);
Body placed_tasks(Program& program, Draw draw);
Body parts_of_a_value(Program& program, Draw draw);
Body many_classes(Program& program, Draw draw);

// steps_actors.cpp
Body make_actor(Program& program, Draw draw);
Body call_actor(Program& program, Draw draw);
Body drive_actor(Program& program, Draw draw);
Body keep_refs(Program& program, Draw draw);
Body named_actor(Program& program, Draw draw);
Body end_actor(Program& program, Draw draw);

// steps_gangs.cpp
Body gang(Program& program, Draw draw);
Body group(Program& program, Draw draw);

}  // namespace mobula::sim
