// The allocator of a segment over a long random trace: what an operation costs, and how much of the free memory is in
// pieces that are too small. Against malloc on the same trace.
#include "store/allocator.hpp"

#include <cmath>
#include <cstdlib>
#include <random>

#include "bench.hpp"

namespace {

constexpr std::size_t kCapacity = std::size_t{1} << 30;
constexpr int kOperations = 2'000'000;

// Sizes from 4 KiB to 16 MiB, small ones more often; about `full` of the memory is in use after a while.
struct Trace {
  struct Operation {
    std::size_t size;   // 0: free
    std::size_t which;  // of those in use
  };
  std::vector<Operation> operations;
  explicit Trace(double full) {
    std::mt19937_64 random(7);
    std::vector<std::size_t> sizes;
    std::size_t used = 0;
    for (int i = 0; i < kOperations; ++i) {
      const auto size =
          static_cast<std::size_t>(std::exp2(12 + 12 * std::pow(static_cast<double>(random() % 1000) / 1000, 3)));
      const bool takes = sizes.empty() || static_cast<double>(used + size) < full * kCapacity;
      if (takes && (sizes.empty() || random() % 16 != 0)) {
        operations.push_back({size, 0});
        sizes.push_back(size);
        used += size;
      } else {
        const std::size_t which = random() % sizes.size();
        operations.push_back({0, which});
        used -= sizes[which];
        sizes[which] = sizes.back();
        sizes.pop_back();
      }
    }
  }
};

}  // namespace

int main() {
  bench::Report report("allocator");
  for (const double full : {0.5, 0.8, 0.9}) {
    const Trace trace(full);
    std::vector<double> ours, theirs, failed, largest;
    for (int turn = 0; turn < 3; ++turn) {
      mobula::store::Allocator allocator(kCapacity);
      allocator.grow(kCapacity);
      std::vector<std::size_t> blocks;
      int refused = 0;
      double start = bench::seconds();
      for (const auto& [size, which] : trace.operations) {
        if (size != 0) {
          const auto offset = allocator.allocate(size);
          refused += offset ? 0 : 1;
          blocks.push_back(offset.value_or(~std::size_t{0}));
        } else {
          if (blocks[which] != ~std::size_t{0}) allocator.free(blocks[which]);
          blocks[which] = blocks.back();
          blocks.pop_back();
        }
      }
      ours.push_back((bench::seconds() - start) / kOperations * 1e9);
      failed.push_back(100.0 * refused / kOperations);
      largest.push_back(100.0 * static_cast<double>(allocator.largest_free()) /
                        static_cast<double>(kCapacity - allocator.used()));
      std::vector<void*> heap;
      start = bench::seconds();
      for (const auto& [size, which] : trace.operations) {
        if (size != 0) {
          heap.push_back(std::malloc(size));
        } else {
          std::free(heap[which]);
          heap[which] = heap.back();
          heap.pop_back();
        }
      }
      theirs.push_back((bench::seconds() - start) / kOperations * 1e9);
      for (void* p : heap) std::free(p);
    }
    const std::string name = std::to_string(static_cast<int>(full * 100)) + " % full";
    report.add(name + ", an operation", ours, "ns");
    report.add(name + ", malloc and free", theirs, "ns");
    report.add(name + ", refused for want of one piece", failed, "%");
    report.add(name + ", largest piece of the free memory", largest, "%");
  }
}
