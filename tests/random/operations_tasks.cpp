// Single tasks, of values and Refs of all sizes.
#include <array>

#include "random/interpreter.hpp"

namespace random_programs {
namespace {

using mobula::Ref;
using mobula::remote;

// Empty, small, and on both sides of the inline limits that the tests set (64 bytes and 4 KiB).
Number some_size(Draw& draw, Number most) {
  constexpr std::array<Number, 8> sizes{0, 1, 3, 7, 9, 40, 510, 600};
  if (!draw.one_in(3)) return sizes[draw.below(sizes.size())];
  return draw.below(most);
}

Number open_ref(const Ref<Number>& ref) { return mobula::get(ref); }
Number view_ref(const Ref<Words>& ref) {
  const auto view = mobula::view(ref);
  return digest(std::span<const Number>(view));
}
// Gets each, so it fails with the first that does.
Number open_refs(const std::vector<Ref<Number>>& refs) {
  Number sum = 0;
  for (const auto& ref : refs) sum = sum * 3 + mobula::get(ref);
  return mix(sum);
}
Number wait_for_refs(const std::vector<Ref<Number>>& refs) {
  const auto result = mobula::wait(refs);
  return result.ready.size() * 100 + result.pending.size();
}
Number first_of_refs(const std::vector<Ref<Number>>& refs) {
  Number count = 0;
  for (const auto& ref : mobula::as_completed(refs)) count += ref ? 1 : 0;
  return count;
}
Ref<Number> ref_of_task(Number seed) { return remote<leaf>(seed); }
Ref<Number> same_ref(const Ref<Number>& ref) { return ref; }
Words words_of_ref(const Ref<Words>& ref) { return mobula::get(ref); }

Number fibonacci(Number n) {
  if (n < 2) return n;
  const auto one = remote<fibonacci>(n - 1);
  const auto two = remote<fibonacci>(n - 2);
  return mobula::get(one) + mobula::get(two);
}
Number fibonacci_of(Number n) { return n < 2 ? n : fibonacci_of(n - 1) + fibonacci_of(n - 2); }

Number tree_sum(Number seed, Number depth) {
  if (depth == 0) return leaf(seed);
  const auto parts = remote<tree_sum>.map(Words{seed * 2, seed * 2 + 1, seed * 2 + 2}, mobula::same(depth - 1));
  Number sum = 0;
  for (const Number part : mobula::get(parts)) sum += part;
  return mix(sum);
}
Number tree_sum_of(Number seed, Number depth) {
  if (depth == 0) return mix(seed);
  Number sum = 0;
  for (Number i = 0; i < 3; ++i) sum += tree_sum_of(seed * 2 + i, depth - 1);
  return mix(sum);
}

Number fan(Number seed, Number children) {
  std::vector<Ref<Number>> refs;
  for (Number i = 0; i < children; ++i) refs.push_back(remote<leaf>(seed + i));
  Number sum = 0;
  for (const auto& ref : refs) sum += mobula::get(ref);
  return sum;
}
// The same, and nobody waits for the children.
Number careless_fan(Number seed, Number children) {
  for (Number i = 0; i < children; ++i) remote<leaf>(seed + i);
  return mix(seed);
}

void task_number(Interpreter& here, Draw& draw, const Step&) {
  const Number seed = draw.seed();
  here.add(remote<leaf>(seed), here.value(mix(seed)));
}

void task_words(Interpreter& here, Draw& draw, const Step&) {
  const Number seed = draw.seed();
  const Number count = some_size(draw, 9000);
  here.add(remote<make_words>(seed, count), here.value(digest(make_words(seed, count))));
}

void task_text(Interpreter& here, Draw& draw, const Step&) {
  const Number seed = draw.seed();
  const Number length = some_size(draw, 9000);
  here.add(remote<make_text>(seed, length), here.value(digest(make_text(seed, length))));
}

void task_void(Interpreter& here, Draw& draw, const Step&) {
  if (here.voids.empty() || draw.one_in(2)) {
    here.add(remote<nothing>(draw.seed()), here.value(0));
  } else {
    const auto number = here.number(draw);
    here.add(remote<nothing>(number.ref), here.value(0, {number.node}));
  }
}

void task_sleep(Interpreter& here, Draw& draw, const Step&) {
  const Number seed = draw.seed();
  here.add(remote<sleeper>(seed, draw.below(20)), here.value(mix(seed)));
}

void task_join(Interpreter& here, Draw& draw, const Step&) {
  const auto left = here.number(draw);
  if (draw.one_in(3)) {
    const Number right = draw.seed();
    here.add(remote<join>(left.ref, right), here.value(mix(here.digest_of(left.node) * 3 + right), {left.node}));
    return;
  }
  const auto right = here.number(draw);
  here.add(remote<join>(left.ref, right.ref),
           here.value(mix(here.digest_of(left.node) * 3 + here.digest_of(right.node)), {left.node, right.node}));
}

void task_convert(Interpreter& here, Draw& draw, const Step&) {
  const auto number = here.number(draw);
  here.add(remote<narrow>(number.ref),
           here.value(mix(static_cast<std::uint32_t>(here.digest_of(number.node))), {number.node}));
}

void task_on_words(Interpreter& here, Draw& draw, const Step&) {
  const auto words = here.words(draw);
  const Number digest_in = here.digest_of(words.node);
  switch (draw.below(3)) {
    case 0: here.add(remote<digest_of_words>(words.ref), here.value(digest_in, {words.node})); break;
    case 1: here.add(remote<digest_in_place>(words.ref), here.value(digest_in, {words.node})); break;
    default: {
      const Number seed = draw.seed();
      here.add(remote<seeded_digest>(words.ref, seed), here.value(mix(digest_in + seed), {words.node}));
    }
  }
}

void task_remakes_words(Interpreter& here, Draw& draw, const Step&) {
  const auto words = here.words(draw);
  const Number seed = draw.seed();
  const Number count = some_size(draw, 3000);
  const Words expected = make_words(mix(here.digest_of(words.node) + seed), count);
  here.add(remote<remade_words>(words.ref, seed, count), here.value(digest(expected), {words.node}));
}

void task_joins_words(Interpreter& here, Draw& draw, const Step&) {
  const auto left = here.words(draw);
  const auto right = here.words(draw);
  const Number count = some_size(draw, 3000);
  const Words expected = make_words(mix(here.digest_of(left.node) * 3 + here.digest_of(right.node)), count);
  here.add(remote<joined_words>(left.ref, right.ref, count), here.value(digest(expected), {left.node, right.node}));
}

void task_on_text(Interpreter& here, Draw& draw, const Step&) {
  const auto text = here.text(draw);
  if (draw.one_in(2)) {
    here.add(remote<digest_of_text>(text.ref), here.value(here.digest_of(text.node), {text.node}));
    return;
  }
  const Number seed = draw.seed();
  const Number length = some_size(draw, 300);
  const std::string expected = make_text(mix(here.digest_of(text.node) + seed), length);
  here.add(remote<remade_text>(text.ref, seed, length), here.value(digest(expected), {text.node}));
}

void task_opens_ref(Interpreter& here, Draw& draw, const Step&) {
  const auto number = here.number(draw);
  here.add(remote<open_ref>(number.ref), here.value(here.digest_of(number.node), {number.node}));
}

void task_views_ref(Interpreter& here, Draw& draw, const Step&) {
  const auto words = here.words(draw);
  here.add(remote<view_ref>(words.ref), here.value(here.digest_of(words.node), {words.node}));
}

void task_copies_words(Interpreter& here, Draw& draw, const Step&) {
  const auto words = here.words(draw);
  here.add(remote<words_of_ref>(words.ref), here.value(here.digest_of(words.node), {words.node}));
}

struct Picked {
  std::vector<Ref<Number>> refs;
  std::vector<NodePtr> nodes;
};
Picked some_numbers(Interpreter& here, Draw& draw) {
  Picked picked;
  for (Number count = draw.below(7); count > 0; --count) {
    const auto number = here.number(draw);
    picked.refs.push_back(number.ref);
    picked.nodes.push_back(number.node);
  }
  return picked;
}

void task_opens_refs(Interpreter& here, Draw& draw, const Step&) {
  const Picked picked = some_numbers(here, draw);
  Number sum = 0;
  for (const NodePtr& node : picked.nodes) sum = sum * 3 + here.digest_of(node);
  here.add(remote<open_refs>(picked.refs), here.value(mix(sum), picked.nodes));
}

void task_waits_for_refs(Interpreter& here, Draw& draw, const Step&) {
  const Picked picked = some_numbers(here, draw);
  here.add(remote<wait_for_refs>(picked.refs), here.value(picked.refs.size() * 100));
}

void task_takes_as_completed(Interpreter& here, Draw& draw, const Step&) {
  const Picked picked = some_numbers(here, draw);
  here.add(remote<first_of_refs>(picked.refs), here.value(picked.refs.size()));
}

void task_gives_ref(Interpreter& here, Draw& draw, const Step&) {
  const Number seed = draw.seed();
  here.add(remote<ref_of_task>(seed), here.value(mix(seed)));
}

void task_passes_ref(Interpreter& here, Draw& draw, const Step&) {
  const auto number = here.number(draw);
  here.add(remote<same_ref>(number.ref), here.value(here.digest_of(number.node), {number.node}));
}

void task_lambda(Interpreter& here, Draw& draw, const Step&) {
  const Number seed = draw.seed();
  here.add(remote<[](Number number) { return mix(number + 1); }>(seed), here.value(mix(seed + 1)));
}

void fibonacci_tasks(Interpreter& here, Draw& draw, const Step&) {
  const Number n = draw.below(9);
  here.add(remote<fibonacci>(n), here.value(fibonacci_of(n)));
}

void tree(Interpreter& here, Draw& draw, const Step&) {
  const Number seed = draw.seed();
  const Number depth = draw.below(4);
  here.add(remote<tree_sum>(seed, depth), here.value(tree_sum_of(seed, depth)));
}

void chain(Interpreter& here, Draw& draw, const Step&) {
  Known<Number> last = here.number(draw);
  for (Number length = 1 + draw.below(30); length > 0; --length) {
    const Number seed = draw.seed();
    const Number expected = mix(here.digest_of(last.node) * 3 + seed);
    last = {remote<join>(last.ref, seed), here.value(expected, {last.node})};
  }
  here.add(last.ref, last.node);
}

void diamond(Interpreter& here, Draw& draw, const Step&) {
  const auto top = here.number(draw);
  const Number value = here.digest_of(top.node);
  std::vector<Ref<Number>> middle;
  std::vector<NodePtr> nodes;
  Number sum = 0;
  for (Number i = 0; i < 4; ++i) {
    middle.push_back(remote<join>(top.ref, i));
    nodes.push_back(here.value(mix(value * 3 + i), {top.node}));
    sum = sum * 3 + mix(value * 3 + i);
  }
  here.add(remote<open_refs>(middle), here.value(mix(sum), nodes));
}

void task_fan(Interpreter& here, Draw& draw, const Step&) {
  const Number seed = draw.seed();
  const Number children = draw.below(60);
  Number sum = 0;
  for (Number i = 0; i < children; ++i) sum += mix(seed + i);
  here.add(remote<fan>(seed, children), here.value(sum));
}

void task_careless_fan(Interpreter& here, Draw& draw, const Step&) {
  const Number seed = draw.seed();
  here.add(remote<careless_fan>(seed, draw.below(30)), here.value(mix(seed)));
}

constexpr Operation kOperations[] = {
    {"task_number", 8, kAll, task_number},
    {"task_words", 8, kAll, task_words},
    {"task_text", 4, kAll, task_text},
    {"task_void", 3, kAll, task_void},
    {"task_sleep", 4, kAll, task_sleep},
    {"task_join", 8, kAll, task_join},
    {"task_convert", 2, kAll, task_convert},
    {"task_on_words", 5, kAll, task_on_words},
    {"task_remakes_words", 4, kAll, task_remakes_words},
    {"task_joins_words", 3, kAll, task_joins_words},
    {"task_on_text", 3, kAll, task_on_text},
    {"task_opens_ref", 4, kAll, task_opens_ref},
    {"task_views_ref", 3, kAll, task_views_ref},
    {"task_copies_words", 2, kAll, task_copies_words},
    {"task_opens_refs", 4, kAll, task_opens_refs},
    {"task_waits_for_refs", 3, kAll, task_waits_for_refs},
    {"task_takes_as_completed", 3, kAll, task_takes_as_completed},
    {"task_gives_ref", 3, kAll, task_gives_ref},
    {"task_passes_ref", 3, kAll, task_passes_ref},
    {"task_lambda", 1, kAll, task_lambda},
    {"fibonacci", 2, kAll, fibonacci_tasks},
    {"tree", 2, kAll, tree},
    {"chain", 3, kAll, chain},
    {"diamond", 2, kAll, diamond},
    {"fan", 2, kAll, task_fan},
    {"careless_fan", 1, kAll, task_careless_fan},
};

}  // namespace

std::span<const Operation> task_operations() { return kOperations; }

}  // namespace random_programs
