#include "transport/local_wire.hpp"

#include <cstring>

namespace mobula::transport {

class LocalWire final : public Wire {
 public:
  LocalWire(LocalHub& hub, RankId rank) : hub_(hub), rank_(rank), inbox_(*hub.inboxes_[rank]) {}

  RankId rank() const override { return rank_; }
  std::uint32_t size() const override { return static_cast<std::uint32_t>(hub_.inboxes_.size()); }
  std::uint32_t node() const override { return 0; }

  void send(RankId to, Buffer frame) override {
    LocalHub::Inbox& inbox = *hub_.inboxes_[to];
    {
      const std::lock_guard lock(inbox.mutex);
      inbox.frames.push_back({rank_, std::move(frame)});
    }
    inbox.bell.ring();
  }

  bool poll(const OnFrame& on_frame) override {
    if (size() == 1) return false;  // own messages don't come this way
    std::deque<LocalHub::Frame> frames;
    std::vector<std::pair<LocalHub::OutBlock, LocalHub::InBlock>> matched;
    {
      const std::lock_guard lock(inbox_.mutex);
      frames.swap(inbox_.frames);
      for (auto wanted = inbox_.wanted.begin(); wanted != inbox_.wanted.end();) {
        const auto offered = inbox_.blocks.find(wanted->first);
        if (offered == inbox_.blocks.end()) {
          ++wanted;
          continue;
        }
        matched.emplace_back(std::move(offered->second), std::move(wanted->second));
        inbox_.blocks.erase(offered);
        wanted = inbox_.wanted.erase(wanted);
      }
    }
    for (auto& [offered, wanted] : matched) {
      if (!wanted.into.empty()) std::memcpy(wanted.into.data(), offered.bytes.data(), wanted.into.size());
      wanted.done();
    }
    for (const auto& frame : frames) on_frame(frame.from, frame.bytes.view());
    return !frames.empty() || !matched.empty();
  }

  void send_block(RankId to, std::uint64_t key, ByteView bytes, std::shared_ptr<const void> keep) override {
    LocalHub::Inbox& inbox = *hub_.inboxes_[to];
    {
      const std::lock_guard lock(inbox.mutex);
      inbox.blocks.emplace(std::pair{rank_, key}, LocalHub::OutBlock{bytes, std::move(keep)});
    }
    inbox.bell.ring();
  }

  void receive_block(RankId from, std::uint64_t key, std::span<std::byte> into, OnBlock done) override {
    const std::lock_guard lock(inbox_.mutex);
    inbox_.wanted.emplace(std::pair{from, key}, LocalHub::InBlock{into, std::move(done)});
  }

  bool busy() const override {
    const std::lock_guard lock(inbox_.mutex);
    return !inbox_.wanted.empty();
  }
  void abandon(RankId rank) override {
    const std::lock_guard lock(inbox_.mutex);
    std::erase_if(inbox_.blocks, [rank](const auto& entry) { return entry.first.first == rank; });
    std::erase_if(inbox_.wanted, [rank](const auto& entry) { return entry.first.first == rank; });
  }

  void arm() override { inbox_.bell.arm(); }
  void disarm() override { inbox_.bell.disarm(); }
  void sleep(std::int64_t max_ns) override { inbox_.bell.sleep(max_ns); }
  void interrupt() override { inbox_.bell.ring(); }
  bool hears_all() const override { return true; }

 private:
  LocalHub& hub_;
  RankId rank_;
  LocalHub::Inbox& inbox_;
};

LocalHub::LocalHub(std::uint32_t size) {
  for (std::uint32_t i = 0; i < size; ++i) inboxes_.push_back(std::make_unique<Inbox>());
  for (std::uint32_t i = 0; i < size; ++i) wires_.push_back(std::make_unique<LocalWire>(*this, i));
}
LocalHub::~LocalHub() = default;
Wire& LocalHub::at(RankId rank) { return *wires_[rank]; }

}  // namespace mobula::transport
