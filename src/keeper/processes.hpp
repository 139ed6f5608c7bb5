// What keepers, zygotes and nurses need of the system.
#pragma once

namespace mobula::keeper {

// Besides the one that asks: then no process may be forked.
bool has_threads();

// Kills all children of this process, and whoever becomes its child by that, and waits for their ends. Of one that is a
// subreaper: all that was ever started below it.
void kill_children();

}  // namespace mobula::keeper
