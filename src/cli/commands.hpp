// What the command `mobula` can do. Each adds itself; what it can't do it throws as an exception for people.
#pragma once

#include <string>
#include <vector>

namespace CLI {
class App;
}

namespace mobula::cli {

void add_run(CLI::App& app);
void add_submit(CLI::App& app);
void add_each(CLI::App& app, std::vector<std::string> all);  // the words of the whole command line
void add_doctor(CLI::App& app, std::vector<std::string> all);
void add_jobs(CLI::App& app);  // status, top, logs, stop
void add_journal(CLI::App& app);

}  // namespace mobula::cli
