// Numbers, words and texts that the programs make, and the plain functions that they run as tasks. All is a function of
// the arguments, so that the model computes what is expected by the same functions.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <string>
#include <string_view>
#include <vector>

namespace random_programs {

using Number = std::uint64_t;
using Words = std::vector<Number>;

Number mix(Number number);

// What a value is compared by.
inline Number digest(Number number) { return number; }
Number digest(std::span<const Number> words);
inline Number digest(const Words& words) { return digest(std::span<const Number>(words)); }
Number digest(std::string_view text);

// A source of numbers that is the same everywhere for equal seeds.
class Draw {
 public:
  explicit Draw(Number seed) : state_(mix(seed + 0x51ED)) {}
  Number number() { return state_ = mix(state_); }
  Number below(Number limit) { return number() % limit; }
  bool one_in(Number count) { return below(count) == 0; }
  // Small, so that a program's text stays readable.
  Number seed() { return below(1 << 20); }

 private:
  Number state_;
};

// Sleeps for a time that follows from the seed: mostly not at all, at most `most` milliseconds.
void nap(Number seed, Number most = 15);

// ---- bodies of tasks

Number leaf(Number seed);
Number sleeper(Number seed, Number milliseconds);
void nothing(Number seed);
Number join(Number left, Number right);
Number narrow(std::uint32_t number);
Words make_words(Number seed, Number count);
// Words and texts that follow from the digest of others, so that the model needs no more than that.
Words remade_words(const Words& words, Number seed, Number count);
Words joined_words(const Words& left, const Words& right, Number count);
Number digest_of_words(const Words& words);
Number digest_in_place(std::span<const Number> words);
std::string make_text(Number seed, Number length);
Number digest_of_text(std::string_view text);
Number seeded_digest(const Words& words, Number seed);
std::string remade_text(const std::string& text, Number seed, Number length);
Number plus(Number left, Number right);

}  // namespace random_programs
