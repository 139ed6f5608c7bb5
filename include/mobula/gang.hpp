// gang<F>(k, args…): F on k ranks at once, with a communicator of exactly those.
//
//   double norm(const boost::mpi::communicator& ranks, const Field& part);
//   mobula::Batch<double> results = mobula::gang<norm>(4, field);
//
// This header does not need mpi.h; what defines F does.
#pragma once

#include "mobula/remote.hpp"

namespace boost::mpi {
class communicator;
}

namespace mobula {

namespace detail {

// That of the gang which the current task is a member of.
const boost::mpi::communicator& gang_communicator();
// Submits a gang. Throws Infeasible.
BatchHandle gang(const FunctionInfo& function, const GangOptions* options, std::size_t members, Draft::State& draft);

// F, without the communicator among its parameters.
template <auto F>
struct GangMember : Runnable<GangMember<F>, WithoutFirst<typename Signature<std::decay_t<decltype(F)>>::Pointer>> {
  template <class... A>
  static decltype(auto) apply(TaskRun&, A&&... arguments) {
    return F(gang_communicator(), std::forward<A>(arguments)...);
  }
  static constexpr std::string_view signature() { return __PRETTY_FUNCTION__; }
  static inline const FunctionInfo info{signature(), &GangMember::invoke, GangMember::args_size(),
                                        fixed_size<typename GangMember::StoredResult>, FunctionInfo::Kind::member};
};

template <auto F>
inline constexpr bool takes_communicator = false;
template <auto F>
requires requires { typename Signature<std::decay_t<decltype(F)>>::Parameters; }
inline constexpr bool takes_communicator<F> = []<class First, class... P>(std::type_identity<std::tuple<First, P...>>) {
  return std::is_same_v<std::remove_cvref_t<First>, boost::mpi::communicator>;
}(std::type_identity<typename Signature<std::decay_t<decltype(F)>>::Parameters>{});

template <auto F, class... A>
auto submit_gang(const GangOptions* options, std::size_t members, A&&... args) {
  static_assert(takes_communicator<F>,
                "mobula: the function of a gang takes a const boost::mpi::communicator& as its first parameter");
  using Fn = GangMember<F>;
  return Batch<typename Fn::StoredResult>(Arguments<Fn>::encode(
      [&](Draft::State& draft) { return gang(Fn::info, options, members, draft); }, std::forward<A>(args)...));
}

}  // namespace detail

// F with options bound to it: gang<F>.with(…).
template <auto F>
class GangWith {
 public:
  explicit GangWith(GangOptions options) : options_(std::make_shared<GangOptions>(std::move(options))) {}
  template <class... A>
  auto operator()(std::size_t members, A&&... args) const {
    return detail::submit_gang<F>(options_.get(), members, std::forward<A>(args)...);
  }

 private:
  std::shared_ptr<const GangOptions> options_;
};

// F is a function or captureless lambda R(const boost::mpi::communicator&, args…). It runs on `members` ranks at once,
// all or none, each with a communicator of exactly those; element i of the Batch is what rank i of it returned.
// Arguments are as for `remote`: a Ref<T> may stand for a T, and all members get the same. Inside F all of MPI is
// allowed on that communicator and what is made of it. Communicators are kept, and used again by gangs of the same
// ranks.
//
// A member that throws ends the gang: all elements fail with that error. Members that wait for it in MPI can't be
// reached; the rank of one that does not come back within a second loses what the member holds (its slot, say) until it
// does. If a rank is lost, the gang runs again as a whole, up to `retries` times.
//
// Throws Infeasible where the job has not as many ranks with slots; std::invalid_argument for 0 members. Where MPI
// grants less than MPI_THREAD_MULTIPLE the members fail.
template <auto F>
struct Gang {
  template <class... A>
  auto operator()(std::size_t members, A&&... args) const {
    return detail::submit_gang<F>(nullptr, members, std::forward<A>(args)...);
  }
  GangWith<F> with(GangOptions options) const { return GangWith<F>(std::move(options)); }
};

template <auto F>
inline constexpr Gang<F> gang{};

}  // namespace mobula
