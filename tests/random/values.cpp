#include "random/values.hpp"

#include <chrono>
#include <thread>

#include "random/watch.hpp"

namespace random_programs {

Number mix(Number number) {
  number += 0x9E37'79B9'7F4A'7C15ULL;
  number = (number ^ (number >> 30)) * 0xBF58'476D'1CE4'E5B9ULL;
  number = (number ^ (number >> 27)) * 0x94D0'49BB'1331'11EBULL;
  return number ^ (number >> 31);
}

Number digest(std::span<const Number> words) {
  Number sum = words.size();
  for (const Number word : words) sum = sum * 0x1000'0000'01B3ULL + word;
  return mix(sum);
}

Number digest(std::string_view text) {
  Number sum = text.size();
  for (const char letter : text) sum = sum * 0x1000'0000'01B3ULL + static_cast<unsigned char>(letter);
  return mix(sum);
}

void nap(Number seed, Number most) {
  note_progress();
  const Number chance = mix(seed) % 64;
  const Number milliseconds = chance == 0 ? most : chance < 8 ? mix(seed + 1) % 3 : 0;
  if (milliseconds != 0) std::this_thread::sleep_for(std::chrono::milliseconds(milliseconds));
}

Number leaf(Number seed) {
  nap(seed);
  return mix(seed);
}

Number sleeper(Number seed, Number milliseconds) {
  std::this_thread::sleep_for(std::chrono::milliseconds(milliseconds));
  return mix(seed);
}

void nothing(Number seed) { nap(seed); }

Number join(Number left, Number right) {
  nap(left + right, 4);
  return mix(left * 3 + right);
}

Number narrow(std::uint32_t number) { return mix(number); }

Words make_words(Number seed, Number count) {
  Words words(count);
  for (Number i = 0; i < count; ++i) words[i] = mix(seed + i);
  return words;
}

Words remade_words(const Words& words, Number seed, Number count) {
  return make_words(mix(digest(words) + seed), count);
}
Words joined_words(const Words& left, const Words& right, Number count) {
  return make_words(mix(digest(left) * 3 + digest(right)), count);
}

Number digest_of_words(const Words& words) { return digest(words); }
Number digest_in_place(std::span<const Number> words) { return digest(words); }

std::string make_text(Number seed, Number length) {
  std::string text(length, ' ');
  for (Number i = 0; i < length; ++i) text[i] = static_cast<char>(mix(seed + i) % 256);
  return text;
}

Number digest_of_text(std::string_view text) { return digest(text); }
Number seeded_digest(const Words& words, Number seed) { return mix(digest(words) + seed); }
std::string remade_text(const std::string& text, Number seed, Number length) {
  return make_text(mix(digest(std::string_view(text)) + seed), length);
}
Number plus(Number left, Number right) { return left + right; }

}  // namespace random_programs
