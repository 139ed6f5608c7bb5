// Writes a seed corpus: one frame of each kind of message, and a value.
#include <cstdio>
#include <fstream>

#include "core/messages.hpp"
#include "mobula/ref.hpp"

namespace {
int g_files = 0;
std::string g_folder;

void write(const mobula::detail::Buffer& bytes) {
  std::ofstream out(g_folder + "/" + std::to_string(g_files++), std::ios::binary);
  out.write(reinterpret_cast<const char*>(bytes.data()), static_cast<std::streamsize>(bytes.size()));
}
template <class M>
void message(const M& m) {
  mobula::detail::Buffer frame;
  mobula::core::append_message(frame, m);
  write(frame);
}
}  // namespace

int main(int argc, char** argv) {
  using namespace mobula::core;
  if (argc != 2) return 1;
  g_folder = argv[1];
  WireOptions options;
  options.is_actor = true;
  options.actor.name = "actor";
  options.demands = {{1, 1, 1, {{"x", 1}}}};
  options.name = "name";
  const mobula::detail::Encoder value = [] {
    mobula::detail::Encoder out;
    mobula::detail::encode(out, std::vector<double>{1, 2});
    return out;
  }();
  TaskBody body{1, 3, value.buffer.view(), {8}, true, options};
  Join join;
  join.version = "0.1";
  join.host = "host";
  join.slots = 2;
  join.node_resources.emplace_back("license");
  join.features.emplace_back("a feature");
  message(join);
  message(Submit{{{1}, 0, 1}, true, true, body, {{{2}, 3}}, {{{4}, 5}}});
  message(Done{{{1}, 0, 2}, 9, {{1, {}}}, {{0, 4}}, {{0, {{5}, 6}}}, 7});
  message(OvertimeEnded{7});
  message(Assign{
      {{1}, 0, 1}, 2, 3, body, {{{{1}, 2}, Where::inlined, 0, value.buffer.view()}}, {6, 7}, {}, value.buffer.view()});
  body.options.is_actor = false;
  body.options.gang = 3;
  message(Assign{{{1}, 0, 1}, 2, 3, body, {}, {}, {4, 5, 1, {0, 3}}, {}});
  body.options = options;
  message(Member{1, 2, MemberState::failed, {}});
  message(GangOver{1, true});
  message(GangWaits{1, true});
  message(DropCommunicator{1, true});
  message(Pulse{{{3, "killed by signal 9 (Killed)", true, {{{1}, 2, 3}}}}, {{4, 5'000'000'000}}});
  message(PulseBack{});
  message(Drain{true});
  message(Dismiss{});
  message(Adopt{{SpanId{7}, 1}, 2});
  message(Leave{1'000'000});
  message(Left{{{1, 2}, {3, 4}}});
  message(Saved{});
  message(Waits{{{1}, 2}, true, 3});
  message(Result{{{1}, 0, 1}, 8, value.buffer.view(), {}, {{0, {}}}, {{1, 9}}, {2}, {{0, {{1}, 2}}}, 3});
  message(Call{{{1}, 0, 1}, {{2}, 3}, {{4}, 5}, true, body, {{{{1}, 2}, Where::rank, 1, {}}}});
  message(Made{{{1}, 2}, 3, {{{4}, 5}}, 6});
  message(Counted{1, {{1}, 2}, true});
  message(EndActor{{{1}, 2}, 3, {}});
  message(Blocked{{{1}, 2}, {{3}, 4}, 5, true});
  message(Deadlock{1, "why"});
  message(Holds{{{{1}, 2}}, {{{3}, 4}}, {{5}}});
  message(Data{{{1}, 2}, false, {}, value.buffer.view(), 0, 0});
  message(Data{{{1}, 2}, false, {}, {}, 100, 0, 4096, true});
  message(Uncopied{{{{1}, 2}}});
  message(Unheard{3, {{{1}, 2}}});
  message(Checkpoint{{{1}, 2}, value.buffer.view(), {{{3}, 4}}});
  message(StoreReport{1, "stats"});
  message(AskStore{1, 10});
  message(Located{{{1}, 2}, 3, {}, 7});
  message(RankLost{3, {{{1}, 0, 2}}});
  message(GaveBack{{{{1}, 2, 3}}});
  message(Ask{1, Question::feasible, {}, options});
  message(Stop{1, "why"});
  write(value.buffer);
  return 0;
}
