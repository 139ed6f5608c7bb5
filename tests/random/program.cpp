#include "random/program.hpp"

#include <algorithm>
#include <charconv>
#include <stdexcept>

#include "random/operations.hpp"

namespace random_programs {
namespace {

constexpr int kDepth = 3;  // blocks within blocks

bool is_named(const std::vector<std::string>& names, std::string_view name) {
  return std::any_of(names.begin(), names.end(), [&](const std::string& start) { return name.starts_with(start); });
}

class Generator {
 public:
  Generator(Number seed, const Choice& choice) : draw_(seed) {
    for (const Operation& operation : operations()) {
      if (!choice.only.empty() && !is_named(choice.only, operation.name)) continue;
      if (is_named(choice.without, operation.name) || (operation.is_rare && !choice.rare)) continue;
      if (operation.needs_all_ranks && choice.ranks_are_lost) continue;
      chosen_.push_back(&operation);
    }
  }

  Steps steps(Role role, Number count, int depth) {
    Steps steps;
    Number weights = 0;
    for (const Operation* operation : chosen_) weights += weight(*operation, role, depth);
    if (weights == 0) return steps;
    for (Number i = 0; i < count; ++i) {
      Number point = draw_.below(weights);
      for (const Operation* operation : chosen_) {
        const Number weight_here = weight(*operation, role, depth);
        if (point < weight_here) {
          steps.push_back(step(*operation, role, depth));
          break;
        }
        point -= weight_here;
      }
    }
    return steps;
  }

 private:
  static Number weight(const Operation& operation, Role role, int depth) {
    if ((operation.roles & bit(role)) == 0) return 0;
    return operation.block && depth == kDepth ? 0 : static_cast<Number>(operation.weight);
  }

  Step step(const Operation& operation, Role role, int depth) {
    Step made{&operation, draw_.seed(), {}};
    if (operation.block) made.block = steps(operation.block(role), 1 + draw_.below(6), depth + 1);
    return made;
  }

  Draw draw_;
  std::vector<const Operation*> chosen_;
};

void write(std::string& text, const Steps& steps) {
  for (const Step& step : steps) {
    if (!text.empty()) text += ' ';
    text += std::string(step.operation->name) + "#" + std::to_string(step.seed);
    if (step.block.empty()) continue;
    text += '[';
    write(text, step.block);
    text += " ]";
  }
}

class Parser {
 public:
  explicit Parser(std::string_view text) : text_(text) {}

  // Up to the end of the text, or of the block.
  Steps steps(bool in_block) {
    Steps steps;
    for (;;) {
      skip_spaces();
      if (text_.empty() || text_.front() == ']') {
        if (text_.empty() == in_block) throw std::invalid_argument("a program whose brackets don't match");
        if (in_block) text_.remove_prefix(1);
        return steps;
      }
      steps.push_back(step());
    }
  }

 private:
  void skip_spaces() {
    while (!text_.empty() && (text_.front() == ' ' || text_.front() == '\n')) text_.remove_prefix(1);
  }

  Step step() {
    const std::size_t mark = text_.find('#');
    if (mark == std::string_view::npos) throw std::invalid_argument("a step without a seed: " + std::string(text_));
    Step step;
    step.operation = operation_named(text_.substr(0, mark));
    text_.remove_prefix(mark + 1);
    const auto [end, error] = std::from_chars(text_.data(), text_.data() + text_.size(), step.seed);
    if (error != std::errc()) throw std::invalid_argument("a seed that is no number: " + std::string(text_));
    text_.remove_prefix(static_cast<std::size_t>(end - text_.data()));
    if (!text_.empty() && text_.front() == '[') {
      text_.remove_prefix(1);
      step.block = steps(true);
    }
    return step;
  }

  std::string_view text_;
};

// `number` is that of the next step.
Steps leave_out(const Steps& steps, Number first, Number count, Number& number) {
  Steps kept;
  for (const Step& step : steps) {
    const Number own = number++;
    if (own >= first && own < first + count) {
      number += size_of(step.block);
      continue;
    }
    kept.push_back({step.operation, step.seed, leave_out(step.block, first, count, number)});
  }
  return kept;
}

}  // namespace

Steps generate(Number seed, const Choice& choice) {
  Steps steps = Generator(seed, choice).steps(Role::driver, choice.operations, 0);
  if (steps.empty()) throw std::invalid_argument("no operation is left that the driver may do");
  return steps;
}

std::string text_of(const Steps& steps) {
  std::string text;
  write(text, steps);
  return text;
}

Steps parse(std::string_view text) { return Parser(text).steps(false); }

Number size_of(const Steps& steps) {
  Number count = steps.size();
  for (const Step& step : steps) count += size_of(step.block);
  return count;
}

Steps without_steps(const Steps& steps, Number first, Number count) {
  Number number = 0;
  return leave_out(steps, first, count, number);
}

}  // namespace random_programs
