// Every golden model loads, and the tensors read are the ones in the file.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <filesystem>
#include <string>
#include <vector>

#include "engine/model/checkpoint.h"
#include "engine/model/tensor_layout.h"
#include "tests/engine/model/safetensors_writer.h"

namespace goldfinch {
namespace {

std::vector<std::string> GoldenCases() {
  std::vector<std::string> cases;
  const std::filesystem::path golden(GOLDFINCH_SOURCE_DIR "/tests/golden");
  for (const auto& entry : std::filesystem::directory_iterator(golden)) {
    if (entry.is_directory()) cases.push_back(entry.path().filename().string());
  }
  return cases;
}

std::filesystem::path Dir(const std::string& name) {
  return std::filesystem::path(GOLDFINCH_SOURCE_DIR "/tests/golden") / name;
}

class GoldenModelTest : public testing::TestWithParam<std::string> {};

TEST_P(GoldenModelTest, Loads) {
  const auto checkpoint = Checkpoint::Load(Dir(GetParam()).string());
  ASSERT_TRUE(checkpoint.ok()) << checkpoint.status();
  EXPECT_TRUE(checkpoint->stored_bf16());
  EXPECT_EQ(checkpoint->config().vocab_size, 128);
  for (const ExpectedTensor& expected : ExpectedTensors(checkpoint->config())) {
    if (expected.required) checkpoint->Get(expected.name);
  }
}

TEST_P(GoldenModelTest, ExpectedTensorsAreReadable) {
  const auto file =
      SafetensorsFile::Open((Dir(GetParam()) / "expected.safetensors").string());
  ASSERT_TRUE(file.ok()) << file.status();
  const StoredTensor* tokens = (*file)->Find("tokens");
  ASSERT_NE(tokens, nullptr);
  EXPECT_EQ(tokens->type, StoredType::kI32);
  std::vector<std::int32_t> ids(96);
  CopyToI32(*tokens, ids);
  EXPECT_THAT(ids, testing::Each(testing::AllOf(testing::Ge(0), testing::Lt(128))));
  EXPECT_THAT((*file)->Find("logits")->shape, testing::ElementsAre(96, 128));
  EXPECT_EQ(FirstNonFinite(*(*file)->Find("logits")), -1);
}

std::string TestName(const testing::TestParamInfo<std::string>& param) {
  std::string name;
  for (const char c : param.param) name += c == '-' ? '_' : c;
  return name;
}

INSTANTIATE_TEST_SUITE_P(Golden, GoldenModelTest, testing::ValuesIn(GoldenCases()),
                         TestName);

TEST(GoldenModelsTest, SixCasesAreThere) { EXPECT_EQ(GoldenCases().size(), 6u); }

// The published 1.5B model, by the shapes its config asks for.
TEST(GoldenModelsTest, TheLayoutOfThePublishedModelHasItsParameterCount) {
  ModelConfig config;
  config.n_layer = 24;
  config.n_embd = config.dim_att = 2048;
  config.dim_ffn = 7168;
  config.vocab_size = 65536;
  std::int64_t parameters = 0;
  for (const ExpectedTensor& tensor : ExpectedTensors(config)) {
    std::int64_t elements = 1;
    for (const std::int64_t dimension : tensor.shape) elements *= dimension;
    parameters += elements;
  }
  EXPECT_EQ(parameters, 1'445'257'216);
}

}  // namespace
}  // namespace goldfinch
