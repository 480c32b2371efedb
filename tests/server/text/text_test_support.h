// What the text tests share: folders that vanish, small vocabularies, random bytes, and
// the way to the files that are not part of the repository.
#pragma once

#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <iterator>
#include <memory>
#include <optional>
#include <random>
#include <stdexcept>
#include <string>
#include <string_view>
#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "server/text/vocabulary.h"

namespace goldfinch {

// A folder of its own for one test, removed with everything in it.
class TempDir {
 public:
  TempDir() {
    std::string name = (std::filesystem::temp_directory_path() / "text_XXXXXX").string();
    if (mkdtemp(name.data()) == nullptr) throw std::runtime_error("mkdtemp failed");
    path_ = name;
  }
  ~TempDir() {
    std::error_code ignored;
    std::filesystem::remove_all(path_, ignored);
  }
  TempDir(const TempDir&) = delete;
  TempDir& operator=(const TempDir&) = delete;

  std::string Write(const std::string& name, std::string_view content) const {
    const std::filesystem::path path = path_ / name;
    std::ofstream(path, std::ios::binary) << content;
    return path.string();
  }
  std::filesystem::path path() const { return path_; }

 private:
  std::filesystem::path path_;
};

inline std::string VocabularyLine(int id, std::string_view bytes) {
  std::string literal;
  for (const char c : bytes) {
    literal += absl::StrFormat("\\x%02x", static_cast<unsigned char>(c));
  }
  return absl::StrCat(id, " b'", literal, "' ", bytes.size(), "\n");
}

// Lines 1 to 256: ids 1 to 256, the single bytes.
inline std::string SingleByteLines() {
  std::string lines;
  for (int byte = 0; byte < 256; ++byte) {
    lines += VocabularyLine(byte + 1, std::string(1, static_cast<char>(byte)));
  }
  return lines;
}

// The single bytes, then `tokens` as ids from 257 on.
inline std::unique_ptr<Vocabulary> SmallVocabulary(
    const std::vector<std::string>& tokens = {}) {
  const TempDir dir;
  std::string lines = SingleByteLines();
  int id = 257;
  for (const std::string& token : tokens) lines += VocabularyLine(id++, token);
  auto vocabulary = Vocabulary::Load(dir.Write("vocab.txt", lines), id + 3);
  if (!vocabulary.ok()) throw std::runtime_error(vocabulary.status().ToString());
  return *std::move(vocabulary);
}

using Random = std::mt19937;

inline size_t RandomBelow(Random& random, size_t limit) { return random() % limit; }

inline std::string RandomString(Random& random, size_t size, std::string_view alphabet) {
  std::string text(size, '\0');
  for (char& c : text) c = alphabet[RandomBelow(random, alphabet.size())];
  return text;
}

inline std::string RandomBytes(Random& random, size_t size) {
  std::string bytes(size, '\0');
  for (char& c : bytes) c = static_cast<char>(random() & 0xFF);
  return bytes;
}

// `text` in pieces of 0 to `limit` - 1 bytes.
inline std::vector<std::string> RandomPieces(Random& random, std::string_view text,
                                             size_t limit) {
  std::vector<std::string> pieces;
  while (!text.empty()) {
    pieces.emplace_back(text.substr(0, RandomBelow(random, limit)));
    text.remove_prefix(pieces.back().size());
  }
  return pieces;
}

inline std::string ReadFile(const std::filesystem::path& path) {
  std::ifstream file(path, std::ios::binary);
  if (!file) throw std::runtime_error("cannot read " + path.string());
  return {std::istreambuf_iterator<char>(file), {}};
}

// The folder of the World vocabulary and the books; none when it is not given.
inline std::optional<std::filesystem::path> TestData() {
  const char* folder = std::getenv("GOLDFINCH_TEST_DATA");
  if (folder == nullptr || *folder == '\0') return std::nullopt;
  return std::filesystem::path(folder) / "data";
}

}  // namespace goldfinch
