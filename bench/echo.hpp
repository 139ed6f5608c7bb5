// The real head by itself: what it sends is kept, and whoever uses this says what the workers answer.
#pragma once

#include <utility>
#include <vector>

#include "core/functions.hpp"
#include "head/head.hpp"
#include "mobula/mobula.hpp"
#include "transport/local_wire.hpp"

namespace bench {

using namespace mobula;

// Keeps what is sent.
class Echo final : public transport::Wire {
 public:
  explicit Echo(std::uint32_t size) : size_(size) {}
  detail::RankId rank() const override { return 0; }
  std::uint32_t size() const override { return size_; }
  std::uint32_t node() const override { return 0; }
  void send(detail::RankId to, detail::Buffer frame) override { sent.emplace_back(to, std::move(frame)); }
  bool poll(const OnFrame&) override { return false; }
  void send_block(detail::RankId, std::uint64_t, detail::ByteView, std::shared_ptr<const void>) override {}
  void receive_block(detail::RankId, std::uint64_t, std::span<std::byte>, OnBlock) override {}
  bool busy() const override { return false; }
  void abandon(detail::RankId) override {}
  void arm() override {}
  void disarm() override {}
  void sleep(std::int64_t) override {}
  void interrupt() override {}
  bool hears_all() const override { return true; }
  std::vector<std::pair<detail::RankId, detail::Buffer>> sent;

 private:
  std::uint32_t size_;
};

// A head with workers that have joined.
struct HeadAlone {
  explicit HeadAlone(std::uint32_t workers, std::uint32_t slots = 1)
      : wire(workers + 1), store({}), objects(0, store), transport(wire), head(transport, objects, settings(workers)) {
    core::Join join;
    join.offers.cpus = 0;
    head.handle(0, join);
    join.slots = slots;
    join.offers.cpus = slots;
    for (std::uint32_t w = 1; w <= workers; ++w) head.handle(w, join);
  }
  static head::Settings settings(std::uint32_t workers) {
    head::Settings made;
    made.ranks = workers + 1;
    made.lost_after = 0;  // nobody gives signs of life here
    return made;
  }
  Echo wire;
  store::Store store;
  store::ObjectTable objects;
  // No credits come back from an echo: `credit_all` gives each worker the whole window again.
  transport::Transport transport;
  head::Head head;
};

inline int identity(int x) { return x; }

// What a driver sends for calls of `identity`, at most `most` in one message; each has a span of its own.
class Submissions {
 public:
  explicit Submissions(std::uint32_t most) : values_(most, 7) {
    submit_.body.function = detail::Function<identity>::info.index;
  }
  const core::Submit& next(std::uint32_t tasks) {
    submit_.range = {detail::SpanId::make(0, sequence_++), 0, tasks};
    submit_.body.args = std::as_bytes(std::span(values_).first(tasks));
    return submit_;
  }

 private:
  std::vector<int> values_;
  core::Submit submit_;
  std::uint64_t sequence_ = 1;
};

}  // namespace bench
