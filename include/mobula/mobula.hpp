// Mobula: remote tasks in an MPI job.
//
//   #include <mobula/mobula.hpp>
//   int square(int x) { return x * x; }
//   int main(int argc, char** argv) {
//     return mobula::run(argc, argv, [] {
//       mobula::Ref<int> nine = mobula::remote<square>(3);
//       return mobula::get(nine) == 9 ? 0 : 1;
//     });
//   }
#pragma once

#include "mobula/actor.hpp"
#include "mobula/command.hpp"
#include "mobula/config.hpp"
#include "mobula/error.hpp"
#include "mobula/gang.hpp"
#include "mobula/journal.hpp"
#include "mobula/options.hpp"
#include "mobula/placement_group.hpp"
#include "mobula/ref.hpp"
#include "mobula/remote.hpp"
#include "mobula/run.hpp"
#include "mobula/store.hpp"
#include "mobula/view.hpp"
