// Values that are put, and Refs that are copied, looked at and dropped.
#include "random/interpreter.hpp"

namespace random_programs {
namespace {

using mobula::put;
using mobula::Ref;
using mobula::remote;

void put_number(Interpreter& here, Draw& draw, const Step&) {
  const Number number = draw.number();
  here.add(put(number), here.value(number));
}

void put_words(Interpreter& here, Draw& draw, const Step&) {
  const Words words = make_words(draw.seed(), draw.one_in(3) ? draw.below(9) : draw.below(6000));
  here.add(put(words), here.value(digest(words)));
}

void put_large(Interpreter& here, Draw& draw, const Step&) {
  const Words words = make_words(draw.seed(), 10'000 + draw.below(20'000));
  here.add(put(words), here.value(digest(words)));
}

void put_text(Interpreter& here, Draw& draw, const Step&) {
  const std::string text = make_text(draw.seed(), draw.below(9000));
  here.add(put(text), here.value(digest(std::string_view(text))));
}

Parcel some_parcel(Interpreter& here, Draw& draw) {
  Parcel parcel;
  for (Number count = draw.below(4); count > 0; --count) parcel.numbers.push_back(carried(here.number(draw)));
  for (Number count = draw.below(3); count > 0; --count) parcel.words.push_back(carried(here.words(draw)));
  return parcel;
}

void put_parcel(Interpreter& here, Draw& draw, const Step&) {
  const Parcel parcel = some_parcel(here, draw);
  here.add(put(parcel), here.value(digest(parcel)));
}

Parcel same_parcel(const Parcel& parcel) { return parcel; }
// Makes results of its own, and gives away only Refs to them.
Parcel make_parcel(Number seed, Number count) {
  Parcel parcel;
  for (Number i = 0; i < count; ++i) {
    parcel.numbers.push_back({remote<leaf>(seed + i), {{Kind::value, mix(seed + i)}}});
    const Words words = make_words(seed + i, i * 300);
    parcel.words.push_back(
        {i % 2 == 0 ? put(words) : remote<make_words>(seed + i, i * 300), {{Kind::value, digest(words)}}});
  }
  return parcel;
}
// Reads all that lies inside; where one fails, so does this.
Number read_parcel(const Parcel& parcel) {
  Number sum = 0;
  for (const auto& carried : parcel.numbers) sum = sum * 3 + mobula::get(carried.ref);
  for (const auto& carried : parcel.words) sum = sum * 3 + digest(mobula::get(carried.ref));
  return mix(sum);
}

void task_takes_parcel(Interpreter& here, Draw& draw, const Step&) {
  const Parcel parcel = some_parcel(here, draw);
  Number sum = 0;
  std::vector<NodePtr> nodes;
  const auto count_in = [&](const auto& carried) {
    nodes.push_back(known(carried, here.settings().ranks_are_lost).node);
    sum = sum * 3 + here.digest_of(nodes.back());
  };
  for (const auto& carried : parcel.numbers) count_in(carried);
  for (const auto& carried : parcel.words) count_in(carried);
  if (draw.one_in(2)) {
    here.add(remote<read_parcel>(parcel), here.value(mix(sum), nodes));
  } else {
    here.add(remote<read_parcel>(put(parcel)), here.value(mix(sum), nodes));
  }
}

void task_passes_parcel(Interpreter& here, Draw& draw, const Step&) {
  const Parcel parcel = some_parcel(here, draw);
  here.add(remote<same_parcel>(parcel), here.value(digest(parcel)));
}

void task_makes_parcel(Interpreter& here, Draw& draw, const Step&) {
  const Number seed = draw.seed();
  const Number count = draw.below(5);
  const auto made = remote<make_parcel>(seed, count);
  if (draw.one_in(2)) {
    here.add(made, here.value(mix(count * 1000 + count)));
    return;
  }
  Number sum = 0;
  for (Number i = 0; i < count; ++i) sum = sum * 3 + mix(seed + i);
  for (Number i = 0; i < count; ++i) sum = sum * 3 + digest(make_words(seed + i, i * 300));
  here.add(remote<read_parcel>(made), here.value(mix(sum)));
}

void open_parcel(Interpreter& here, Draw& draw, const Step&) {
  if (here.parcels.empty()) return;
  const std::size_t position = draw.below(here.parcels.size());
  const auto parcel = here.parcels[position];
  here.parcels.erase(here.parcels.begin() + static_cast<std::ptrdiff_t>(position));
  here.check(parcel);
}

void put_refs_in_refs(Interpreter& here, Draw& draw, const Step&) {
  const auto number = here.number(draw);
  here.add(put(number.ref), here.value(here.digest_of(number.node), {number.node}));
}

void copy_ref(Interpreter& here, Draw& draw, const Step&) {
  const auto number = here.number(draw);
  here.require(Ref<Number>(number.ref) == number.ref, "a copy of a Ref equals it");
  here.require(std::hash<Ref<Number>>()(number.ref) == std::hash<Ref<Number>>()(Ref<Number>(number.ref)),
               "a copy of a Ref has its hash");
  here.add(number.ref, number.node);
}

template <class Shelf>
void drop_one(Shelf& shelf, Draw& draw) {
  if (!shelf.empty()) shelf.erase(shelf.begin() + static_cast<std::ptrdiff_t>(draw.below(shelf.size())));
}

void drop_ref(Interpreter& here, Draw& draw, const Step&) {
  switch (draw.below(6)) {
    case 0: drop_one(here.numbers, draw); break;
    case 1: drop_one(here.all_words, draw); break;
    case 2: drop_one(here.texts, draw); break;
    case 3: drop_one(here.voids, draw); break;
    case 4: drop_one(here.parcels, draw); break;
    default: drop_one(here.boxes, draw);
  }
}

void drop_batch(Interpreter& here, Draw& draw, const Step&) { drop_one(here.batches, draw); }

void drop_many(Interpreter& here, Draw& draw, const Step&) {
  for (std::size_t count = here.numbers.size() / 2; count > 0; --count) drop_one(here.numbers, draw);
  for (std::size_t count = here.all_words.size() / 2; count > 0; --count) drop_one(here.all_words, draw);
}

// A thread that does nothing but let go of Refs.
void drop_on_thread(Interpreter& here, Draw& draw, const Step&) {
  std::vector<Known<Number>> numbers;
  if (draw.one_in(2)) numbers.swap(here.numbers);
  std::vector<KnownBatch> batches;
  batches.swap(here.batches);
  std::vector<Ref<Number>> refs;
  for (const auto& known : numbers) refs.push_back(known.ref);
  std::thread([refs = std::move(refs), batches = std::move(batches)]() mutable {
    refs.clear();
    batches.clear();
  }).join();
}

constexpr Operation kOperations[] = {
    {"put_number", 4, kAll, put_number},
    {"put_words", 4, kAll, put_words},
    {"put_large", 2, kAll, put_large},
    {"put_text", 2, kAll, put_text},
    {"put_parcel", 3, kAll, put_parcel},
    {"put_ref", 2, kAll, put_refs_in_refs},
    {"task_takes_parcel", 3, kAll, task_takes_parcel},
    {"task_passes_parcel", 3, kAll, task_passes_parcel},
    {"task_makes_parcel", 4, kAll, task_makes_parcel},
    {"open_parcel", 4, kAll, open_parcel},
    {"copy_ref", 3, kAll, copy_ref},
    {"drop_ref", 8, kAll, drop_ref},
    {"drop_batch", 3, kAll, drop_batch},
    {"drop_many", 2, kAll, drop_many},
    {"drop_on_thread", 1, kAll, drop_on_thread},
};

}  // namespace

std::span<const Operation> value_operations() { return kOperations; }

}  // namespace random_programs
