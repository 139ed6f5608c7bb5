#include "worker/queue.hpp"

#include "worker/worker.hpp"

namespace mobula::worker {

void PieceQueue::insert(Piece& piece, Piece* before, Piece* behind) {
  MOBULA_CHECK(piece.queue == nullptr, "a piece is in one queue at most");
  piece.queue = this;
  piece.before = before;
  piece.behind = behind;
  (before != nullptr ? before->behind : front_) = &piece;
  (behind != nullptr ? behind->before : back_) = &piece;
  ++size_;
}

void PieceQueue::push_front(Piece& piece) { insert(piece, nullptr, front_); }

void PieceQueue::push_back(Piece& piece) { insert(piece, back_, nullptr); }

void PieceQueue::erase(Piece& piece) {
  MOBULA_CHECK(piece.queue == this, "a piece leaves the queue in which it is");
  (piece.before != nullptr ? piece.before->behind : front_) = piece.behind;
  (piece.behind != nullptr ? piece.behind->before : back_) = piece.before;
  piece.queue = nullptr;
  piece.before = piece.behind = nullptr;
  --size_;
}

}  // namespace mobula::worker
