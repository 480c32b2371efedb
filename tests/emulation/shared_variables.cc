#include "tests/emulation/shared_variables.h"

#include <elf.h>
#include <link.h>

#include <algorithm>
#include <cstring>
#include <fstream>
#include <iterator>
#include <string>
#include <string_view>

namespace emulation {
namespace {

struct Variable {
  unsigned char* begin;
  std::size_t bytes;
};

// Static variables inside functions of the kernels' namespace.
constexpr std::string_view kPrefix = "_ZZN9goldfinch13cuda_emulated";
constexpr unsigned char kPoison = 0xff;

// How far from its file's addresses the program was loaded.
std::size_t LoadedAt() {
  std::size_t at = 0;
  dl_iterate_phdr(
      [](dl_phdr_info* info, std::size_t, void* out) {
        *static_cast<std::size_t*>(out) = info->dlpi_addr;
        return 1;  // the first one is the program
      },
      &at);
  return at;
}

template <typename T>
const T* At(const std::string& file, std::size_t offset, std::size_t count = 1) {
  return offset + count * sizeof(T) <= file.size()
             ? reinterpret_cast<const T*>(file.data() + offset)
             : nullptr;
}

std::vector<Variable> FindVariables() {
  std::ifstream in("/proc/self/exe", std::ios::binary);
  const std::string file(std::istreambuf_iterator<char>(in), {});
  std::vector<Variable> variables;
  const auto* header = At<Elf64_Ehdr>(file, 0);
  if (header == nullptr) return variables;
  const auto* sections = At<Elf64_Shdr>(file, header->e_shoff, header->e_shnum);
  if (sections == nullptr) return variables;
  for (const Elf64_Shdr& table : std::vector(sections, sections + header->e_shnum)) {
    if (table.sh_type != SHT_SYMTAB) continue;
    const std::size_t count = table.sh_size / sizeof(Elf64_Sym);
    const auto* symbols = At<Elf64_Sym>(file, table.sh_offset, count);
    const Elf64_Shdr& names = sections[table.sh_link];
    for (std::size_t i = 0; symbols != nullptr && i < count; ++i) {
      const Elf64_Sym& symbol = symbols[i];
      if (ELF64_ST_TYPE(symbol.st_info) != STT_OBJECT || symbol.st_size == 0 ||
          symbol.st_shndx >= header->e_shnum ||
          (sections[symbol.st_shndx].sh_flags & SHF_WRITE) == 0 ||
          !std::string_view(file.data() + names.sh_offset + symbol.st_name)
               .starts_with(kPrefix))
        continue;
      variables.push_back({reinterpret_cast<unsigned char*>(LoadedAt() + symbol.st_value),
                           symbol.st_size});
    }
  }
  return variables;
}

const std::vector<Variable>& Variables() {
  static const std::vector<Variable> variables = FindVariables();
  return variables;
}

}  // namespace

void PoisonSharedVariables() {
  for (const Variable& variable : Variables())
    std::memset(variable.begin, kPoison, variable.bytes);
}

bool InSharedVariables(const void* p, std::size_t bytes) {
  const auto* const at = static_cast<const unsigned char*>(p);
  return std::ranges::any_of(Variables(), [&](const Variable& variable) {
    return at >= variable.begin && at + bytes <= variable.begin + variable.bytes;
  });
}

std::vector<unsigned char> SaveSharedVariables() {
  std::vector<unsigned char> saved;
  for (const Variable& variable : Variables())
    saved.insert(saved.end(), variable.begin, variable.begin + variable.bytes);
  if (std::ranges::all_of(saved, [](unsigned char c) { return c == kPoison; }))
    saved.clear();
  return saved;
}

void RestoreSharedVariables(const std::vector<unsigned char>& saved) {
  PoisonSharedVariables();
  const unsigned char* from = saved.data();
  for (const Variable& variable : Variables()) {
    if (saved.empty()) return;
    std::memcpy(variable.begin, from, variable.bytes);
    from += variable.bytes;
  }
}

}  // namespace emulation
