# Whether the CUDA backend is built (GOLDFINCH_HAS_CUDA), and how its sources are
# compiled (goldfinch_cuda_options). The runtime is linked statically: a binary needs no
# file of CUDA's to start, and a driver only when the backend is asked for.

# All sources in CUDA's language, and those that are C++ but see its headers. The tests
# compile them for their emulated device too, with nvcc or without.
set(GOLDFINCH_CUDA_KERNELS attend elementwise finish_sums gemm norm probe quantize
  sample store_tiles wkv wkv_blocks)
list(TRANSFORM GOLDFINCH_CUDA_KERNELS PREPEND "${PROJECT_SOURCE_DIR}/engine/kernels/cuda/")
list(TRANSFORM GOLDFINCH_CUDA_KERNELS APPEND ".cu")
set(GOLDFINCH_CUDA_HOST
  "${PROJECT_SOURCE_DIR}/engine/backend/cublas_lt.cc"
  "${PROJECT_SOURCE_DIR}/engine/backend/cuda_backend.cc"
  "${PROJECT_SOURCE_DIR}/engine/backend/cuda_graphs.cc"
  "${PROJECT_SOURCE_DIR}/engine/backend/cuda_memory.cc"
  "${PROJECT_SOURCE_DIR}/engine/backend/cuda_sampler.cc"
  "${PROJECT_SOURCE_DIR}/engine/backend/lt_products.cc")

set(GOLDFINCH_HAS_CUDA OFF)
if(GOLDFINCH_SANITIZE AND GOLDFINCH_CUDA)  # nvcc knows no sanitizers
  if(GOLDFINCH_CUDA STREQUAL "AUTO")
    return()  # the emulated device stands in
  endif()
  message(FATAL_ERROR "GOLDFINCH_CUDA is ${GOLDFINCH_CUDA} and GOLDFINCH_SANITIZE is "
    "${GOLDFINCH_SANITIZE}; one of them has to go")
endif()
# With AUTO a toolkit that is no good is as good as none; asked for, it is an error.
set(missing "")
if(GOLDFINCH_CUDA)
  include(CheckLanguage)
  # On PATH or not, the toolkit's own place is looked at.
  if(NOT CMAKE_CUDA_COMPILER AND NOT DEFINED ENV{CUDACXX}
      AND EXISTS /usr/local/cuda/bin/nvcc)
    if(GOLDFINCH_CUDA STREQUAL "AUTO")
      set(ENV{CUDACXX} /usr/local/cuda/bin/nvcc)  # check_language tries it
    else()  # enable_language says what is wrong with it
      set(CMAKE_CUDA_COMPILER /usr/local/cuda/bin/nvcc CACHE FILEPATH "CUDA compiler")
    endif()
  endif()
  check_language(CUDA)
  if(CMAKE_CUDA_COMPILER)
    execute_process(COMMAND "${CMAKE_CUDA_COMPILER}" --version
      OUTPUT_VARIABLE version ERROR_QUIET)
    string(REGEX MATCH "V([0-9]+[.0-9]*)" version "${version}")
    set(version "${CMAKE_MATCH_1}")
    if(version VERSION_LESS 12.3)  # graphs with launches that overlap
      set(missing "CUDA 12.3 or later; ${CMAKE_CUDA_COMPILER} is of ${version}")
    endif()
  else()
    set(missing "nvcc that works")
  endif()
  # Not of one that is too old: it may not know the architectures, which is an error.
  if(NOT missing)
    # Binaries for Ampere and Hopper, and PTX for what comes after.
    if(NOT CMAKE_CUDA_ARCHITECTURES)
      set(CMAKE_CUDA_ARCHITECTURES "80-real;90" CACHE STRING "CUDA architectures")
    endif()
    enable_language(CUDA)
    find_package(CUDAToolkit 12.3 QUIET)
    # The library itself is looked for when a backend is made (engine/backend/cublas_lt.h).
    find_file(GOLDFINCH_CUBLASLT_HEADER cublasLt.h HINTS ${CUDAToolkit_INCLUDE_DIRS})
    if(NOT CUDAToolkit_FOUND)
      set(missing "whole CUDA toolkit around ${CMAKE_CUDA_COMPILER}")
    elseif(NOT GOLDFINCH_CUBLASLT_HEADER)
      set(missing "cublasLt.h in the CUDA toolkit of ${CMAKE_CUDA_COMPILER}")
    endif()
  endif()
  if(NOT missing)
    set(GOLDFINCH_HAS_CUDA ON)
  elseif(NOT GOLDFINCH_CUDA STREQUAL "AUTO")
    message(FATAL_ERROR "GOLDFINCH_CUDA is ${GOLDFINCH_CUDA}, but there is no ${missing}")
  endif()
endif()
if(missing)
  message(STATUS "CUDA backend: OFF; there is no ${missing}")
else()
  message(STATUS "CUDA backend: ${GOLDFINCH_HAS_CUDA}")
endif()

if(GOLDFINCH_HAS_CUDA)
  if(NOT CMAKE_CUDA20_STANDARD_COMPILE_OPTION)  # CMake 3.25 does not know of it
    set(CMAKE_CUDA20_STANDARD_COMPILE_OPTION -std=c++20)
    set(CMAKE_CUDA20_EXTENSION_COMPILE_OPTION -std=c++20)
    set(CMAKE_CUDA_STANDARD_LATEST 20)
  endif()
  set(CMAKE_CUDA_STANDARD 20)
  if(CCACHE)
    set(CMAKE_CUDA_COMPILER_LAUNCHER "${CCACHE}")
  endif()
  # Without contraction of products and sums by the compiler's choice: kernels that share
  # an expression share its bits.
  add_library(goldfinch_cuda_options INTERFACE)
  target_include_directories(goldfinch_cuda_options INTERFACE "${PROJECT_SOURCE_DIR}")
  target_compile_options(goldfinch_cuda_options INTERFACE
    -fmad=false --expt-relaxed-constexpr -Werror=all-warnings
    -Xcompiler=-Wall,-Wextra,-Werror)
  # Three machines' code of every product is 18 MB a binary, or 1 MB. Tables of lines, for a
  # profiler or compute-sanitizer, would double that: -DCMAKE_CUDA_FLAGS=-lineinfo.
  if(CMAKE_CUDA_COMPILER_VERSION VERSION_GREATER_EQUAL 12.8)
    target_compile_options(goldfinch_cuda_options INTERFACE --compress-mode=size)
  endif()
endif()
