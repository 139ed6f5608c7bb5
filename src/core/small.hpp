// A vector whose first N elements lie in itself: for what is made for each task and is nearly always short.
#pragma once

#include <algorithm>
#include <boost/container/small_vector.hpp>
#include <cstddef>
#include <span>

namespace mobula::core {

template <class T, std::size_t N>
struct Small : boost::container::small_vector<T, N> {
  using boost::container::small_vector<T, N>::small_vector;
  // Its iterators don't say that they are contiguous, so a span does not take it by itself.
  operator std::span<const T>() const { return {this->data(), this->size()}; }
};

template <class T, std::size_t N, class Predicate>
void erase_if(Small<T, N>& from, const Predicate& is) {
  from.erase(std::remove_if(from.begin(), from.end(), is), from.end());
}
template <class T, std::size_t N>
void erase(Small<T, N>& from, const T& value) {
  from.erase(std::remove(from.begin(), from.end(), value), from.end());
}

}  // namespace mobula::core
