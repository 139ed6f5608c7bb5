# Warnings and sanitizers of our own targets; nothing of it reaches users.
# GCC 12 sees overlapping copies in the string library where there are none, hence no -Wrestrict.
add_library(mobula_options INTERFACE)
target_compile_options(mobula_options INTERFACE
  $<BUILD_INTERFACE:-Wall;-Wextra;-Wpedantic;$<IF:$<CXX_COMPILER_ID:GNU>,-Wshadow=local,-Wshadow>;-Wconversion;-Wnon-virtual-dtor;-Woverloaded-virtual;-Wold-style-cast;$<$<CXX_COMPILER_ID:GNU>:-Wno-restrict>>
  $<$<BOOL:${MOBULA_WERROR}>:-Werror>)
if(MOBULA_SANITIZE)
  add_compile_options(-fsanitize=${MOBULA_SANITIZE} -fno-omit-frame-pointer)
  add_link_options(-fsanitize=${MOBULA_SANITIZE})
  add_compile_definitions(MOBULA_SANITIZE="${MOBULA_SANITIZE}")  # compilers have no macro of one name for it
endif()
