// A model directory is loaded when its config and its tensors agree, and refused with
// the tensor's name otherwise; its fingerprint changes with what changes an output.
#include "engine/model/checkpoint.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <string>
#include <utility>
#include <vector>

#include "engine/model/tensor_layout.h"
#include "tests/engine/model/random_model.h"
#include "tests/engine/model/safetensors_writer.h"

namespace goldfinch {
namespace {

using Tensors = std::vector<TensorToWrite>;

constexpr std::uint64_t kSeed = 7;

class CheckpointTest : public testing::Test {
 protected:
  absl::StatusOr<Checkpoint> Load() {
    WriteModel(folder_.path(), config_, tensors_);
    return Checkpoint::Load(folder_.path().string());
  }

  std::string Message() {
    const auto checkpoint = Load();
    return checkpoint.ok() ? "it was loaded" : std::string(checkpoint.status().message());
  }

  std::string Fingerprint() {
    const auto checkpoint = Load();
    EXPECT_TRUE(checkpoint.ok()) << checkpoint.status();
    return checkpoint.ok() ? checkpoint->fingerprint() : "";
  }

  void UseConfig(const ModelConfig& config) {
    config_ = config;
    tensors_ = RandomTensors(config, kSeed);
  }

  TensorToWrite& Tensor(std::string_view name) { return TensorNamed(tensors_, name); }

  void Remove(std::string_view name) {
    std::erase_if(tensors_, [name](const TensorToWrite& t) { return t.name == name; });
  }

  // Another shape for a tensor, zeros inside.
  void Reshape(std::string_view name, std::vector<std::int64_t> shape) {
    TensorToWrite& tensor = Tensor(name);
    std::size_t bytes = StoredTypeBytes(tensor.type);
    for (const std::int64_t dimension : shape)
      bytes *= static_cast<std::size_t>(dimension);
    tensor.shape = std::move(shape);
    tensor.bytes.assign(bytes, '\0');
  }

  TempFolder folder_;
  ModelConfig config_ = SmallestConfig();
  Tensors tensors_ = RandomTensors(config_, kSeed);
};

TEST_F(CheckpointTest, AWholeModelIsLoaded) {
  const auto checkpoint = Load();
  ASSERT_TRUE(checkpoint.ok()) << checkpoint.status();
  EXPECT_EQ(checkpoint->config().n_embd, 64);
  EXPECT_TRUE(checkpoint->stored_bf16());
  EXPECT_EQ(&checkpoint->Layer(1, "att.query.weight"),
            &checkpoint->Get("blocks.1.att.query.weight"));
  EXPECT_EQ(checkpoint->Find("blocks.0.att.query.weight"), nullptr);
  EXPECT_EQ(LowRankWidth(checkpoint->Layer(0, "att.time_maa_w2")), 32);
  EXPECT_EQ(LowRankWidth(checkpoint->Layer(0, "att.time_decay_w2")), 64);
  std::int64_t elements = 0;
  for (const TensorToWrite& tensor : tensors_) elements += ViewOf(tensor).num_elements();
  EXPECT_EQ(checkpoint->num_parameters(), elements);
}

TEST_F(CheckpointTest, EveryMissingTensorIsNamed) {
  const Tensors whole = tensors_;
  for (const ExpectedTensor& expected : ExpectedTensors(config_)) {
    tensors_ = whole;
    Remove(expected.name);
    if (!expected.required) {
      EXPECT_EQ(Message(), "it was loaded") << expected.name;
    } else {
      EXPECT_THAT(Message(), testing::StartsWith("model.safetensors: tensor " +
                                                 expected.name + " is missing; "));
    }
  }
}

TEST_F(CheckpointTest, EveryWrongShapeIsNamed) {
  const Tensors whole = tensors_;
  for (std::size_t i = 0; i < whole.size(); ++i) {
    tensors_ = whole;
    std::vector<std::int64_t> shape = whole[i].shape;
    shape.insert(shape.begin(), 2);
    Reshape(whole[i].name, shape);
    EXPECT_THAT(Message(), testing::StartsWith("model.safetensors: tensor " +
                                               whole[i].name + " has shape [2, "));
  }
}

TEST_F(CheckpointTest, MessagesSayWhatWasAskedFor) {
  Remove("w_kv_cache_b.weight");
  EXPECT_EQ(Message(),
            "model.safetensors: tensor w_kv_cache_b.weight is missing; config.json asks "
            "for it in shape [64, 68]");
  UseConfig(SmallestConfig());
  Reshape("head.weight", {64, 16});
  EXPECT_EQ(Message(),
            "model.safetensors: tensor head.weight has shape [64, 16]; config.json asks "
            "for [16, 64]");
  UseConfig(SmallestConfig());
  Reshape("blocks.0.att.time_maa_w1", {64, 161});
  EXPECT_EQ(Message(),
            "model.safetensors: tensor blocks.0.att.time_maa_w1 has shape [64, 161]; "
            "config.json asks for [64, 5*width]");
}

TEST_F(CheckpointTest, ATransposedMatrixIsRefused) {
  Reshape("blocks.1.att.time_key_w1", {65, 64});
  EXPECT_EQ(Message(),
            "model.safetensors: tensor blocks.1.att.time_key_w1 has shape [65, 64]; "
            "config.json asks for [64, width]");
}

TEST_F(CheckpointTest, AnExtraTensorIsRefused) {
  tensors_.push_back({.name = "blocks.2.ln1.weight",
                      .type = StoredType::kBf16,
                      .shape = {1},
                      .bytes = std::string(2, '\0')});
  EXPECT_EQ(
      Message(),
      "model.safetensors: tensor blocks.2.ln1.weight belongs to no part of the model "
      "in config.json");
}

TEST_F(CheckpointTest, TheCacheMatricesBelongToGoldAlone) {
  config_.gold = false;
  const Tensors recurrent = RandomTensors(config_, kSeed);
  tensors_ = recurrent;
  ASSERT_EQ(Message(), "it was loaded");
  tensors_.push_back({.name = "w_kv_cache_a.weight",
                      .type = StoredType::kBf16,
                      .shape = {1},
                      .bytes = std::string(2, '\0')});
  EXPECT_THAT(Message(), testing::HasSubstr("w_kv_cache_a.weight belongs to no part"));
}

TEST_F(CheckpointTest, TheBonusMayBeLeftOutOnlyWhereItIsNotUsed) {
  Remove("blocks.0.att.time_faaaa");
  EXPECT_EQ(Message(), "it was loaded");
  config_.use_v2 = false;
  EXPECT_THAT(Message(), testing::HasSubstr("blocks.0.att.time_faaaa is missing"));
  config_ = SmallestConfig();
  config_.tmix = TimeMix::kFinch;
  UseConfig(config_);
  Remove("blocks.0.att.time_faaaa");
  EXPECT_THAT(Message(), testing::HasSubstr("blocks.0.att.time_faaaa is missing"));
}

TEST_F(CheckpointTest, TheSecondValueMayBeLeftOutOnlyWhereItIsNotUsed) {
  ModelConfig without = SmallestConfig();
  without.use_v2 = false;
  UseConfig(without);
  EXPECT_EQ(Message(), "it was loaded");
  for (const char* name : {"blocks.0.att.time_value2_w1", "blocks.0.att.time_value2_w2",
                           "blocks.0.att.time_maa_v2"}) {
    Remove(name);
    EXPECT_EQ(Message(), "it was loaded") << "without " << name;
  }
  config_.use_v2 = true;
  EXPECT_THAT(Message(), testing::HasSubstr("blocks.0.att.time_maa_v2 is missing"));
}

TEST_F(CheckpointTest, VectorsMayBeStoredFlat) {
  for (TensorToWrite& tensor : tensors_) {
    if (tensor.shape.size() == 3 && tensor.shape[0] == 1) {
      tensor.shape = {tensor.shape[2]};
    }
  }
  EXPECT_EQ(Message(), "it was loaded");
}

TEST_F(CheckpointTest, InnerWidthsAreReadFromTheShapes) {
  Reshape("blocks.0.att.time_maa_w1", {64, 5 * 7});
  Reshape("blocks.0.att.time_maa_w2", {5, 7, 64});
  Reshape("blocks.0.att.time_decay_w1", {64, 1});
  Reshape("blocks.0.att.time_decay_w2", {1, 64});
  Reshape("blocks.1.att.time_maa_kv_w1", {64, 2 * 48});
  Reshape("blocks.1.att.time_maa_kv_w2", {2, 48, 64});
  const auto checkpoint = Load();
  ASSERT_TRUE(checkpoint.ok()) << checkpoint.status();
  EXPECT_EQ(LowRankWidth(checkpoint->Layer(0, "att.time_maa_w2")), 7);
  EXPECT_EQ(LowRankWidth(checkpoint->Layer(0, "att.time_decay_w2")), 1);
  EXPECT_EQ(LowRankWidth(checkpoint->Layer(1, "att.time_maa_kv_w2")), 48);
}

TEST_F(CheckpointTest, BothOfAPairHaveTheSameInnerWidth) {
  Reshape("blocks.0.att.time_decay_w2", {32, 64});
  EXPECT_EQ(
      Message(),
      "model.safetensors: tensor blocks.0.att.time_decay_w2 has inner width 32; its "
      "w1 has 64");
  UseConfig(SmallestConfig());
  Reshape("blocks.1.att.time_maa_kv_w1", {64, 2 * 16});
  EXPECT_THAT(Message(),
              testing::EndsWith("time_maa_kv_w2 has inner width 32; its w1 has 16"));
  UseConfig(SmallestConfig());
  Reshape("blocks.0.att.time_value2_w1", {64, 0});
  EXPECT_THAT(Message(), testing::EndsWith("has shape [64, 0]; config.json asks for [64, "
                                           "width]"));
}

TEST_F(CheckpointTest, AllTypesOfFloatingPointAreLoadedAndIntegersAreNot) {
  Tensors halves = RandomTensors(config_, kSeed, StoredType::kF16);
  Tensor("emb.weight") = TensorNamed(halves, "emb.weight");
  auto checkpoint = Load();
  ASSERT_TRUE(checkpoint.ok()) << checkpoint.status();
  EXPECT_FALSE(checkpoint->stored_bf16());
  tensors_ = RandomTensors(config_, kSeed, StoredType::kF32);
  checkpoint = Load();
  ASSERT_TRUE(checkpoint.ok()) << checkpoint.status();
  EXPECT_FALSE(checkpoint->stored_bf16());
  Tensor("emb.weight").type = StoredType::kI32;
  EXPECT_EQ(
      Message(),
      "model.safetensors: tensor emb.weight is of type I32; weights are BF16, F16 or "
      "F32");
}

TEST_F(CheckpointTest, ANanOrAnInfinityInAnyTensorIsNamed) {
  const Tensors whole = tensors_;
  for (const TensorToWrite& tensor : whole) {
    tensors_ = whole;
    std::string& bytes = Tensor(tensor.name).bytes;
    bytes[bytes.size() - 1] = '\x7f';
    bytes[bytes.size() - 2] = '\x80';
    EXPECT_EQ(Message(), "model.safetensors: tensor " + tensor.name +
                             " holds a NaN or an infinity, first at element " +
                             std::to_string(bytes.size() / 2 - 1));
  }
}

TEST_F(CheckpointTest, ANanBehindTheFirstBlockHasTheRightIndex) {
  config_.vocab_size = 5000;
  UseConfig(config_);
  std::string& bytes = Tensor("head.weight").bytes;  // 320,000 elements
  bytes.replace(2 * 300'001, 2, "\xc0\xff");
  EXPECT_THAT(Message(), testing::EndsWith("first at element 300001"));
}

TEST_F(CheckpointTest, MissingPartsOfTheDirectoryAreNamed) {
  EXPECT_EQ(std::string(Checkpoint::Load("/nonexistent").status().message()),
            "the model directory /nonexistent is not a directory");
  const std::string dir = folder_.path().string();
  EXPECT_EQ(std::string(Checkpoint::Load(dir).status().message()),
            "config.json: cannot be read: No such file or directory");
  WriteFile(folder_.path() / "config.json", ConfigJson(config_));
  EXPECT_EQ(std::string(Checkpoint::Load(dir).status().message()),
            "model.safetensors: cannot be opened: No such file or directory");
}

TEST_F(CheckpointTest, TheFingerprintIgnoresOrderMetadataAlignmentAndCtxLen) {
  const std::string fingerprint = Fingerprint();
  EXPECT_THAT(fingerprint, testing::MatchesRegex("[0-9a-f]{16}"));
  std::reverse(tensors_.begin(), tensors_.end());
  config_.ctx_len = 8192;
  EXPECT_EQ(Fingerprint(), fingerprint);
  WriteFile(folder_.path() / "model.safetensors",
            SafetensorsBytes(tensors_, {.metadata_json = "{\"a\":\"b\"}", .padding = 3}));
  const auto shifted = Checkpoint::Load(folder_.path().string());
  ASSERT_TRUE(shifted.ok()) << shifted.status();
  EXPECT_EQ(shifted->fingerprint(), fingerprint);
}

TEST_F(CheckpointTest, TheFingerprintChangesWithEveryTensorAndWithTheConfig) {
  std::vector<std::string> seen = {Fingerprint()};
  for (TensorToWrite& tensor : tensors_) {
    tensor.bytes[0] = static_cast<char>(tensor.bytes[0] ^ 1);
    seen.push_back(Fingerprint());
  }
  config_.use_one_minus_w = false;
  seen.push_back(Fingerprint());
  config_.rope = Rope{};
  seen.push_back(Fingerprint());
  config_.rope->base = 500;
  seen.push_back(Fingerprint());
  Tensor("blocks.0.att.time_decay").shape = {64};
  seen.push_back(Fingerprint());
  std::swap(Tensor("blocks.0.ln1.weight").name, Tensor("blocks.0.ln2.weight").name);
  seen.push_back(Fingerprint());
  for (TensorToWrite& tensor : tensors_) tensor.type = StoredType::kF16;
  for (TensorToWrite& tensor : tensors_) tensor.bytes.assign(tensor.bytes.size(), '\0');
  seen.push_back(Fingerprint());
  for (TensorToWrite& tensor : tensors_) tensor.type = StoredType::kBf16;
  seen.push_back(Fingerprint());
  std::sort(seen.begin(), seen.end());
  EXPECT_EQ(std::adjacent_find(seen.begin(), seen.end()), seen.end());
}

}  // namespace
}  // namespace goldfinch
