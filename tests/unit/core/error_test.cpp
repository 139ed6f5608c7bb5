#include "core/error.hpp"

#include <gtest/gtest.h>

#include "mobula/detail/task.hpp"

namespace mobula::core {
namespace {

int questions = 0;
int ends = 0;

struct Noting : std::exception {
  Noting() = default;
  Noting(const Noting&) = default;
  Noting& operator=(const Noting&) = default;
  ~Noting() override { ++ends; }
  const char* what() const noexcept override {
    ++questions;
    return "noted";
  }
};

// What a task has thrown is reported under the rank's lock, where its what() and destructor must not run: both may call
// the runtime.
TEST(Errors, OfATaskRunNoCodeOnceItHasFailed) {
  detail::TaskRun run;
  try {
    throw Noting();
  } catch (...) {
    run.fail();
  }
  const int asked = questions;
  const int ended = ends;
  ASSERT_EQ(run.oddities.size(), 1U);
  const Failure where{"task", "1.2.3", 1, "host", 2};
  const ErrorRecord record = capture(run.oddities.front().error, where);
  run.oddities.clear();
  EXPECT_EQ(questions, asked);
  EXPECT_EQ(ends, ended);
  EXPECT_EQ(record.message, "noted");
  EXPECT_EQ(record.kind, ErrorKind::task);
  EXPECT_EQ(record.failure.id, "1.2.3");
}

TEST(Errors, ThatCameOutOfARefKeepsItsFailure) {
  detail::TaskRun run;
  try {
    raise(*make_error(ErrorKind::timed_out, "late", "first", {}, 3, 1, "host"));
  } catch (...) {
    run.fail();
  }
  const ErrorRecord record = capture(run.oddities.front().error, {"second", "1.2.3", 1, "host", 2});
  EXPECT_EQ(record.failure.task, "first");
  EXPECT_EQ(record.kind, ErrorKind::timed_out);
}

}  // namespace
}  // namespace mobula::core
