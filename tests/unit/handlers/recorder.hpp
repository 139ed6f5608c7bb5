// What a role sends, for tests that hand it one message after the other.
#pragma once

#include <gtest/gtest.h>

#include <list>
#include <map>
#include <memory>
#include <string>
#include <typeinfo>
#include <vector>

#include "core/messages.hpp"
#include "transport/local_wire.hpp"
#include "transport/transport.hpp"

namespace mobula::tests {

using detail::Buffer;
using detail::ByteView;
using detail::RankId;

// The names of all messages, by type.
inline const std::vector<std::string>& message_names() {
  static const std::vector<std::string> names = []<class... Message>(core::MessageList<Message...>) {
    std::vector<std::string> all{core::demangle(typeid(Message).name())...};
    for (std::string& name : all) name.erase(0, name.rfind(':') + 1);
    return all;
  }(core::Messages());
  return names;
}

// Stands for all ranks but one, at the other ends of that one's transport.
class Recorder {
 public:
  Recorder(RankId rank, std::uint32_t ranks) : rank_(rank), hub_(ranks), transport_(hub_.at(rank)) {
    for (RankId other = 0; other < ranks; ++other) {
      others_.push_back(other != rank ? std::make_unique<transport::Transport>(hub_.at(other)) : nullptr);
    }
  }

  // The role's own.
  transport::Transport& transport() { return transport_; }
  // That of another rank.
  transport::Transport& transport_of(RankId other) { return *others_[other]; }

  // What was sent since the last call, in words, by receiver and in order: "0: Done; 2: Result, Data".
  std::string take() {
    messages_.clear();
    frames_.clear();
    std::map<RankId, std::string> words;
    for (RankId to = 0; to < others_.size(); ++to) {
      const auto note = [&](RankId, ByteView frame) { note_frame(to, frame, words[to]); };
      if (to == rank_) {
        transport_.poll_own(note);
        continue;
      }
      transport_.flush();
      others_[to]->poll_wire(note);
      others_[to]->flush();
    }
    transport_.poll_wire([](RankId, ByteView) {});  // credits, and blocks that have come
    std::string all;
    for (const auto& [to, names] : words) all += (all.empty() ? "" : "; ") + std::to_string(to) + ": " + names;
    return all;
  }

  // The messages of that type that the last call of `take` took, to whomever. Their views are good until the next.
  template <class Message>
  std::vector<Message> all() const {
    std::vector<Message> found;
    for (const Noted& noted : messages_) {
      if (noted.type != core::Messages::type_of<Message>()) continue;
      core::WireReader in(noted.body);
      found.emplace_back().fields(in);
    }
    return found;
  }
  // The one of that type; where there is none, or another, the test has failed.
  template <class Message>
  Message only() const {
    const auto found = all<Message>();
    EXPECT_EQ(found.size(), 1U) << message_names()[core::Messages::type_of<Message>()];
    return found.empty() ? Message() : found.front();
  }

 private:
  struct Noted {
    std::uint8_t type;
    ByteView body;
  };
  void note_frame(RankId to, ByteView frame, std::string& words) {
    detail::Decoder in(frames_.emplace_back(frame).view());
    while (in.remaining() != 0) {
      const auto type = in.get<std::uint8_t>();
      const auto length = in.get<std::uint32_t>();
      messages_.push_back({type, ByteView(in.take(length), length)});
      words += (words.empty() ? "" : ", ") + message_names().at(type);
    }
    EXPECT_FALSE(words.empty()) << "an empty frame to rank " << to;
  }

  const RankId rank_;
  transport::LocalHub hub_;
  transport::Transport transport_;
  std::vector<std::unique_ptr<transport::Transport>> others_;
  std::list<Buffer> frames_;  // into which the messages point
  std::vector<Noted> messages_;
};

}  // namespace mobula::tests
