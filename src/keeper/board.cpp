#include "keeper/board.hpp"

#include <fcntl.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include <new>

namespace mobula::keeper {

std::unique_ptr<Board> Board::make(const std::string& name, std::uint32_t places) {
  const int file = shm_open(name.c_str(), O_RDWR | O_CREAT | O_EXCL | O_CLOEXEC, 0600);
  if (file < 0) return nullptr;
  const std::size_t size = sizeof(Shared) + places * sizeof(Place);
  // Allocated now, so that no touch of it can fail later.
  if (posix_fallocate(file, 0, static_cast<off_t>(size)) != 0) {
    close(file);
    shm_unlink(name.c_str());
    return nullptr;
  }
  auto board = map(file);
  if (board == nullptr) {
    shm_unlink(name.c_str());
    return nullptr;
  }
  new (board->shared_) Shared;
  board->shared_->places = places;
  for (std::uint32_t i = 0; i < places; ++i) new (&board->place(i)) Place;
  return board;
}

std::unique_ptr<Board> Board::open(const std::string& name) {
  const int file = shm_open(name.c_str(), O_RDWR | O_CLOEXEC, 0);
  return file < 0 ? nullptr : map(file);
}

std::unique_ptr<Board> Board::map(int file) {
  struct stat info {};
  if (fstat(file, &info) == 0 && static_cast<std::size_t>(info.st_size) >= sizeof(Shared) + sizeof(Place)) {
    const auto size = static_cast<std::size_t>(info.st_size);
    void* memory = mmap(nullptr, size, PROT_READ | PROT_WRITE, MAP_SHARED, file, 0);
    if (memory != MAP_FAILED) return std::unique_ptr<Board>(new Board(file, static_cast<Shared*>(memory), size));
  }
  close(file);
  return nullptr;
}

void Board::remove(const std::string& name) { shm_unlink(name.c_str()); }

Board::~Board() {
  munmap(shared_, size_);
  close(file_);
}

std::string describe_status(int status) {
  if (WIFSIGNALED(status)) {
    const int signal = WTERMSIG(status);
    return "killed by signal " + std::to_string(signal) + " (" + strsignal(signal) + ")" +
           (WCOREDUMP(status) ? ", core dumped" : "");
  }
  if (WIFEXITED(status)) return "exited with code " + std::to_string(WEXITSTATUS(status));
  return "ended";
}

std::string describe_end_of_head(int status) {
  if (status == 0) return "rank 0, the head, is gone";
  return std::string("rank 0, the head, ") + (WIFSIGNALED(status) ? "was " : "") + describe_status(status);
}

}  // namespace mobula::keeper
