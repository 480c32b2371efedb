#include "bench/resident.h"

#include <chrono>
#include <cstddef>
#include <optional>
#include <utility>
#include <vector>

#include "absl/status/status.h"
#include "absl/strings/str_cat.h"
#include "bench/median.h"

namespace goldfinch {
namespace {

using Clock = std::chrono::steady_clock;

absl::StatusOr<TokenId> Answer(ModelEngine& engine, PrefixId prefix, std::int64_t length,
                               TokenId next) {
  SequenceSpec spec = {.max_tokens = length + 1, .first_logits = length};
  spec.sampling.temperature = 0;
  const auto id = engine.OpenFrom(prefix, spec, {});
  if (!id.ok()) return id.status();
  Span span;
  span.sequence = *id;
  span.tokens = std::span(&next, 1);
  span.output = SpanOutput::kSample;
  SpanResult result;
  const absl::Status status = engine.Forward(std::span(&span, 1), std::span(&result, 1));
  engine.Close(*id);
  if (!status.ok()) return status;
  return result.sample.token;
}

// Of all that are loaded.
absl::StatusOr<Residents> AnswerAll(ModelEngine& engine,
                                    std::span<const PrefixImage> images,
                                    std::span<const PrefixId> loaded, TokenId next) {
  std::vector<std::optional<TokenId>> answers(images.size());
  std::vector<double> seconds;
  for (std::size_t i = 0; i < loaded.size(); ++i) {
    const std::size_t image = i % images.size();
    const auto start = Clock::now();
    const auto token = Answer(engine, loaded[i], images[image].length, next);
    seconds.push_back(std::chrono::duration<double>(Clock::now() - start).count());
    if (!token.ok()) return token.status();
    if (answers[image].value_or(*token) != *token)
      return absl::InternalError(absl::StrCat("session ", i, " answers ", *token,
                                              "; another copy answered ",
                                              *answers[image]));
    answers[image] = *token;
  }
  return Residents{.sessions = static_cast<std::int64_t>(loaded.size()),
                   .seconds_to_answer = Median(std::move(seconds))};
}

}  // namespace

absl::StatusOr<Residents> MeasureResidents(ModelEngine& engine,
                                           std::span<const PrefixImage> images,
                                           std::int64_t count, TokenId next) {
  std::vector<PrefixId> loaded;
  std::vector<double> seconds;
  absl::Status failed;
  for (std::int64_t i = 0; i < count && failed.ok(); ++i) {
    const auto start = Clock::now();
    const auto id = engine.Load(images[static_cast<std::size_t>(i) % images.size()]);
    seconds.push_back(std::chrono::duration<double>(Clock::now() - start).count());
    failed = id.status();
    if (id.ok()) loaded.push_back(*id);
  }
  absl::StatusOr<Residents> residents =
      failed.ok() ? AnswerAll(engine, images, loaded, next) : failed;
  if (residents.ok()) residents->seconds_to_load = Median(std::move(seconds));
  for (const PrefixId id : loaded) engine.Drop(id);
  return residents;
}

}  // namespace goldfinch
