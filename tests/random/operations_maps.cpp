// Many tasks at once: map in all its forms, reduce, unpack.
#include "random/interpreter.hpp"

namespace random_programs {
namespace {

using mobula::Batch;
using mobula::Ref;
using mobula::remote;
using mobula::same;

Number item_count(Draw& draw) { return draw.one_in(12) ? 1500 : draw.one_in(6) ? 0 : 1 + draw.below(40); }

// A single-pass range that makes its items when they are asked for.
class Lazy {
 public:
  class iterator {
   public:
    using value_type = Number;
    using difference_type = std::ptrdiff_t;
    explicit iterator(Number position = 0, Number seed = 0) : position_(position), seed_(seed) {}
    Number operator*() const { return seed_ + position_; }
    iterator& operator++() {
      ++position_;
      return *this;
    }
    void operator++(int) { ++position_; }
    bool operator==(const iterator& other) const { return position_ == other.position_; }

   private:
    Number position_;
    Number seed_;
  };
  Lazy(Number seed, Number count) : seed_(seed), count_(count) {}
  iterator begin() const { return iterator(0, seed_); }
  iterator end() const { return iterator(count_, seed_); }

 private:
  Number seed_;
  Number count_;
};

void add_batch(Interpreter& here, Batch<Number> batch, std::vector<NodePtr> nodes) {
  here.require(batch.size() == nodes.size(),
               "a map has " + std::to_string(batch.size()) + " elements in place of " + std::to_string(nodes.size()));
  here.batches.push_back({std::move(batch), std::move(nodes)});
  if (here.batches.size() > 12) here.batches.erase(here.batches.begin());
}

Words seeds_of(Draw& draw, Number count) {
  const Number first = draw.seed();
  Words seeds(count);
  for (Number i = 0; i < count; ++i) seeds[i] = first + i;
  return seeds;
}

void map_items(Interpreter& here, Draw& draw, const Step&) {
  const Words seeds = seeds_of(draw, item_count(draw));
  std::vector<NodePtr> nodes;
  for (const Number seed : seeds) nodes.push_back(here.value(mix(seed)));
  add_batch(here, remote<leaf>.map(seeds), std::move(nodes));
}

void map_lazy(Interpreter& here, Draw& draw, const Step&) {
  const Number first = draw.seed();
  const Number count = item_count(draw);
  std::vector<NodePtr> nodes;
  for (Number i = 0; i < count; ++i) nodes.push_back(here.value(mix(first + i)));
  add_batch(here, remote<leaf>.map(Lazy(first, count)), std::move(nodes));
}

void map_same_value(Interpreter& here, Draw& draw, const Step&) {
  const Words seeds = seeds_of(draw, item_count(draw));
  const Words shared = make_words(draw.seed(), draw.below(700));
  std::vector<NodePtr> nodes;
  for (const Number seed : seeds) nodes.push_back(here.value(mix(digest(shared) + seed)));
  add_batch(here, remote<seeded_digest>.map(same(shared), seeds), std::move(nodes));
}

void map_same_ref(Interpreter& here, Draw& draw, const Step&) {
  const auto shared = here.words(draw);
  const Words seeds = seeds_of(draw, item_count(draw));
  std::vector<NodePtr> nodes;
  for (const Number seed : seeds) {
    nodes.push_back(here.value(mix(here.digest_of(shared.node) + seed), {shared.node}));
  }
  add_batch(here, remote<seeded_digest>.map(same(shared.ref), seeds), std::move(nodes));
}

void map_same_late(Interpreter& here, Draw& draw, const Step&) {
  const Number seed = draw.seed();
  const auto shared = remote<sleeper>(seed, 1 + draw.below(15));
  const NodePtr node = here.value(mix(seed));
  const Words seeds = seeds_of(draw, item_count(draw));
  std::vector<NodePtr> nodes;
  for (const Number item : seeds) nodes.push_back(here.value(mix(item * 3 + mix(seed)), {node}));
  add_batch(here, remote<join>.map(seeds, same(shared)), std::move(nodes));
  if (draw.one_in(2)) here.add(shared, node);
}

void map_batch(Interpreter& here, Draw& draw, const Step&) {
  const KnownBatch items = here.batch(draw);
  const Number seed = draw.seed();
  std::vector<NodePtr> nodes;
  for (const NodePtr& node : items.nodes) nodes.push_back(here.value(mix(here.digest_of(node) * 3 + seed), {node}));
  add_batch(here, remote<join>.map(items.batch, same(seed)), std::move(nodes));
}

void map_zipped(Interpreter& here, Draw& draw, const Step&) {
  const KnownBatch left = here.batch(draw);
  const KnownBatch right = here.batch(draw);
  std::vector<NodePtr> nodes;
  for (std::size_t i = 0; i < std::min(left.nodes.size(), right.nodes.size()); ++i) {
    const Number expected = mix(here.digest_of(left.nodes[i]) * 3 + here.digest_of(right.nodes[i]));
    nodes.push_back(here.value(expected, {left.nodes[i], right.nodes[i]}));
  }
  add_batch(here, remote<join>.map(left.batch, right.batch), std::move(nodes));
}

void map_refs(Interpreter& here, Draw& draw, const Step&) {
  std::vector<Ref<Number>> refs;
  std::vector<NodePtr> nodes;
  const Words seeds = seeds_of(draw, draw.below(12));
  for (const Number seed : seeds) {
    const auto number = here.number(draw);
    refs.push_back(number.ref);
    nodes.push_back(here.value(mix(here.digest_of(number.node) * 3 + seed), {number.node}));
  }
  add_batch(here, remote<join>.map(refs, seeds), std::move(nodes));
}

void map_words(Interpreter& here, Draw& draw, const Step&) {
  const Words seeds = seeds_of(draw, 1 + draw.below(8));
  const Number count = draw.one_in(2) ? draw.below(8) : draw.below(3000);
  const Batch<Words> batch = remote<make_words>.map(seeds, same(count));
  for (std::size_t i = 0; i < seeds.size(); ++i) {
    if (draw.one_in(2)) here.add(batch[i], here.value(digest(make_words(seeds[i], count))));
  }
}

void map_sleeps(Interpreter& here, Draw& draw, const Step&) {
  const Words seeds = seeds_of(draw, 1 + draw.below(10));
  std::vector<NodePtr> nodes;
  for (const Number seed : seeds) nodes.push_back(here.value(mix(seed)));
  add_batch(here, remote<sleeper>.map(seeds, same(draw.below(4))), std::move(nodes));
}

void map_dropped(Interpreter&, Draw& draw, const Step&) {
  const Words seeds = seeds_of(draw, item_count(draw));
  remote<leaf>.map(seeds);
}

void element(Interpreter& here, Draw& draw, const Step&) {
  const KnownBatch batch = here.batch(draw);
  if (batch.nodes.empty()) return;
  const std::size_t position = draw.below(batch.nodes.size());
  here.add(batch.batch[position], batch.nodes[position]);
}

void reduce_batch(Interpreter& here, Draw& draw, const Step&) {
  const KnownBatch items = here.batch(draw);
  if (items.nodes.empty()) {
    here.expect_throw({Kind::invalid_argument}, "reduce of nothing", [&] { mobula::reduce<plus>(items.batch); });
    return;
  }
  Number sum = 0;
  for (const NodePtr& node : items.nodes) sum += here.digest_of(node);
  here.add(mobula::reduce<plus>(items.batch), here.value(sum, items.nodes));
}

void reduce_refs(Interpreter& here, Draw& draw, const Step&) {
  std::vector<Ref<Number>> refs;
  std::vector<NodePtr> nodes;
  Number sum = 0;
  for (Number count = 1 + draw.below(9); count > 0; --count) {
    const auto number = here.number(draw);
    refs.push_back(number.ref);
    nodes.push_back(number.node);
    sum += here.digest_of(number.node);
  }
  if (refs.size() == 1) {
    here.add(mobula::reduce<plus>(refs), nodes.front());
  } else {
    here.add(mobula::reduce<plus>(refs), here.value(sum, nodes));
  }
}

using Three = std::tuple<Number, Words, std::string>;
Three make_three(Number seed, Number count) { return {mix(seed), make_words(seed, count), make_text(seed, count)}; }

void unpack_three(Interpreter& here, Draw& draw, const Step&) {
  const Number seed = draw.seed();
  const Number count = draw.below(900);
  const auto [number, words, text] = mobula::unpack(remote<make_three>(seed, count));
  here.add(number, here.value(mix(seed)));
  if (draw.one_in(2)) here.add(words, here.value(digest(make_words(seed, count))));
  if (draw.one_in(2)) here.add(text, here.value(digest(make_text(seed, count))));
}

constexpr Operation kOperations[] = {
    {"map_items", 5, kAll, map_items},           {"map_lazy", 3, kAll, map_lazy},
    {"map_same_value", 3, kAll, map_same_value}, {"map_same_ref", 4, kAll, map_same_ref},
    {"map_same_late", 4, kAll, map_same_late},   {"map_batch", 5, kAll, map_batch},
    {"map_zipped", 3, kAll, map_zipped},         {"map_refs", 3, kAll, map_refs},
    {"map_words", 3, kAll, map_words},           {"map_sleeps", 2, kAll, map_sleeps},
    {"map_dropped", 1, kAll, map_dropped},       {"element", 4, kAll, element},
    {"reduce_batch", 3, kAll, reduce_batch},     {"reduce_refs", 3, kAll, reduce_refs},
    {"unpack", 3, kAll, unpack_three},
};

}  // namespace

std::span<const Operation> map_operations() { return kOperations; }

}  // namespace random_programs
