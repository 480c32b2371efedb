// Drives a ModelEngine the way the scheduler does, one sequence at a time or many, and
// hands back logits.
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <span>
#include <string>
#include <vector>

#include "engine/model_engine.h"
#include "tests/engine/model/safetensors_writer.h"

namespace goldfinch {

// Configurations that together have every branch of the model, small enough to run
// hundreds of passes: every kind of layer, G = 0 to 4, odd compressed keys, rope.
struct FamilyMember {
  std::string name;
  ModelConfig config;
};
std::vector<FamilyMember> Family();
const ModelConfig& FamilyConfig(const std::string& name);

// A model directory of random weights for a config, gone with its owner.
class ModelFolder {
 public:
  explicit ModelFolder(const ModelConfig& config, std::uint64_t seed = 7);
  std::string path() const { return folder_.path().string(); }

 private:
  TempFolder folder_;
};

// Small limits; `change` adjusts them. The backend may be "cuda_emulated" too. The engine
// is there or the test ends.
std::unique_ptr<ModelEngine> MakeEngine(
    const std::string& model_dir, ComputeType type,
    const std::function<void(ModelEngineOptions&)>& change = {});

std::vector<TokenId> RandomTokens(std::int64_t count, std::int32_t vocab_size,
                                  std::uint64_t seed);

// Opens a sequence, or ends the test.
SequenceId OpenSequence(Engine& engine, std::int64_t max_tokens,
                        std::int64_t first_logits = 0,
                        const SamplingParams& sampling = {});

// A span that wants the logits of its rows from `first_row` on, written to `logits`.
Span LogitsSpan(SequenceId id, std::span<const TokenId> tokens, std::int64_t first_row,
                std::vector<float>& logits, std::int32_t vocab_size);

// Feeds tokens in chunks of the given lengths, the last one repeated, and returns the
// logits of those from `first_logits` on. Opens and closes the sequence itself.
std::vector<float> FeedInChunks(Engine& engine, std::span<const TokenId> tokens,
                                std::span<const std::int64_t> chunks,
                                std::int64_t first_logits = 0);

// Forward of one batch, or the test ends.
std::vector<SpanResult> Forward(Engine& engine, std::span<const Span> batch);

// Bitwise equality: NaN equals itself, 0 differs from -0.
bool SameBits(std::span<const float> a, std::span<const float> b);

}  // namespace goldfinch
