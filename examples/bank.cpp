// Accounts that live on different ranks, and tasks that move money between them: nothing is lost, and nobody overdraws.
//   bank [ACCOUNTS [TRANSFERS]]
#include <cstdint>
#include <cstdlib>
#include <iostream>
#include <mobula/mobula.hpp>
#include <random>
#include <stdexcept>

class Overdrawn : public std::runtime_error {
 public:
  using std::runtime_error::runtime_error;
};

class Account {
 public:
  explicit Account(std::int64_t balance) : balance_(balance) {}
  void deposit(std::int64_t amount) { balance_ += amount; }
  void withdraw(std::int64_t amount) {
    if (amount > balance_) throw Overdrawn("the balance is only " + std::to_string(balance_));
    balance_ -= amount;
  }
  std::int64_t balance() const { return balance_; }

 private:
  std::int64_t balance_;
};
using Accounts = std::vector<mobula::Actor<Account>>;

// An actor does one thing at a time, so that a withdrawal needs no lock. Returns how many transfers were refused.
int transfer_some(const Accounts& accounts, std::uint64_t seed, int transfers) {
  std::mt19937_64 random(seed);
  int refused = 0;
  for (int i = 0; i < transfers; ++i) {
    const auto& from = accounts[random() % accounts.size()];
    const auto& to = accounts[random() % accounts.size()];
    const auto amount = static_cast<std::int64_t>(random() % 100);
    try {
      mobula::get(mobula::remote<&Account::withdraw>(from, amount));
    } catch (const mobula::TaskError&) {  // what Overdrawn is, elsewhere
      ++refused;
      continue;
    }
    mobula::get(mobula::remote<&Account::deposit>(to, amount));
  }
  return refused;
}

int main(int argc, char** argv) {
  return mobula::run(argc, argv, [&] {
    const std::int64_t n = argc > 1 ? std::atoll(argv[1]) : 20;
    const int transfers = argc > 2 ? std::atoi(argv[2]) : 20'000;
    Accounts accounts;
    for (std::int64_t i = 0; i < n; ++i) accounts.push_back(mobula::actor<Account>(std::int64_t{100}));
    constexpr int kTellers = 16;
    std::vector<mobula::Ref<int>> tellers;
    for (std::uint64_t i = 0; i < kTellers; ++i) {
      tellers.push_back(mobula::remote<transfer_some>(accounts, i, transfers / kTellers));
    }
    int refused = 0;
    for (const auto& teller : tellers) refused += mobula::get(teller);
    std::int64_t sum = 0;
    for (const auto& account : accounts) sum += mobula::get(mobula::remote<&Account::balance>(account));
    std::cout << transfers / kTellers * kTellers << " transfers between " << n << " accounts, " << refused
              << " refused; together they hold " << sum << " of " << 100 * n << '\n';
    return sum == 100 * n ? 0 : 1;
  });
}
