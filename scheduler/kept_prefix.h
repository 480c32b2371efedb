// A prefix that outlives the request which made it: a conversation between two calls, or
// an entry of the prefix cache.
//
// A value: the history it stands for never changes, so a fork is one more pointer to it.
// Only where it is changes, and that is the step thread's business (prefix_keeper.h): on
// the device, with its pages, or in host memory, as an image.
//
// A history has at least one token that has not passed through the model yet: the last
// one that was sampled, or the last one of a prompt. So there is always something to run
// for the next token's logits. (Entries made for the prefix cache alone keep no history.)
//
// What came as an image, and what goes on from that, says so: it may have bits of another
// numerics id, or be forged, which only who asked for it has to put up with. So it never
// gets into the prefix cache, not even if this server made the image.
//
// Threads: any; the last owner may let go on any.
#pragma once

#include <atomic>
#include <cstdint>
#include <functional>
#include <iterator>
#include <memory>
#include <utility>
#include <vector>

#include "engine/engine.h"
#include "engine/token.h"

namespace goldfinch {

class KeptPrefix {
  struct Private {};  // made by Make and PrefixKeeper only

 public:
  enum class Place { kDevice, kHost };
  enum class Origin { kComputedHere, kImage };

  // One in host memory: of `history`, whose first image->length tokens the image has run.
  // Without an image none has. The image passes Engine::CheckImage.
  static std::shared_ptr<KeptPrefix> Make(std::vector<TokenId> history,
                                          std::shared_ptr<const PrefixImage> image);

  KeptPrefix(Private, std::vector<TokenId> history, std::int64_t length, Origin origin)
      : history_(std::move(history)), length_(length), origin_(origin) {}
  ~KeptPrefix();
  KeptPrefix(const KeptPrefix&) = delete;
  KeptPrefix& operator=(const KeptPrefix&) = delete;

  const std::vector<TokenId>& history() const { return history_; }
  std::int64_t history_bytes() const {
    return std::ssize(history_) * static_cast<std::int64_t>(sizeof(TokenId));
  }
  // Tokens that have passed through the model.
  std::int64_t length() const { return length_; }
  // kImage: of a part of it, at least.
  Origin origin() const { return origin_; }

  Place place() const { return place_.load(std::memory_order_relaxed); }
  // Host memory it takes: its state or its image, and the history.
  std::int64_t host_bytes() const { return host_bytes_.load(std::memory_order_relaxed); }

 private:
  friend class PrefixKeeper;

  const std::vector<TokenId> history_;
  const std::int64_t length_;
  const Origin origin_;
  std::atomic<Place> place_ = Place::kHost;
  std::atomic<std::int64_t> host_bytes_ = 0;

  // Of the step thread, while somebody owns this.
  PrefixId id_ = PrefixId::kNone;  // on the device
  // In host memory; none with length 0, or lost.
  std::shared_ptr<const PrefixImage> image_;
  std::uint64_t last_use_ = 0;  // on the device: key in the keeper's order
  // Tells the keeper that id_ is nobody's any more.
  std::function<void(PrefixId, std::uint64_t last_use)> release_;
};

}  // namespace goldfinch
