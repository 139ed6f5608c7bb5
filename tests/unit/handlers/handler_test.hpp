// Tests of handlers of messages, and the list of those that have one: a handler without a test does not compile.
#pragma once

#include <gtest/gtest.h>

#include "core/messages.hpp"

namespace mobula::tests {

template <class Role, class Message>
concept Handles = requires(Role& role, detail::RankId from, const Message& message) {
  role.handle(from, message);
};

// Makes Check<Message> of each message of the list: it holds what is to be so in a static_assert.
template <template <class> class Check, class... Message>
constexpr bool check_each(core::MessageList<Message...>) {
  return (sizeof(Check<Message>) + ...) != 0;
}

}  // namespace mobula::tests

// A test of the role's handler of core::Message; there may be several. The declaration lists it.
#define HANDLER_TEST(Fixture, Message, name)   \
  void has_handler_test(const core::Message&); \
  TEST_F(Fixture, Message##name)

// To be said at the end of a role's tests: each message that it handles has one.
#define EVERY_HANDLER_HAS_A_TEST(Role)                                                                     \
  template <class Message>                                                                                 \
  struct CheckTested {                                                                                     \
    static_assert(                                                                                         \
        !tests::Handles<Role, Message> || requires(const Message& message) { has_handler_test(message); }, \
        "a handler without a test: write a HANDLER_TEST of it");                                           \
  };                                                                                                       \
  static_assert(tests::check_each<CheckTested>(core::Messages()))
