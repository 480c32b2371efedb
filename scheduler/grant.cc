#include "scheduler/grant.h"

#include <utility>

#include "scheduler/keep_points.h"

namespace goldfinch {

namespace {

// A prefix that ends within a page costs one page more than the request was checked for.
bool CanEverGoOn(const RunningContext& context, const AcceptedRequest& accepted,
                 const KeptPrefix& base) {
  const EngineInfo& info = context.engine.info();
  return accepted.needs.pages + info.PagesToCopy(base.length()) <= info.num_pages;
}

}  // namespace

AdmittedFrom FindBase(const RunningContext& context, const AcceptedRequest& accepted,
                      std::int64_t interval, PrefixCache::Lookup& lookup) {
  const Request& request = accepted.request;
  AdmittedFrom from{.base = request.base, .keep_at = {}};
  PromptShape shape{.end = accepted.needs.prompt_tokens,
                    .grid = context.engine.info().prompt_grid};
  const bool cached =
      request.use_prefix_cache && context.cache.enabled() && request.base == nullptr;
  if (cached) {
    PrefixCache::Found found =
        context.cache.Find(request.tenant, request.prompt, shape.end - 1, lookup);
    from.base = std::move(found.prefix);
    if (from.base != nullptr && !CanEverGoOn(context, accepted, *from.base)) {
      from.base = nullptr;
    }
    shape.begin = from.base == nullptr ? 0 : from.base->length();
    shape.shared = found.shared;
    from.keep_at = KeepPoints(shape, interval);
  }
  // The end, where candidates branch off or nothing follows, is one too. So it is where
  // other continuations will be scored after the same context.
  const std::int64_t end = shape.end - 1;
  const bool scores = request.kind == RequestKind::kScore && shape.grid == 1 &&
                      end >= PrefixCache::kMinTokens;
  const bool ends_there = request.kind == RequestKind::kPrefill ||
                          (cached && (request.num_candidates > 1 || scores));
  const std::int64_t fed = from.base == nullptr ? 0 : from.base->length();
  if (ends_there && end > fed && (from.keep_at.empty() || from.keep_at.back() < end)) {
    from.keep_at.push_back(end);
  }
  return from;
}

Grant MakeRoom(const RunningContext& context, const AcceptedRequest& accepted,
               const AdmittedFrom& from) {
  const EngineInfo& info = context.engine.info();
  const EngineUsage usage = context.engine.usage();
  const RequestNeeds& needs = accepted.needs;
  if (needs.slots > info.num_slots - usage.slots_used) return Grant::kNoRoom;
  const bool paged = info.num_pages > 0;
  const std::int64_t whole = info.PagesFor(needs.sequence_tokens);
  const std::int64_t branches =
      paged ? (needs.slots - 1) * (whole - (needs.prompt_tokens - 1) / info.page_tokens)
            : 0;
  const std::int64_t opened =
      from.base == nullptr
          ? whole
          : context.keeper.PagesToOpen(*from.base, needs.sequence_tokens);
  if (opened + branches > info.num_pages - usage.pages_open) return Grant::kNoRoom;
  const std::int64_t shared =
      paged && from.base != nullptr ? from.base->length() / info.page_tokens : 0;
  const bool made = context.keeper.MakeRoom(from.base, whole - shared + branches) ==
                    PrefixKeeper::Room::kMade;
  return made ? Grant::kGranted : Grant::kCopying;
}

}  // namespace goldfinch
