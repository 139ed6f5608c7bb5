#include "jacobi_solver.hpp"

#include <hdf5.h>

#include <algorithm>
#include <boost/mpi/collectives.hpp>
#include <boost/mpi/nonblocking.hpp>
#include <boost/serialization/vector.hpp>
#include <cmath>
#include <functional>
#include <stdexcept>
#include <vector>

namespace {

namespace mpi = boost::mpi;

void write_rows(const mpi::communicator& ranks, const std::string& path, int n, int first, int rows,
                const double* values) {
  const auto check = [&path](auto code) {
    if (code < 0) throw std::runtime_error("can't write " + path);
    return code;
  };
  const hid_t access = check(H5Pcreate(H5P_FILE_ACCESS));
  check(H5Pset_fapl_mpio(access, ranks, MPI_INFO_NULL));
  const hid_t file = check(H5Fcreate(path.c_str(), H5F_ACC_TRUNC, H5P_DEFAULT, access));
  const hsize_t whole[] = {static_cast<hsize_t>(n), static_cast<hsize_t>(n)};
  const hsize_t offset[] = {static_cast<hsize_t>(first), 0};
  const hsize_t part[] = {static_cast<hsize_t>(rows), static_cast<hsize_t>(n)};
  const hid_t space = check(H5Screate_simple(2, whole, nullptr));
  const hid_t mine = check(H5Screate_simple(2, part, nullptr));
  check(H5Sselect_hyperslab(space, H5S_SELECT_SET, offset, nullptr, part, nullptr));
  const hid_t set = check(H5Dcreate2(file, "field", H5T_NATIVE_DOUBLE, space, H5P_DEFAULT, H5P_DEFAULT, H5P_DEFAULT));
  const hid_t transfer = check(H5Pcreate(H5P_DATASET_XFER));
  check(H5Pset_dxpl_mpio(transfer, H5FD_MPIO_COLLECTIVE));
  check(H5Dwrite(set, H5T_NATIVE_DOUBLE, mine, space, transfer, values));
  H5Pclose(transfer);
  H5Dclose(set);
  H5Sclose(mine);
  H5Sclose(space);
  check(H5Fclose(file));
  H5Pclose(access);
}

}  // namespace

JacobiResult jacobi(const mpi::communicator& ranks, int n, double hot, double tolerance, const std::string& path) {
  const int first = static_cast<int>(static_cast<long>(n) * ranks.rank() / ranks.size());
  const int rows = static_cast<int>(static_cast<long>(n) * (ranks.rank() + 1) / ranks.size()) - first;
  const auto width = static_cast<std::size_t>(n) + 2;
  // With a row of the neighbours, or the edge, above and below.
  std::vector<double> now((static_cast<std::size_t>(rows) + 2) * width, 0);
  if (ranks.rank() == 0) std::fill_n(now.begin(), width, hot);
  std::vector<double> next = now;
  const auto row = [width](std::vector<double>& field, int r) { return &field[static_cast<std::size_t>(r) * width]; };

  JacobiResult result;
  do {
    std::vector<mpi::request> requests;
    const auto exchange = [&](int other, int send_row, int receive_row) {
      if (other < 0 || other >= ranks.size() || rows == 0) return;
      requests.push_back(ranks.isend(other, 0, row(now, send_row), n + 2));
      requests.push_back(ranks.irecv(other, 0, row(now, receive_row), n + 2));
    };
    exchange(ranks.rank() - 1, 1, 0);
    exchange(ranks.rank() + 1, rows, rows + 1);
    mpi::wait_all(requests.begin(), requests.end());
    double change = 0;
    for (int r = 1; r <= rows; ++r) {
      const double* above = row(now, r - 1);
      const double* at = row(now, r);
      const double* below = row(now, r + 1);
      double* to = row(next, r);
      for (std::size_t c = 1; c <= static_cast<std::size_t>(n); ++c) {
        to[c] = 0.25 * (above[c] + below[c] + at[c - 1] + at[c + 1]);
        change = std::max(change, std::abs(to[c] - at[c]));
      }
    }
    std::swap(now, next);
    result.change = mpi::all_reduce(ranks, change, mpi::maximum<double>());
    ++result.iterations;
  } while (result.change > tolerance);

  // The sums of rows are added up in the order of the rows, so that the number of ranks makes no difference.
  std::vector<double> sums;
  for (int r = 1; r <= rows; ++r) {
    double sum = 0;
    for (std::size_t c = 1; c <= static_cast<std::size_t>(n); ++c) sum += row(now, r)[c];
    sums.push_back(sum);
  }
  std::vector<std::vector<double>> all;
  mpi::all_gather(ranks, sums, all);
  for (const auto& of_rank : all) {
    for (const double sum : of_rank) result.mean += sum;
  }
  result.mean /= static_cast<double>(n) * n;

  if (!path.empty()) {
    std::vector<double> inner;
    for (int r = 1; r <= rows; ++r) inner.insert(inner.end(), row(now, r) + 1, row(now, r) + 1 + n);
    write_rows(ranks, path, n, first, rows, inner.data());
  }
  return result;
}
