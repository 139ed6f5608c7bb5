# A recipe for Spack:  spack repo add packaging/spack && spack install mobula ^openmpi schedulers=slurm
from spack.package import *


class Mobula(CMakePackage):
    """Remote tasks, actors and programs in an MPI job: what Ray gives Python, for C++ on HPC clusters."""

    license("Apache-2.0")
    version("main", branch="main")

    variant("examples", default=False, description="Build the examples")

    depends_on("c", type="build")
    depends_on("cxx", type="build")
    depends_on("cmake@3.25:", type="build")
    depends_on("pkgconfig", type="build")
    depends_on("mpi")
    depends_on("boost@1.74: +mpi +serialization")
    depends_on("hwloc@2.7.1:")
    depends_on("hdf5 +mpi")
    depends_on("spdlog@1.10:")
    depends_on("tomlplusplus")
    depends_on("cli11@2.1:")
    depends_on("nlohmann-json@3.9:")
    depends_on("lz4")
    depends_on("sqlite@3.35:")
    depends_on("xxhash@0.8:")
    depends_on("zlib-api", when="+examples")

    conflicts("%gcc@:11", msg="Mobula needs C++20 as GCC 12 has it")

    def cmake_args(self):
        return [
            self.define_from_variant("MOBULA_EXAMPLES", "examples"),
            self.define("MOBULA_TESTS", False),
            self.define("MOBULA_BENCH", False),
        ]

    def setup_run_environment(self, env):
        env.set("MOBULA_ROOT", self.prefix)
