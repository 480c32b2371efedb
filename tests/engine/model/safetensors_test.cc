// The mapped file: what is in it, and files that are refused before their header is.
#include "engine/model/safetensors.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <sys/stat.h>

#include <cstring>
#include <string>
#include <vector>

#include "tests/engine/model/safetensors_writer.h"

namespace goldfinch {
namespace {

using testing::ElementsAre;

class SafetensorsTest : public testing::Test {
 protected:
  absl::StatusOr<std::unique_ptr<SafetensorsFile>> OpenBytes(const std::string& content) {
    const auto path = folder_.path() / "model.safetensors";
    WriteFile(path, content);
    return SafetensorsFile::Open(path.string());
  }

  std::string MessageOfOpening(const std::string& content) {
    const auto file = OpenBytes(content);
    return file.ok() ? "it was opened" : std::string(file.status().message());
  }

  static std::vector<float> Floats(const StoredTensor* tensor) {
    std::vector<float> values(static_cast<std::size_t>(tensor->num_elements()));
    CopyToF32(*tensor, values);
    return values;
  }

  static std::vector<TensorToWrite> SomeTensors() {
    const float floats[] = {1, -2, 0.5f, 4};
    const std::int32_t ints[] = {7, -8};
    return {
        {.name = "z",
         .type = StoredType::kBf16,
         .shape = {2, 2},
         .bytes = EncodeFloats(StoredType::kBf16, floats)},
        {.name = "y",
         .type = StoredType::kF16,
         .shape = {1, 1, 4},
         .bytes = EncodeFloats(StoredType::kF16, floats)},
        {.name = "x",
         .type = StoredType::kF32,
         .shape = {4},
         .bytes = EncodeFloats(StoredType::kF32, floats)},
        {.name = "ints",
         .type = StoredType::kI32,
         .shape = {2},
         .bytes = EncodeInts(ints)},
        {.name = "scalar",
         .type = StoredType::kF32,
         .shape = {},
         .bytes = EncodeFloats(StoredType::kF32, std::span(floats, 1))},
        {.name = "empty", .type = StoredType::kF32, .shape = {0, 3}},
    };
  }

  TempFolder folder_;
};

TEST_F(SafetensorsTest, TensorsAreFoundByNameAtEveryAlignment) {
  for (std::size_t padding = 0; padding < 8; ++padding) {
    const auto file = OpenBytes(SafetensorsBytes(
        SomeTensors(), {.metadata_json = "{\"format\":\"pt\"}", .padding = padding}));
    ASSERT_TRUE(file.ok()) << file.status();
    EXPECT_EQ((*file)->name(), "model.safetensors");
    EXPECT_EQ((*file)->tensors().size(), 6u);
    EXPECT_EQ((*file)->Find("nothing"), nullptr);
    for (const char* name : {"x", "y", "z"}) {
      EXPECT_THAT(Floats((*file)->Find(name)), ElementsAre(1, -2, 0.5f, 4)) << name;
    }
    EXPECT_THAT((*file)->Find("z")->shape, ElementsAre(2, 2));
    EXPECT_THAT(Floats((*file)->Find("scalar")), ElementsAre(1));
    EXPECT_EQ((*file)->Find("empty")->num_elements(), 0);
    std::vector<std::int32_t> ints(2);
    CopyToI32(*(*file)->Find("ints"), ints);
    EXPECT_THAT(ints, ElementsAre(7, -8));
  }
}

TEST_F(SafetensorsTest, AMissingFileIsNotFound) {
  const auto file = SafetensorsFile::Open((folder_.path() / "none.safetensors").string());
  EXPECT_EQ(file.status().code(), absl::StatusCode::kNotFound);
  EXPECT_EQ(std::string(file.status().message()),
            "none.safetensors: cannot be opened: No such file or directory");
}

TEST_F(SafetensorsTest, WhatIsNoRegularFileIsRefusedWithoutWaitingForIt) {
  const auto folder = SafetensorsFile::Open(folder_.path().string());
  EXPECT_THAT(std::string(folder.status().message()),
              testing::EndsWith(": cannot be read: it is not a regular file"));
  const std::string pipe = (folder_.path() / "pipe").string();
  ASSERT_EQ(mkfifo(pipe.c_str(), 0600), 0);
  EXPECT_EQ(std::string(SafetensorsFile::Open(pipe).status().message()),
            "pipe: cannot be read: it is not a regular file");
}

TEST_F(SafetensorsTest, AFileWithoutRoomForALengthIsRefused) {
  EXPECT_EQ(MessageOfOpening(""),
            "model.safetensors: the file has 0 bytes; the length of its header alone "
            "takes 8");
  EXPECT_EQ(MessageOfOpening("1234567"),
            "model.safetensors: the file has 7 bytes; the length of its header alone "
            "takes 8");
}

TEST_F(SafetensorsTest, AHeaderLongerThanTheFileIsRefused) {
  std::string content = RawSafetensors("{}", "");
  content[0] = 3;
  EXPECT_EQ(MessageOfOpening(content),
            "model.safetensors: the header has 3 bytes; the file has only 2 for it");
}

TEST_F(SafetensorsTest, AHeaderOverTheLimitIsRefused) {
  std::string content(8, '\0');
  const std::uint64_t length = 100'000'001;
  std::memcpy(content.data(), &length, sizeof(length));
  EXPECT_EQ(MessageOfOpening(content),
            "model.safetensors: the header has 100000001 bytes; the limit is 100000000");
  EXPECT_EQ(MessageOfOpening(std::string(8, '\xff')),
            "model.safetensors: the header has 18446744073709551615 bytes; the limit is "
            "100000000");
}

TEST_F(SafetensorsTest, ErrorsOfTheHeaderCarryTheNameOfTheFile) {
  EXPECT_EQ(MessageOfOpening(RawSafetensors("[]", "")),
            "model.safetensors: the header is not a JSON object");
}

// Reads all of what a broken file gives, if it was accepted.
void TouchEverything(const absl::StatusOr<std::unique_ptr<SafetensorsFile>>& file) {
  if (!file.ok()) return;
  std::size_t touched = 0;
  for (const auto& [name, tensor] : (*file)->tensors()) {
    for (std::size_t i = 0; i < tensor.size; ++i) {
      touched += static_cast<std::size_t>(tensor.data[i]) + 1;
    }
  }
  EXPECT_GT(touched, 0u);
}

TEST_F(SafetensorsTest, NoSingleBitFlipCrashes) {
  const std::string whole = SafetensorsBytes(SomeTensors());
  for (std::size_t bit = 0; bit < whole.size() * 8; ++bit) {
    std::string flipped = whole;
    flipped[bit / 8] = static_cast<char>(flipped[bit / 8] ^ (1 << bit % 8));
    TouchEverything(OpenBytes(flipped));
  }
}

TEST_F(SafetensorsTest, EveryTruncationAndExtensionIsRefused) {
  const std::string whole = SafetensorsBytes(SomeTensors());
  ASSERT_TRUE(OpenBytes(whole).ok());
  for (std::size_t size = 0; size < whole.size(); ++size) {
    EXPECT_FALSE(OpenBytes(whole.substr(0, size)).ok()) << "cut to " << size << " bytes";
  }
  EXPECT_FALSE(OpenBytes(whole + '\0').ok());
}

}  // namespace
}  // namespace goldfinch
