// What a waiting request goes on from, and whether its memory can be had now.
//
// A request takes slots and pages for its whole life. Pages that only kept prefixes hold
// count as free; they are moved out before the grant.
//
// Threads: the step thread.
#pragma once

#include <cstdint>

#include "scheduler/inbox.h"
#include "scheduler/prefix_cache.h"
#include "scheduler/running.h"

namespace goldfinch {

// The request's conversation, or what the prefix cache has of its prompt, and where
// prefixes are to be kept on the way (`interval`: keep_points.h). `lookup` is the
// request's own, and left alone when the cache is not asked.
AdmittedFrom FindBase(const RunningContext& context, const AcceptedRequest& accepted,
                      std::int64_t interval, PrefixCache::Lookup& lookup);

Grant MakeRoom(const RunningContext& context, const AcceptedRequest& accepted,
               const AdmittedFrom& from);

}  // namespace goldfinch
