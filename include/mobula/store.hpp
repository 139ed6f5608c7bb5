// What the object store holds, for people and tests.
#pragma once

#include <cstddef>
#include <cstdint>
#include <string>
#include <vector>

namespace mobula {

// Of the large values of one rank, or of all ranks of one node. Bytes, unless it says otherwise. Values that travel
// inline (see Config::inline_limit) are not counted.
struct StoreUse {
  std::uint32_t rank = 0;  // the first, of a node
  std::uint32_t node = 0;
  std::string host;
  std::size_t capacity = 0;
  std::size_t used = 0;          // memory that values take
  std::size_t touched = 0;       // memory that has been in use at some time
  std::size_t pinned = 0;        // of values that views, tasks or other ranks of the node use now
  std::size_t spilled = 0;       // of values that are in files only
  std::size_t largest_free = 0;  // the largest value for which there is room; the largest of any rank, of a node
  std::size_t objects = 0;       // values, a number
  std::size_t copies = 0;        // of those, copies of values of other nodes
  std::uint64_t fetches = 0;     // values asked of other ranks
  std::uint64_t evictions = 0;   // values that were dropped from memory: copies, and those that a file has
  std::uint64_t spills = 0;      // values written to files
  std::uint64_t restores = 0;    // values read back
};

struct StoredObject {
  std::string id;
  std::size_t size = 0;
  std::uint32_t rank = 0;  // where this value or copy is
  bool in_memory = true;
  bool in_use = false;                 // by views, tasks or transfers of that rank
  std::vector<std::uint32_t> readers;  // ranks of its node that read it in place
  std::vector<std::uint32_t> holders;  // ranks that hold Refs to it
  std::size_t inner_holders = 0;       // tasks that wait for it, and objects that contain Refs to it
};

struct StoreStats {
  std::vector<StoreUse> ranks;
  std::vector<StoreUse> nodes;
  std::vector<StoredObject> largest;  // first
  std::size_t objects() const;        // of all ranks, copies included
};

// Asks all ranks. `largest`: how many of the largest objects are listed.
StoreStats store_stats(std::size_t largest = 10);

}  // namespace mobula
