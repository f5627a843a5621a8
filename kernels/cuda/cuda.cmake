# The CUDA engine: `_cuda` for GPUs where nvcc is found, `_simt` emulated on the host for the tests.
# Domains of their own: in one process, in the tests, both have the same C++ types.
set(cuda_sources ${here}/cuda/module.cpp ${here}/model.cpp)
option(GAMEGEN_SIMT "the CUDA engine emulated on the host, for tests" OFF)
set(GAMEGEN_CUDA AUTO CACHE STRING "the CUDA engine, with nvcc: ON, OFF, or AUTO, if it works here")
set(GAMEGEN_CUDA_ARCHS 80 86 89 90 100 120 CACHE STRING "GPU architectures")

if(GAMEGEN_SIMT)
  set_source_files_properties(${here}/cuda/engine.cu PROPERTIES LANGUAGE CXX)
  nanobind_add_module(_simt NB_STATIC NB_DOMAIN simt ${cuda_sources} ${here}/cuda/engine.cu)
  target_compile_definitions(_simt PRIVATE GAMEGEN_MODULE=_simt GAMEGEN_SIMT)
  # A .cu file is C++ to the emulation; longjmp between fibers is no mistake here. Whoever builds it runs it.
  target_compile_options(_simt PRIVATE -xc++ -Wall -Wextra -O3 -march=native -ffp-contract=off -U_FORTIFY_SOURCE)
endif()

if(NOT GAMEGEN_CUDA)
  message(STATUS "The CUDA engine is not built: GAMEGEN_CUDA is OFF")
  return()
endif()

# By hand: CMake 3.25 does not know the C++20 flag of new compilers.
find_program(NVCC nvcc HINTS ENV CUDA_HOME PATH_SUFFIXES bin)
set(lacking "")
if(NOT NVCC)
  set(lacking "no nvcc was found")
else()
  set(gencodes "")
  foreach(arch ${GAMEGEN_CUDA_ARCHS})
    list(APPEND gencodes -gencode=arch=compute_${arch},code=[sm_${arch},compute_${arch}])
  endforeach()
  set(nvcc_options -std=c++20 -O3 -fmad=false --expt-relaxed-constexpr -Xcompiler=-fPIC,-ffp-contract=off ${gencodes})
  # A toolkit that is too old, or at odds with the host's compiler, must not keep the CPU engine from being built.
  set(trial ${CMAKE_CURRENT_BINARY_DIR}/trial.cu)
  file(WRITE ${trial} "#include <vector>\n__global__ void trial(int* x) { *x = 1; }\n")
  execute_process(COMMAND ${NVCC} ${nvcc_options} -c ${trial} -o ${trial}.o RESULT_VARIABLE failed ERROR_VARIABLE problem
                  OUTPUT_QUIET)
  # nvcc may be a script that calls the real one elsewhere; it knows where its toolkit lies.
  execute_process(COMMAND ${NVCC} --dryrun -cubin ${trial} ERROR_VARIABLE dryrun OUTPUT_QUIET)
  string(REGEX MATCH "TOP=([^\n]+)" found "${dryrun}")
  find_library(CUDART cudart_static HINTS ${CMAKE_MATCH_1} PATH_SUFFIXES lib64 lib targets/x86_64-linux/lib targets/sbsa-linux/lib)
  if(failed)
    set(lacking "${NVCC} does not compile for ${GAMEGEN_CUDA_ARCHS}: ${problem}")
  elseif(NOT CUDART)
    set(lacking "no cudart_static was found beside ${NVCC}")
  endif()
endif()
if(lacking)
  if(NOT GAMEGEN_CUDA STREQUAL "AUTO")
    message(FATAL_ERROR "GAMEGEN_CUDA: ${lacking}")
  endif()
  message(STATUS "The CUDA engine is not built: ${lacking}")
  return()
endif()

message(STATUS "The CUDA engine is built with ${NVCC} for ${GAMEGEN_CUDA_ARCHS}")
file(GLOB cuda_headers CONFIGURE_DEPENDS ${here}/cuda/*.h ${here}/cuda/*.cuh ${here}/*.h)
add_custom_command(OUTPUT ${CMAKE_CURRENT_BINARY_DIR}/engine_cuda.o VERBATIM
  COMMAND ${NVCC} ${nvcc_options} -c ${here}/cuda/engine.cu -o ${CMAKE_CURRENT_BINARY_DIR}/engine_cuda.o
  DEPENDS ${here}/cuda/engine.cu ${cuda_headers})
nanobind_add_module(_cuda NB_STATIC NB_DOMAIN cuda ${cuda_sources} ${CMAKE_CURRENT_BINARY_DIR}/engine_cuda.o)
target_compile_definitions(_cuda PRIVATE GAMEGEN_MODULE=_cuda)
target_compile_options(_cuda PRIVATE -Wall -Wextra -ffp-contract=off)
target_link_libraries(_cuda PRIVATE ${CUDART} Threads::Threads ${CMAKE_DL_LIBS} rt)
install(TARGETS _cuda LIBRARY DESTINATION gamegen_env/engine)
