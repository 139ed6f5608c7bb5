// A sum of amounts that come and go. When there are none it is 0 exactly, whatever rounding has left.
#pragma once

#include <cstdint>

namespace mobula::core {

class Sum {
 public:
  // `part` is what somebody has added; it is to be `amount` now. Says whether that is another.
  bool set(double& part, double amount) {
    if (part == amount) return false;
    parts_ += amount != 0 ? 1 : 0;
    parts_ -= part != 0 ? 1 : 0;
    value_ = parts_ != 0 ? value_ + (amount - part) : 0;
    part = amount;
    return true;
  }
  operator double() const { return value_; }  // NOLINT(google-explicit-constructor)

 private:
  double value_ = 0;
  std::int64_t parts_ = 0;
};

}  // namespace mobula::core
