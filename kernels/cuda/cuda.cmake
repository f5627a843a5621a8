# The CUDA engine: `_cuda` for GPUs where nvcc is found, `_simt` emulated on the host for the tests.
# Domains of their own: in one process, in the tests, both have the same C++ types.
set(cuda_sources ${here}/cuda/module.cpp ${here}/cuda/module_checks.cpp ${here}/cuda/module_canvas.cpp ${here}/model.cpp
                 ${here}/cells.cpp)
set(kernel_sources engine snapshot checks canvas)  # .cu files
option(GAMEGEN_SIMT "the CUDA engine emulated on the host, for tests" OFF)
set(GAMEGEN_CUDA AUTO CACHE STRING "the CUDA engine, with nvcc: ON, OFF, or AUTO, if it works here")
set(GAMEGEN_CUDA_ARCHS 80 86 89 90 100 120 CACHE STRING "GPU architectures")

if(GAMEGEN_SIMT)
  list(TRANSFORM kernel_sources REPLACE "(.+)" "${here}/cuda/\\1.cu" OUTPUT_VARIABLE emulated)
  set_source_files_properties(${emulated} PROPERTIES LANGUAGE CXX)
  nanobind_add_module(_simt NB_STATIC NB_DOMAIN simt ${cuda_sources} ${emulated})
  target_compile_definitions(_simt PRIVATE GAMEGEN_MODULE=_simt GAMEGEN_SIMT)
  # A .cu file is C++ to the emulation; longjmp between fibers is no mistake here. Whoever builds it runs it.
  target_compile_options(_simt PRIVATE -xc++ -Wall -Wextra -O3 -march=native -ffp-contract=off -U_FORTIFY_SOURCE)
  if(GAMEGEN_SANITIZE)
    target_compile_options(_simt PRIVATE ${sanitized})
    target_link_options(_simt PRIVATE -fsanitize=address,undefined)
  endif()
endif()

# Say what became of it here, and keep it for the user: pip shows nothing of a build that went well.
function(report_cuda what)
  message(STATUS "The CUDA engine is ${what}")
  file(WRITE ${CMAKE_CURRENT_BINARY_DIR}/cuda_build.txt "${what}\n")
  install(FILES ${CMAKE_CURRENT_BINARY_DIR}/cuda_build.txt DESTINATION gamegen_env/engine)
endfunction()

if(NOT GAMEGEN_CUDA)
  report_cuda("not built: GAMEGEN_CUDA is OFF")
  return()
endif()

# By hand: CMake 3.25 does not know the C++20 flag of new compilers.
find_program(NVCC nvcc HINTS ENV CUDA_HOME PATH_SUFFIXES bin)
set(lacking "")
if(NOT NVCC)
  set(lacking "no nvcc was found (CUDA toolkit 12.8 or later; its bin folder on PATH, or CUDA_HOME)")
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
  report_cuda("not built: ${lacking}")
  return()
endif()

list(JOIN GAMEGEN_CUDA_ARCHS " " archs)
report_cuda("built with ${NVCC} for ${archs}")
file(GLOB cuda_headers CONFIGURE_DEPENDS ${here}/cuda/*.h ${here}/cuda/*.cuh ${here}/*.h)
set(cuda_objects "")
foreach(name ${kernel_sources})
  set(object ${CMAKE_CURRENT_BINARY_DIR}/${name}_cuda.o)
  add_custom_command(OUTPUT ${object} VERBATIM
    COMMAND ${NVCC} ${nvcc_options} -c ${here}/cuda/${name}.cu -o ${object}
    DEPENDS ${here}/cuda/${name}.cu ${cuda_headers})
  list(APPEND cuda_objects ${object})
endforeach()
nanobind_add_module(_cuda NB_STATIC NB_DOMAIN cuda ${cuda_sources} ${cuda_objects})
target_compile_definitions(_cuda PRIVATE GAMEGEN_MODULE=_cuda)
target_compile_options(_cuda PRIVATE -Wall -Wextra -ffp-contract=off)
target_link_libraries(_cuda PRIVATE ${CUDART} Threads::Threads ${CMAKE_DL_LIBS} rt)
install(TARGETS _cuda LIBRARY DESTINATION gamegen_env/engine)
