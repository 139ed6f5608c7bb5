// What the command `mobula` can do. Each adds itself; what it can't do it throws as an exception for people.
#pragma once

namespace CLI {
class App;
}

namespace mobula::cli {

void add_journal(CLI::App& app);

}  // namespace mobula::cli
