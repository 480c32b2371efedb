#include "scheduler/needs.h"

#include <algorithm>
#include <iterator>

#include "absl/status/status.h"
#include "absl/strings/str_cat.h"

namespace goldfinch {
namespace {

absl::Status CheckShape(const Request& request) {
  if (PromptTokens(request) < 1) return absl::InvalidArgumentError("the prompt is empty");
  if (request.kind == RequestKind::kPrefill) return absl::OkStatus();
  if (request.kind == RequestKind::kScore) {
    if (request.continuation.empty()) {
      return absl::InvalidArgumentError("the continuation is empty");
    }
    return absl::OkStatus();
  }
  if (request.max_tokens < 1) {
    return absl::InvalidArgumentError(
        absl::StrCat("max_tokens is ", request.max_tokens, "; it must be at least 1"));
  }
  if (request.num_candidates < 1) {
    return absl::InvalidArgumentError(absl::StrCat(
        "number of candidates is ", request.num_candidates, "; it must be at least 1"));
  }
  return absl::OkStatus();
}

// Compares by subtraction: max_tokens may be anything a client can write.
absl::Status CheckContext(const Request& request, std::int64_t limit) {
  const std::int64_t prompt = PromptTokens(request);
  if (prompt > limit) {
    return absl::InvalidArgumentError(
        absl::StrCat("prompt has ", prompt, " tokens; the limit is ", limit));
  }
  if (request.kind == RequestKind::kPrefill) return absl::OkStatus();
  const bool scores = request.kind == RequestKind::kScore;
  const std::int64_t more =
      scores ? std::ssize(request.continuation) : request.max_tokens;
  if (more > limit - prompt) {
    return absl::InvalidArgumentError(
        absl::StrCat("prompt has ", prompt, " tokens and ",
                     scores ? "the continuation " : "max_tokens is ", more,
                     "; the limit for both is ", limit));
  }
  return absl::OkStatus();
}

}  // namespace

std::int64_t PromptTokens(const Request& request) {
  const std::int64_t before =
      request.base == nullptr ? 0 : std::ssize(request.base->history());
  return before + std::ssize(request.prompt) - request.num_generated;
}

std::int64_t TokensToFeed(const Request& request) {
  std::int64_t prompt = std::ssize(request.prompt);
  if (request.base != nullptr) {
    prompt += std::ssize(request.base->history()) - request.base->length();
  }
  if (request.kind != RequestKind::kScore) return prompt;
  return prompt + std::ssize(request.continuation) - 1;
}

absl::StatusOr<RequestNeeds> NeedsOf(const Request& request, const EngineInfo& engine,
                                     std::int64_t max_context_tokens) {
  if (absl::Status status = CheckShape(request); !status.ok()) return status;
  if (absl::Status status = CheckContext(request, max_context_tokens); !status.ok()) {
    return status;
  }
  RequestNeeds needs;
  const std::int64_t prompt = PromptTokens(request);
  needs.prompt_tokens = prompt;
  needs.slots = 1;
  switch (request.kind) {
    case RequestKind::kScore:
      needs.sequence_tokens = prompt + std::ssize(request.continuation) - 1;
      break;
    case RequestKind::kPrefill:
      needs.sequence_tokens = prompt;
      break;
    case RequestKind::kGenerate:
      needs.slots = request.num_candidates;
      needs.sequence_tokens = prompt + request.max_tokens - 1;
      break;
  }
  const std::int64_t pages = engine.PagesFor(needs.sequence_tokens);
  const std::int64_t shared = pages == 0 ? 0 : (prompt - 1) / engine.page_tokens;
  needs.pages = pages + (needs.slots - 1) * (pages - shared);
  if (request.base != nullptr) needs.pages += engine.PagesToCopy(request.base->length());
  if (needs.slots > engine.num_slots) {
    return absl::InvalidArgumentError(absl::StrCat(
        "request has ", needs.slots, " candidates; the limit is ", engine.num_slots));
  }
  // What is kept of it goes on as a base, should it be interrupted within a page.
  const bool resumed_alone = request.on_end && request.kind == RequestKind::kGenerate;
  const std::int64_t most =
      std::max(needs.pages, pages + (resumed_alone && pages > 0 ? 1 : 0));
  if (most > engine.num_pages) {
    return absl::InvalidArgumentError(
        absl::StrCat("request needs ", most, " cache pages of ", engine.page_tokens,
                     " tokens; the limit is ", engine.num_pages));
  }
  return needs;
}

}  // namespace goldfinch
