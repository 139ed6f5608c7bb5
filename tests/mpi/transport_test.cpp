// The transport's contract over MPI: transport_mpi_test CASE [SIZE], on as many ranks as the case needs.
#include <cstdio>
#include <cstdlib>
#include <cstring>

#include "transport/mpi_wire.hpp"
#include "unit/transport/contract.hpp"

int main(int argc, char** argv) {
  using namespace mobula::transport;
  const std::string which = argc > 1 ? argv[1] : "";
  const auto wire = MpiWire::start();
  try {
    if (which == "order") {
      contract::order_and_sizes(*wire);
    } else if (which == "both_ways") {
      contract::both_ways(*wire);
    } else if (which == "many") {
      contract::many_to_one(*wire);
    } else if (which == "slow") {
      contract::slow_receiver(*wire);
    } else if (which == "own") {
      contract::own_messages(*wire);
    } else if (which == "block") {
      contract::block(*wire, std::strtoull(argv[2], nullptr, 10));
    } else {
      throw std::runtime_error("no such case");
    }
  } catch (const std::exception& e) {
    std::fprintf(stderr, "rank %u: %s\n", wire->rank(), e.what());
    std::_Exit(1);
  }
  wire->finalize();
  return 0;
}
