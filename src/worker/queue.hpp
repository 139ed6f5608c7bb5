// A queue of pieces, linked through the pieces themselves: whatever leaves it, from either end or from the middle, does
// so in constant time. A piece is in one queue at most, and knows in which.
#pragma once

#include <cstddef>

namespace mobula::worker {

class PieceQueue;

// What a piece derives from to be queued. Copies are in no queue.
template <class T>
struct QueueHook {
  QueueHook() = default;
  QueueHook(const QueueHook&) {}
  QueueHook& operator=(const QueueHook&) { return *this; }

  PieceQueue* queue = nullptr;  // in which it is; nullptr: in none
  T* before = nullptr;
  T* behind = nullptr;
};

struct Piece;

// Owns no piece. What leaves it is not erased. It must not move while something is queued.
class PieceQueue {
 public:
  PieceQueue() = default;
  PieceQueue(const PieceQueue&) = delete;
  PieceQueue& operator=(const PieceQueue&) = delete;

  bool empty() const { return front_ == nullptr; }
  std::size_t size() const { return size_; }
  Piece* front() const { return front_; }
  Piece* back() const { return back_; }

  // REQUIRES: the piece is in no queue.
  void push_front(Piece& piece);
  void push_back(Piece& piece);
  // REQUIRES: the piece is in this queue.
  void erase(Piece& piece);

 private:
  void insert(Piece& piece, Piece* before, Piece* behind);

  Piece* front_ = nullptr;
  Piece* back_ = nullptr;
  std::size_t size_ = 0;
};

}  // namespace mobula::worker
