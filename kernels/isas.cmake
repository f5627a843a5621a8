# The operations, once per instruction set of the target. Paths are relative to this folder.
set(isas isa_scalar.cpp)
set(here ${CMAKE_CURRENT_LIST_DIR})
if(CMAKE_SYSTEM_PROCESSOR MATCHES "x86_64|AMD64")
  list(APPEND isas isa_avx2.cpp isa_avx512.cpp)
  set_source_files_properties(${here}/isa_avx2.cpp PROPERTIES COMPILE_OPTIONS "-mavx2;-mfma;-mf16c")
  # GCC 12 takes its own AVX-512 header's "undefined" operands for a mistake of ours.
  set_source_files_properties(${here}/isa_avx512.cpp PROPERTIES COMPILE_OPTIONS
    "-mavx512f;-mavx512bw;-mavx512vl;-mavx512vnni;-mfma;-mf16c;-Wno-maybe-uninitialized;-Wno-uninitialized")
  if(CMAKE_SYSTEM_NAME STREQUAL "Linux")  # whose kernel has to be asked for the tiles
    list(APPEND isas isa_amx.cpp)
    set_source_files_properties(${here}/isa_amx.cpp PROPERTIES COMPILE_OPTIONS
      "-mavx512f;-mavx512bw;-mavx512vl;-mavx512vnni;-mfma;-mf16c;-mamx-tile;-mamx-int8;-Wno-maybe-uninitialized;-Wno-uninitialized")
  endif()
elseif(CMAKE_SYSTEM_PROCESSOR MATCHES "aarch64|arm64|ARM64")
  list(APPEND isas isa_neon.cpp isa_neon_dot.cpp isa_neon_i8mm.cpp)
  set_source_files_properties(${here}/isa_neon_dot.cpp PROPERTIES COMPILE_OPTIONS "-march=armv8.2-a+dotprod")
  set_source_files_properties(${here}/isa_neon_i8mm.cpp PROPERTIES COMPILE_OPTIONS "-march=armv8.2-a+dotprod+i8mm")
endif()
list(TRANSFORM isas PREPEND ${here}/)
# GCC's elimination of partial redundancies keeps a second copy of a product's sums in memory: half the speed.
# Vectors wider than an instruction set's own are only passed to what is inlined: no ABI is concerned.
if(CMAKE_CXX_COMPILER_ID STREQUAL "GNU")
  set_property(SOURCE ${isas} APPEND PROPERTY COMPILE_OPTIONS -fno-tree-pre -Wno-psabi)
endif()
