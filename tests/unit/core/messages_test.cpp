#include "core/messages.hpp"

#include <gtest/gtest.h>

#include <random>

namespace mobula::core {
namespace {

Submit sample() {
  Submit m;
  m.range = {SpanId::make(3, 77), 5, 7};
  m.kept = true;
  m.body.function = 2;
  m.body.ends = {1, 2};
  m.body.has_options = true;
  m.body.options.demands = {{1, 2, 3, {{"x", 4}}}, {}};
  m.body.options.name = "name";
  m.deps = {{SpanId::make(1, 1), 2}};
  return m;
}

TEST(Messages, AFrameHoldsSeveral) {
  detail::Buffer frame;
  append_message(frame, sample());
  append_message(frame, TakeBack{7});
  append_message(frame, Stop{3, "why"});
  int seen = 0;
  read_frame(frame.view(), [&](const auto& m) {
    using M = std::decay_t<decltype(m)>;
    ++seen;
    if constexpr (std::is_same_v<M, Submit>) {
      EXPECT_EQ(m.range.span, SpanId::make(3, 77));
      EXPECT_EQ(m.body.options.demands[0].resources.at("x"), 4);
      EXPECT_EQ(m.body.options.name, "name");
      EXPECT_EQ(m.deps.size(), 1U);
      EXPECT_TRUE(m.kept);
    } else if constexpr (std::is_same_v<M, Stop>) {
      EXPECT_EQ(m.code, 3);
      EXPECT_EQ(m.reason, "why");
    }
  });
  EXPECT_EQ(seen, 3);
}

TEST(Messages, DamageIsAProtocolError) {
  detail::Buffer good;
  append_message(good, sample());
  for (std::size_t n = 1; n < good.size(); ++n) {
    EXPECT_THROW(read_frame(good.view().first(n), [](const auto&) {}), ProtocolError) << n;
  }
  const auto seed = std::random_device{}();
  SCOPED_TRACE("seed " + std::to_string(seed));
  std::mt19937 random(seed);
  for (int i = 0; i < 20'000; ++i) {
    detail::Buffer bytes(good.view());
    for (auto n = 1 + random() % 3; n != 0; --n)
      bytes.data()[random() % bytes.size()] = static_cast<std::byte>(random());
    try {
      read_frame(bytes.view(), [](const auto&) {});
    } catch (const ProtocolError&) {
    }
  }
}

TEST(Messages, UnknownTypesAreRejected) {
  const std::array<std::byte, 5> frame{std::byte{250}};
  EXPECT_THROW(read_frame(frame, [](const auto&) {}), ProtocolError);
}

TEST(Errors, CaptureAndRaiseKeepTypeAndOrigin) {
  const Failure where{"task", "1.2.3", 4, "host", 2};
  const ErrorRecord record = capture(std::make_exception_ptr(std::out_of_range("x")), where);
  try {
    raise(record);
  } catch (const std::out_of_range& e) {
    EXPECT_STREQ(e.what(), "x");
    ASSERT_NE(failure_of(e), nullptr);
    EXPECT_EQ(failure_of(e)->task, "task");
    const ErrorRecord again = capture(std::current_exception(), {"other", "9.9.9", 1, "h", 1});
    EXPECT_EQ(again.failure.task, "task");
    EXPECT_EQ(again.type, record.type);
  }
}

}  // namespace
}  // namespace mobula::core
