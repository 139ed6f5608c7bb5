# What is installed beside the library, and the package for Debian (cpack -G DEB).
set(CPACK_PACKAGE_CONTACT "Mobula maintainers <maintainers@mobula.dev>" CACHE STRING "Who looks after the package")
file(RELATIVE_PATH up /${CMAKE_INSTALL_LIBDIR}/pkgconfig /)
configure_file(packaging/mobula.pc.in ${CMAKE_BINARY_DIR}/mobula.pc @ONLY)
configure_file(packaging/mobula.lua.in ${CMAKE_BINARY_DIR}/mobula.lua @ONLY)
install(FILES ${CMAKE_BINARY_DIR}/mobula.pc DESTINATION ${CMAKE_INSTALL_LIBDIR}/pkgconfig)
install(FILES ${CMAKE_BINARY_DIR}/mobula.lua DESTINATION ${CMAKE_INSTALL_DATADIR}/mobula/modulefiles RENAME ${PROJECT_VERSION}.lua)
install(FILES packaging/completion.bash DESTINATION ${CMAKE_INSTALL_DATADIR}/bash-completion/completions RENAME mobula)
install(DIRECTORY slurm DESTINATION ${CMAKE_INSTALL_DATADIR}/mobula USE_SOURCE_PERMISSIONS)
install(FILES packaging/debian/copyright DESTINATION ${CMAKE_INSTALL_DATADIR}/doc/mobula)

find_program(GZIP gzip)
if(GZIP)
  configure_file(packaging/debian/changelog.in ${CMAKE_BINARY_DIR}/changelog @ONLY)
  execute_process(COMMAND ${GZIP} -9nkf changelog WORKING_DIRECTORY ${CMAKE_BINARY_DIR})
  install(FILES ${CMAKE_BINARY_DIR}/changelog.gz DESTINATION ${CMAKE_INSTALL_DATADIR}/doc/mobula)
endif()

# The manual is what the command says of itself.
find_program(HELP2MAN help2man)
if(HELP2MAN AND GZIP AND NOT MOBULA_SANITIZE)
  set(pages "")
  foreach(part "" run submit each doctor status top logs stop journal)
    if(part)
      set(page mobula-${part}.1.gz)
      set(of "$<TARGET_FILE:mobula_command> ${part}")
    else()
      set(page mobula.1.gz)
      set(of "$<TARGET_FILE:mobula_command>")
    endif()
    add_custom_command(OUTPUT ${CMAKE_BINARY_DIR}/man/${page}
      COMMAND ${PROJECT_SOURCE_DIR}/packaging/man-page ${HELP2MAN} "${of}" ${PROJECT_VERSION} ${CMAKE_BINARY_DIR}/man/${page}
      DEPENDS mobula_command packaging/man-page VERBATIM)
    list(APPEND pages ${CMAKE_BINARY_DIR}/man/${page})
  endforeach()
  add_custom_target(mobula_man ALL DEPENDS ${pages})
  install(FILES ${pages} DESTINATION ${CMAKE_INSTALL_MANDIR}/man1)
endif()

set(CPACK_GENERATOR DEB)
set(CPACK_PACKAGE_NAME mobula)
set(CPACK_PACKAGE_DESCRIPTION_SUMMARY "tasks, actors and programs in an MPI job")
set(CPACK_PACKAGE_DESCRIPTION
  "Mobula gives a C++ program that runs over MPI remote tasks, actors pinned to
cores, a shared-memory object store, and programs as tasks. It starts under
srun or mpirun, with no daemons.")
set(CPACK_PACKAGING_INSTALL_PREFIX /usr)
set(CPACK_STRIP_FILES ON)
set(CPACK_DEBIAN_FILE_NAME DEB-DEFAULT)
set(CPACK_DEBIAN_PACKAGE_SECTION libdevel)
set(CPACK_DEBIAN_PACKAGE_SHLIBDEPS ON)
set(CPACK_DEBIAN_PACKAGE_DEPENDS "libopenmpi-dev, libboost-mpi-dev, libboost-serialization-dev, libhwloc-dev, libhdf5-dev, libspdlog-dev, liblz4-dev, libsqlite3-dev, libxxhash-dev, openmpi-bin, libc6-dev")
include(CPack)
