#include "engine/backend/cublas_lt.h"

#if !defined(GOLDFINCH_CUDA_EMULATION)
#include <dlfcn.h>

#include <string>
#endif

namespace goldfinch::GOLDFINCH_CUDA {

#if defined(GOLDFINCH_CUDA_EMULATION)

namespace {

#define GOLDFINCH_EMULATED(name) .name = cublasLt##name,
constexpr CublasLt kEmulated = {GOLDFINCH_CUBLASLT_FUNCTIONS(GOLDFINCH_EMULATED)};
#undef GOLDFINCH_EMULATED

}  // namespace

const CublasLt* LoadCublasLt() { return emulation::HasCublasLt() ? &kEmulated : nullptr; }

#else

namespace {

template <typename F>
bool Find(void* library, const char* name, F*& function) {
  function = reinterpret_cast<F*>(dlsym(library, name));
  return function != nullptr;
}

const CublasLt* Open() {
  const std::string name = "libcublasLt.so." + std::to_string(CUBLAS_VER_MAJOR);
  // Never closed: what libraries of CUDA leave behind in threads and in the driver does
  // not outlive their code.
  void* const library = dlopen(name.c_str(), RTLD_NOW | RTLD_LOCAL);
  if (library == nullptr) return nullptr;
  static CublasLt functions;
  bool all = true;
#define GOLDFINCH_FIND(name) all = Find(library, "cublasLt" #name, functions.name) && all;
  GOLDFINCH_CUBLASLT_FUNCTIONS(GOLDFINCH_FIND)
#undef GOLDFINCH_FIND
  return all ? &functions : nullptr;
}

}  // namespace

const CublasLt* LoadCublasLt() {
  static const CublasLt* const kLibrary = Open();
  return kLibrary;
}

#endif

}  // namespace goldfinch::GOLDFINCH_CUDA
