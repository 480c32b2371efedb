// Sampling and scoring of a CUDA backend: requests become tasks of one launch, what it
// finds becomes tokens and log-probabilities.
//
// A launch takes as many requests as Prepare was told of rows, fewer where their biases,
// bans and counts are more than it has room for; further ones go in further launches.
// What penalties look at stays on the device (count_tables.h). Memory is taken in
// Prepare, and later only where a request's own biases and bans outnumber the vocabulary
// several times.
//
// Sampling has two halves, between which the host may do something else: results are
// copied to page-locked memory behind the launches, and waited for when they are wanted.
//
// Threads: as for a Backend.
#pragma once

#include <cstdint>
#include <memory>
#include <optional>
#include <span>
#include <vector>

#include "engine/backend/backend.h"
#include "engine/backend/count_tables.h"
#include "engine/backend/cuda_memory.h"
#include "engine/kernels/cuda/sample.h"

namespace goldfinch::GOLDFINCH_CUDA {

class CudaSampler {
 public:
  // Both outlive it.
  CudaSampler(Stream& stream, HostCopies& copies);

  // For rows of `vocab_size` logits, so many at once.
  void Prepare(std::int64_t vocab_size, std::int64_t logit_rows);
  // Taken by Prepare.
  std::int64_t device_bytes() const;
  // The results of a device that has failed are token 0 throughout.
  void Sample(const Matrix& logits, std::span<const Backend::SampleRequest> requests);
  // As in Backend.
  void Start(const Matrix& logits, std::span<const Backend::SampleRequest> requests,
             int set);
  void Finish(int set);
  TokenStore tokens(int set) const { return {sets_[set].tokens.data(), false}; }
  void Score(const Matrix& logits, std::span<const Backend::ScoreRequest> requests);

 private:
  static constexpr std::int64_t kMinTasks = 64;  // of a launch

  // Fills tasks_ and changes_ with as many of the first requests as there is room for,
  // at least one, and returns how many.
  std::size_t Collect(const Matrix& logits,
                      std::span<const Backend::SampleRequest> requests);
  // The task of one more request, with what it appends to changes_; false, with nothing
  // changed, if there is no room for it in this launch.
  bool Append(const Backend::SampleRequest& request, std::int64_t vocab_size);
  void AppendChange(TokenId token, float value);
  // How many they are without those that come twice.
  std::int32_t AppendBans(const std::vector<TokenId>& tokens);
  void AppendCounts(const TokenCounts& counts, CountTables::Lacks lacks);
  void ReserveChanges(std::size_t count);

  // Device memory for an array.
  template <typename T>
  struct Array {
    void Allocate(Stream& stream, std::size_t count) {
      bytes = static_cast<std::int64_t>(count * sizeof(T));
      memory.emplace(stream, bytes);
    }
    T* data() const { return static_cast<T*>(memory->data()); }
    std::int64_t bytes = 0;
    std::optional<CudaMemory> memory;
  };
  template <typename T>
  void Upload(const std::vector<T>& values, const Array<T>& to);

  // What of a request is needed for its result.
  struct Wanted {
    std::int32_t num_logprobs;
    SampledToken* out;
  };
  // Between Start and Finish.
  struct Set {
    Array<SampleResult> results;
    Array<std::int32_t> tokens;
    std::optional<PinnedMemory> on_host;  // the results
    Event done;                           // the copy there
    std::vector<Wanted> wanted;
    std::int64_t vocab_size = 0;
  };

  Stream& stream_;
  HostCopies& copies_;

  std::int64_t vocab_size_ = 0;  // that there is memory for
  std::size_t max_tasks_ = 0;    // of a launch
  std::vector<SampleTask> tasks_;
  std::vector<LogitChange> changes_;
  std::vector<ScoreTask> score_tasks_;
  std::vector<ScoreResult> score_results_;
  Array<SampleTask> device_tasks_;
  Array<LogitChange> device_changes_;
  std::size_t max_changes_ = 0;  // of a launch
  Set sets_[Backend::kSampleSets];
  Array<ScoreTask> device_score_tasks_;
  Array<ScoreResult> device_score_results_;
  Array<float> changed_rows_;
  std::optional<CountTables> count_tables_;
  Array<float> tables_;  // [number of tables, vocabulary]
};

}  // namespace goldfinch::GOLDFINCH_CUDA
