#include "scheduler/kept_prefix.h"

#include "engine/check.h"

namespace goldfinch {

std::shared_ptr<KeptPrefix> KeptPrefix::Make(std::vector<TokenId> history,
                                             std::shared_ptr<const PrefixImage> image) {
  const std::int64_t length = image == nullptr ? 0 : image->length;
  GOLDFINCH_CHECK(length <= std::ssize(history));
  const Origin origin = image == nullptr ? Origin::kComputedHere : Origin::kImage;
  auto kept = std::make_shared<KeptPrefix>(Private(), std::move(history), length, origin);
  kept->host_bytes_ = kept->history_bytes() + (image == nullptr ? 0 : image->bytes());
  kept->image_ = std::move(image);
  return kept;
}

KeptPrefix::~KeptPrefix() {
  if (id_ != PrefixId::kNone) release_(id_, last_use_);
}

}  // namespace goldfinch
