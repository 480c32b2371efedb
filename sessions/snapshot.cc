#include "sessions/snapshot.h"

#include <algorithm>
#include <utility>

#include "absl/strings/str_cat.h"
#include "sessions/bytes.h"
#include "sessions/checksum.h"
#include "sessions/snapshot_turn.h"

namespace goldfinch {
namespace {

constexpr std::string_view kMagic("GFSNAP\r\n", 8);
constexpr std::size_t kHeadBytes = 24;  // magic, version, authentication, checksum
constexpr std::uint32_t kNotAuthenticated = 0;
constexpr std::uint32_t kHmacSha256 = 1;

enum Tag : std::uint32_t {
  kIdentity = 1,
  kTokens = 2,
  kKeys = 3,
  kState = 4,
  kTurn = 5,
  kEnd = 6,
};

absl::Status Damaged(const char* what) {
  return absl::DataLossError(absl::StrCat("the snapshot is damaged: ", what));
}

std::string_view AsText(std::span<const std::byte> bytes) {
  return {reinterpret_cast<const char*>(bytes.data()), bytes.size()};
}

std::span<const std::byte> AsBytes(std::string_view text) {
  return {reinterpret_cast<const std::byte*>(text.data()), text.size()};
}

void WriteIdentity(const Snapshot& snapshot, ByteWriter& out) {
  out.String(snapshot.model_fingerprint);
  out.String(snapshot.numerics_id);
  out.String(snapshot.tenant);
  out.String(snapshot.session_id);
  out.Int(snapshot.generation);
}

// The part of a section's payload that is written, and the large one behind it that is
// only pointed to.
struct Payload {
  std::string written;
  std::string_view large;
};

Payload PayloadOf(Tag tag, const Snapshot& snapshot) {
  Payload payload;
  ByteWriter out;
  const PrefixImage* image = snapshot.image.get();
  switch (tag) {
    case kIdentity:
      WriteIdentity(snapshot, out);
      break;
    case kTokens:
      out.Int(image == nullptr ? std::int64_t{0} : image->length);
      out.Ints(snapshot.tokens);
      break;
    case kKeys:
      out.Int(snapshot.key_bytes_per_token);
      if (image != nullptr) payload.large = AsText(image->keys);
      break;
    case kState:
      if (image != nullptr) payload.large = AsText(image->state);
      break;
    case kTurn:
      WriteTurn(*snapshot.turn, out);
      break;
    case kEnd:
      break;
  }
  payload.written = out.Take();
  return payload;
}

std::vector<Tag> TagsOf(const Snapshot& snapshot) {
  if (!snapshot.turn.has_value()) return {kIdentity, kTokens, kKeys, kState, kEnd};
  return {kIdentity, kTokens, kKeys, kState, kTurn, kEnd};
}

void ReadIdentity(ByteReader& in, Snapshot& snapshot) {
  snapshot.model_fingerprint = in.String();
  snapshot.numerics_id = in.String();
  snapshot.tenant = in.String();
  snapshot.session_id = in.String();
  snapshot.generation = in.Int<std::uint64_t>();
  if (!IsSessionId(snapshot.session_id)) in.Fail();
}

absl::Status ReadTokens(ByteReader& in, const SnapshotLimits& limits, Snapshot& snapshot,
                        PrefixImage& image) {
  image.length = in.Int<std::int64_t>();
  const std::uint64_t count = in.Count(sizeof(TokenId));
  if (count > limits.max_tokens) {
    return absl::FailedPreconditionError(absl::StrCat(
        "the snapshot has ", count, " tokens; the limit is ", limits.max_tokens));
  }
  snapshot.tokens = in.Ints<TokenId>(count);
  if (image.length < 0 || static_cast<std::uint64_t>(image.length) > count ||
      std::any_of(snapshot.tokens.begin(), snapshot.tokens.end(),
                  [](TokenId id) { return id < 0; })) {
    in.Fail();
  }
  return absl::OkStatus();
}

// One section's payload into its fields.
absl::Status ReadPayload(std::uint32_t tag, std::string_view payload,
                         const SnapshotLimits& limits, Snapshot& snapshot,
                         PrefixImage& image) {
  ByteReader in(payload);
  switch (tag) {
    case kIdentity:
      ReadIdentity(in, snapshot);
      break;
    case kTokens:
      if (auto status = ReadTokens(in, limits, snapshot, image); !status.ok())
        return status;
      break;
    case kKeys:
      snapshot.key_bytes_per_token = in.Int<std::int64_t>();
      image.keys = AsBytes(in.Raw(in.left()));
      break;
    case kState:
      image.state = AsBytes(in.Raw(in.left()));
      break;
    case kTurn:
      snapshot.turn = ReadTurn(snapshot.tokens, in);
      break;
    default:
      break;  // kEnd: nothing in it
  }
  if (!in.ok() || in.left() != 0) return Damaged("a section's fields do not fit it");
  return absl::OkStatus();
}

// Division, so that no product of hostile numbers overflows.
bool KeysFitTokens(std::int64_t key_bytes_per_token, const PrefixImage& image) {
  if (key_bytes_per_token < 0) return false;
  const auto per_token = static_cast<std::uint64_t>(key_bytes_per_token);
  const auto num_tokens = static_cast<std::uint64_t>(image.length);
  if (num_tokens == 0 || per_token == 0) return image.keys.empty();
  return image.keys.size() % per_token == 0 &&
         image.keys.size() / per_token == num_tokens;
}

absl::StatusOr<Snapshot> ReadSections(std::string_view body, std::uint64_t checksum,
                                      const SnapshotLimits& limits,
                                      std::shared_ptr<const std::string> owner) {
  Snapshot snapshot;
  PrefixImage image;
  ByteReader in(body);
  std::uint32_t last = 0;
  while (last != kEnd) {
    const std::string_view start = body.substr(body.size() - in.left());
    const auto tag = in.Int<std::uint32_t>();
    const std::string_view payload = in.Raw(in.Int<std::uint64_t>());
    const std::string_view section = start.substr(0, start.size() - in.left());
    const auto stored = in.Int<std::uint64_t>();
    if (!in.ok()) return Damaged("a section reaches past the end");
    checksum = Checksum(section, {}, checksum);
    if (stored != checksum) return Damaged("a section's checksum is wrong");
    if (tag < kIdentity || tag > kEnd) {
      return absl::FailedPreconditionError(
          absl::StrCat("the snapshot has a section of the unknown kind ", tag));
    }
    // Ascending by one; only the turn may be left out.
    if (tag != last + 1 && !(tag == kEnd && last == kState)) {
      return Damaged("a section is missing, twice there or out of order");
    }
    auto status = ReadPayload(tag, payload, limits, snapshot, image);
    if (!status.ok()) return status;
    last = tag;
  }
  if (in.left() != 0) return Damaged("bytes follow the end");
  if (!KeysFitTokens(snapshot.key_bytes_per_token, image)) {
    return Damaged("its keys do not fit its tokens");
  }
  if (image.length == 0) {
    if (!image.state.empty()) return Damaged("it has a state of no tokens");
    return snapshot;
  }
  if (snapshot.key_bytes_per_token > 0) {
    image.tokens.assign(snapshot.tokens.begin(), snapshot.tokens.begin() + image.length);
  }
  image.owner = std::move(owner);
  snapshot.image = std::make_shared<PrefixImage>(std::move(image));
  return snapshot;
}

}  // namespace

std::size_t SnapshotBytes::size() const {
  std::size_t size = 0;
  for (const std::string_view piece : pieces_) size += piece.size();
  return size;
}

std::string SnapshotBytes::Join() const {
  std::string bytes;
  bytes.reserve(size());
  for (const std::string_view piece : pieces_) bytes.append(piece);
  return bytes;
}

SnapshotBytes EncodeSnapshot(const Snapshot& snapshot, const SnapshotKey* key) {
  SnapshotBytes bytes;
  bytes.image_ = snapshot.image;
  const auto add = [&bytes](std::string frame) {
    bytes.pieces_.push_back(bytes.frames_.emplace_back(std::move(frame)));
  };
  ByteWriter head;
  head.Raw(kMagic);
  head.Int(kSnapshotVersion);
  head.Int(key == nullptr ? kNotAuthenticated : kHmacSha256);
  // Each checksum is seeded with the one before it, so the last one vouches for the whole
  // blob and every byte is read once.
  std::uint64_t checksum = Checksum(head.bytes(), {}, 0);
  head.Int(checksum);
  add(head.Take());
  for (const Tag tag : TagsOf(snapshot)) {
    const Payload payload = PayloadOf(tag, snapshot);
    ByteWriter frame;
    frame.Int(std::uint32_t{tag});
    frame.Int(std::uint64_t{payload.written.size() + payload.large.size()});
    frame.Raw(payload.written);
    checksum = Checksum(frame.bytes(), payload.large, checksum);
    add(frame.Take());
    if (!payload.large.empty()) bytes.pieces_.push_back(payload.large);
    ByteWriter sum;
    sum.Int(checksum);
    add(sum.Take());
  }
  if (key != nullptr) {
    const Mac mac = ComputeMac(*key, bytes.pieces_);
    add({reinterpret_cast<const char*>(mac.data()), mac.size()});
  }
  return bytes;
}

absl::StatusOr<Snapshot> DecodeSnapshot(std::shared_ptr<const std::string> owner,
                                        const SnapshotKey* key,
                                        const SnapshotLimits& limits) {
  const std::string_view bytes = *owner;
  if (bytes.size() > limits.max_bytes) {
    return absl::FailedPreconditionError(absl::StrCat(
        "the snapshot has ", bytes.size(), " bytes; the limit is ", limits.max_bytes));
  }
  ByteReader head(bytes);
  if (head.Raw(kMagic.size()) != kMagic) return Damaged("it does not begin as one");
  const auto version = head.Int<std::uint32_t>();
  const auto authentication = head.Int<std::uint32_t>();
  const auto checksum = head.Int<std::uint64_t>();
  if (!head.ok() || authentication > kHmacSha256 ||
      checksum != Checksum(bytes.substr(0, kHeadBytes - sizeof checksum), {}, 0)) {
    return Damaged("its head is wrong");
  }
  const std::size_t mac_bytes = authentication == kHmacSha256 ? kMacBytes : 0;
  if (bytes.size() < kHeadBytes + mac_bytes) return Damaged("too short");

  const std::string_view sealed = bytes.substr(0, bytes.size() - mac_bytes);
  if (key != nullptr) {
    if (mac_bytes == 0) return absl::DataLossError("the snapshot is not authenticated");
    if (!SameMac(ComputeMac(*key, {&sealed, 1}), bytes.substr(sealed.size()))) {
      return absl::DataLossError("the snapshot fails authentication");
    }
  } else if (mac_bytes != 0) {
    return absl::FailedPreconditionError(
        "the snapshot is authenticated and no snapshot key is configured");
  }
  if (version != kSnapshotVersion) {
    return absl::FailedPreconditionError(absl::StrCat(
        "the snapshot has format version ", version, "; this is ", kSnapshotVersion));
  }
  return ReadSections(sealed.substr(kHeadBytes), checksum, limits, std::move(owner));
}

absl::Status CheckModel(const Snapshot& snapshot, std::string_view fingerprint) {
  if (snapshot.model_fingerprint == fingerprint) return absl::OkStatus();
  return absl::FailedPreconditionError(
      absl::StrCat("the snapshot is of model ", snapshot.model_fingerprint,
                   "; this server runs ", std::string(fingerprint)));
}

}  // namespace goldfinch
