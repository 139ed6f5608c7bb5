// Commands in a container: contained IMAGE RUNTIME
#include <cstdio>
#include <mobula/mobula.hpp>
#include <string>

int main(int argc, char** argv) {
  return mobula::run(argc, argv, [&] {
    using mobula::command;
    const mobula::container image{
        .image = argv[1], .binds = {"/usr:/mnt"}, .env = {{"OF_IMAGE", "one"}}, .runtime = argv[2]};
    int wrong = 0;
    const auto expect = [&wrong](bool good, const char* what, const mobula::CommandResult& result) {
      if (good) return;
      ++wrong;
      std::printf("%s: code %d, out %s, err %s\n", what, result.exit_code, result.out.c_str(), result.err.c_str());
    };
    const auto seen = mobula::get(
        command({"/bin/sh", "-c", "echo $OF_IMAGE $OF_COMMAND; pwd; test -d /mnt/bin && cat"},
                {.isolation = image, .stdin_bytes = "input", .cwd = "/home", .env = {{"OF_COMMAND", "two"}}}));
    expect(seen.exit_code == 0 && seen.out == "one two\n/home\ninput", "what it sees", seen);
    const auto five = mobula::get(command({"/bin/sh", "-c", "exit 5"}, {.isolation = image}));
    expect(five.exit_code == 5, "exit code", five);
    std::vector<mobula::Ref<mobula::CommandResult>> many;
    for (int i = 0; i < 30; ++i) many.push_back(command({"/bin/echo", i}, {.isolation = image}));
    for (int i = 0; i < 30; ++i) {
      const auto result = mobula::get(many[static_cast<std::size_t>(i)]);
      expect(result.out == std::to_string(i) + "\n", "one of many", result);
    }
    try {
      mobula::get(
          command({"/bin/true"}, {.isolation = mobula::container{.image = "/no/such/image", .runtime = argv[2]}}));
      std::printf("an image that is not there has run\n");
      ++wrong;
    } catch (const mobula::CommandFailed& e) {
      if (std::string(e.what()).find("/no/such/image is not on") == std::string::npos)
        std::printf("%s\n", e.what()), ++wrong;
    }
    return wrong == 0 ? 0 : 1;
  });
}
