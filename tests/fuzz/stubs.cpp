// The fuzzed values hold no refs: what those would need of the runtime is left out.
#include "mobula/detail/codec.hpp"

namespace mobula::detail {
Handle Decoder::ref() { throw_damaged("no refs here"); }
void Encoder::ref(const Handle&) {}
void Handle::acquire() const noexcept {}
void Handle::release() const noexcept {}
}  // namespace mobula::detail
