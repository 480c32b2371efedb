#include "sessions/snapshot.h"

#define XXH_INLINE_ALL
#include <xxhash.h>

#include <algorithm>
#include <utility>

#include "absl/strings/str_cat.h"
#include "sessions/bytes.h"

namespace goldfinch {
namespace {

constexpr std::string_view kMagic("GFSNAP\r\n", 8);
constexpr std::size_t kHeadBytes = 16;  // magic, version, authentication
constexpr std::size_t kChecksumBytes = 8;
constexpr std::uint32_t kNotAuthenticated = 0;
constexpr std::uint32_t kHmacSha256 = 1;

enum Tag : std::uint32_t {
  kIdentity = 1,
  kTokens = 2,
  kKeys = 3,
  kState = 4,
  kInterrupted = 5,
  kEnd = 6,
};

std::uint64_t Checksum(std::string_view bytes) {
  return XXH3_64bits(bytes.data(), bytes.size());
}

absl::Status Damaged(const char* what) {
  return absl::DataLossError(absl::StrCat("the snapshot is damaged: ", what));
}

std::string_view AsText(const std::vector<std::byte>& bytes) {
  return {reinterpret_cast<const char*>(bytes.data()), bytes.size()};
}

std::vector<std::byte> AsBytes(std::string_view text) {
  const auto* data = reinterpret_cast<const std::byte*>(text.data());
  return {data, data + text.size()};
}

void WriteSection(ByteWriter& out, Tag tag, std::string_view payload) {
  ByteWriter section;
  section.Int(std::uint32_t{tag});
  section.String(payload);
  out.Raw(section.bytes());
  out.Int(Checksum(section.bytes()));
}

void WriteSampling(ByteWriter& out, const SamplingParams& sampling) {
  out.Float(sampling.temperature);
  out.Float(sampling.top_p);
  out.Int(sampling.top_k);
  out.Float(sampling.min_p);
  out.Float(sampling.repetition_penalty);
  out.Float(sampling.frequency_penalty);
  out.Float(sampling.presence_penalty);
  out.Int(sampling.seed);
  out.Int(sampling.candidate);
  out.Int(sampling.min_tokens);
  out.Ints(sampling.banned_before_min_tokens);
  out.Int(std::uint64_t{sampling.logit_bias.size()});
  for (const auto& [token, bias] : sampling.logit_bias) {
    out.Int(token);
    out.Float(bias);
  }
  out.Int(sampling.num_logprobs);
}

SamplingParams ReadSampling(ByteReader& in) {
  SamplingParams sampling;
  sampling.temperature = in.Float();
  sampling.top_p = in.Float();
  sampling.top_k = in.Int<std::int32_t>();
  sampling.min_p = in.Float();
  sampling.repetition_penalty = in.Float();
  sampling.frequency_penalty = in.Float();
  sampling.presence_penalty = in.Float();
  sampling.seed = in.Int<std::uint64_t>();
  sampling.candidate = in.Int<std::uint32_t>();
  sampling.min_tokens = in.Int<std::int64_t>();
  sampling.banned_before_min_tokens = in.Ints<TokenId>();
  sampling.logit_bias.resize(in.Count(sizeof(TokenId) + sizeof(float)));
  for (auto& [token, bias] : sampling.logit_bias) {
    token = in.Int<TokenId>();
    bias = in.Float();
  }
  sampling.num_logprobs = in.Int<std::int32_t>();
  return sampling;
}

std::string InterruptedPayload(const Interrupted& interrupted) {
  ByteWriter out;
  out.Ints(interrupted.remaining_prompt);
  out.Int(interrupted.max_tokens);
  WriteSampling(out, interrupted.sampling);
  out.Int(std::uint64_t{interrupted.stop.size()});
  for (const std::string& stop : interrupted.stop) out.String(stop);
  out.Ints(interrupted.stop_token_ids);
  out.Bool(interrupted.include_stop);
  out.Bool(interrupted.ignore_eos);
  out.Int(interrupted.num_generated);
  out.Ints(interrupted.undelivered);
  out.String(interrupted.partial_utf8);
  out.String(interrupted.partial_stop);
  out.Int(interrupted.priority);
  return out.Take();
}

bool HasNegative(const std::vector<TokenId>& tokens) {
  return std::any_of(tokens.begin(), tokens.end(), [](TokenId id) { return id < 0; });
}

Interrupted ReadInterrupted(ByteReader& in) {
  Interrupted interrupted;
  interrupted.remaining_prompt = in.Ints<TokenId>();
  interrupted.max_tokens = in.Int<std::int64_t>();
  interrupted.sampling = ReadSampling(in);
  interrupted.stop.resize(in.Count(sizeof(std::uint64_t)));
  for (std::string& stop : interrupted.stop) stop = in.String();
  interrupted.stop_token_ids = in.Ints<TokenId>();
  interrupted.include_stop = in.Bool();
  interrupted.ignore_eos = in.Bool();
  interrupted.num_generated = in.Int<std::int64_t>();
  interrupted.undelivered = in.Ints<TokenId>();
  interrupted.partial_utf8 = in.String();
  interrupted.partial_stop = in.String();
  interrupted.priority = in.Int<std::int32_t>();
  const auto& sampling = interrupted.sampling;
  if (HasNegative(interrupted.remaining_prompt) ||
      HasNegative(interrupted.stop_token_ids) || HasNegative(interrupted.undelivered) ||
      HasNegative(sampling.banned_before_min_tokens) || interrupted.max_tokens < 0 ||
      interrupted.num_generated < 0 ||
      std::any_of(sampling.logit_bias.begin(), sampling.logit_bias.end(),
                  [](const auto& bias) { return bias.first < 0; })) {
    in.Fail();
  }
  return interrupted;
}

void ReadIdentity(ByteReader& in, Snapshot& snapshot) {
  snapshot.model_fingerprint = in.String();
  snapshot.numerics_id = in.String();
  snapshot.tenant = in.String();
  snapshot.session_id = in.String();
  snapshot.generation = in.Int<std::uint64_t>();
  if (!IsSessionId(snapshot.session_id)) in.Fail();
}

absl::Status ReadTokens(ByteReader& in, const SnapshotLimits& limits,
                        Snapshot& snapshot) {
  const std::uint64_t count = in.Count(sizeof(TokenId));
  if (count > limits.max_tokens) {
    return absl::FailedPreconditionError(absl::StrCat(
        "the snapshot has ", count, " tokens; the limit is ", limits.max_tokens));
  }
  snapshot.tokens.resize(count);
  for (TokenId& token : snapshot.tokens) token = in.Int<TokenId>();
  if (HasNegative(snapshot.tokens)) in.Fail();
  return absl::OkStatus();
}

// One section's payload into its fields.
absl::Status ReadPayload(std::uint32_t tag, std::string_view payload,
                         const SnapshotLimits& limits, Snapshot& snapshot) {
  ByteReader in(payload);
  switch (tag) {
    case kIdentity:
      ReadIdentity(in, snapshot);
      break;
    case kTokens:
      if (auto status = ReadTokens(in, limits, snapshot); !status.ok()) return status;
      break;
    case kKeys:
      snapshot.key_bytes_per_token = in.Int<std::int64_t>();
      snapshot.keys = AsBytes(in.Raw(in.left()));
      break;
    case kState:
      snapshot.state = AsBytes(in.Raw(in.left()));
      break;
    case kInterrupted:
      snapshot.interrupted = ReadInterrupted(in);
      break;
    default:
      break;  // kEnd: nothing in it
  }
  if (!in.ok() || in.left() != 0) return Damaged("a section's fields do not fit it");
  return absl::OkStatus();
}

// Division, so that no product of hostile numbers overflows.
bool KeysFitTokens(const Snapshot& snapshot) {
  if (snapshot.key_bytes_per_token < 0) return false;
  const auto per_token = static_cast<std::uint64_t>(snapshot.key_bytes_per_token);
  if (snapshot.tokens.empty() || per_token == 0) return snapshot.keys.empty();
  return snapshot.keys.size() % per_token == 0 &&
         snapshot.keys.size() / per_token == snapshot.tokens.size();
}

absl::StatusOr<Snapshot> ReadSections(std::string_view body,
                                      const SnapshotLimits& limits) {
  Snapshot snapshot;
  ByteReader in(body);
  std::uint32_t last = 0;
  while (last != kEnd) {
    const std::string_view start = body.substr(body.size() - in.left());
    const auto tag = in.Int<std::uint32_t>();
    const std::string_view payload = in.Raw(in.Int<std::uint64_t>());
    const std::string_view section = start.substr(0, start.size() - in.left());
    const auto checksum = in.Int<std::uint64_t>();
    if (!in.ok()) return Damaged("a section reaches past the end");
    if (checksum != Checksum(section)) return Damaged("a section's checksum is wrong");
    if (tag < kIdentity || tag > kEnd) {
      return absl::FailedPreconditionError(
          absl::StrCat("the snapshot has a section of the unknown kind ", tag));
    }
    // Ascending by one; only the interrupted generation may be left out.
    if (tag != last + 1 && !(tag == kEnd && last == kState)) {
      return Damaged("a section is missing, twice there or out of order");
    }
    auto status = ReadPayload(tag, payload, limits, snapshot);
    if (!status.ok()) return status;
    last = tag;
  }
  if (in.left() != 0) return Damaged("bytes follow the end");
  if (!KeysFitTokens(snapshot)) return Damaged("its keys do not fit its tokens");
  return snapshot;
}

}  // namespace

std::string EncodeSnapshot(const Snapshot& snapshot, const SnapshotKey* key) {
  ByteWriter identity;
  identity.String(snapshot.model_fingerprint);
  identity.String(snapshot.numerics_id);
  identity.String(snapshot.tenant);
  identity.String(snapshot.session_id);
  identity.Int(snapshot.generation);
  ByteWriter tokens;
  tokens.Ints(snapshot.tokens);
  ByteWriter keys;
  keys.Int(snapshot.key_bytes_per_token);
  keys.Raw(AsText(snapshot.keys));

  ByteWriter out;
  out.Raw(kMagic);
  out.Int(kSnapshotVersion);
  out.Int(key == nullptr ? kNotAuthenticated : kHmacSha256);
  WriteSection(out, kIdentity, identity.bytes());
  WriteSection(out, kTokens, tokens.bytes());
  WriteSection(out, kKeys, keys.bytes());
  WriteSection(out, kState, AsText(snapshot.state));
  if (snapshot.interrupted.has_value()) {
    WriteSection(out, kInterrupted, InterruptedPayload(*snapshot.interrupted));
  }
  WriteSection(out, kEnd, {});
  out.Int(Checksum(out.bytes()));
  if (key != nullptr) {
    const Mac mac = ComputeMac(*key, out.bytes());
    out.Raw({reinterpret_cast<const char*>(mac.data()), mac.size()});
  }
  return out.Take();
}

absl::StatusOr<Snapshot> DecodeSnapshot(std::string_view bytes, const SnapshotKey* key,
                                        const SnapshotLimits& limits) {
  if (bytes.size() > limits.max_bytes) {
    return absl::FailedPreconditionError(absl::StrCat(
        "the snapshot has ", bytes.size(), " bytes; the limit is ", limits.max_bytes));
  }
  ByteReader head(bytes);
  if (head.Raw(kMagic.size()) != kMagic) return Damaged("it does not begin as one");
  const auto version = head.Int<std::uint32_t>();
  const auto authentication = head.Int<std::uint32_t>();
  if (!head.ok() || authentication > kHmacSha256) return Damaged("its head is wrong");
  const std::size_t mac_bytes = authentication == kHmacSha256 ? kMacBytes : 0;
  if (bytes.size() < kHeadBytes + kChecksumBytes + mac_bytes) return Damaged("too short");

  const std::string_view sealed = bytes.substr(0, bytes.size() - mac_bytes);
  const std::string_view summed = sealed.substr(0, sealed.size() - kChecksumBytes);
  ByteReader tail(sealed.substr(summed.size()));
  if (tail.Int<std::uint64_t>() != Checksum(summed)) return Damaged("wrong checksum");
  if (key != nullptr) {
    if (mac_bytes == 0) return absl::DataLossError("the snapshot is not authenticated");
    if (!SameMac(ComputeMac(*key, sealed), bytes.substr(sealed.size()))) {
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
  return ReadSections(summed.substr(kHeadBytes), limits);
}

absl::Status CheckModel(const Snapshot& snapshot, std::string_view fingerprint) {
  if (snapshot.model_fingerprint == fingerprint) return absl::OkStatus();
  return absl::FailedPreconditionError(
      absl::StrCat("the snapshot is of model ", snapshot.model_fingerprint,
                   "; this server runs ", std::string(fingerprint)));
}

bool IsSessionId(std::string_view id) {
  return id.size() == 32 && std::all_of(id.begin(), id.end(), [](char c) {
           return (c >= '0' && c <= '9') || (c >= 'a' && c <= 'f');
         });
}

}  // namespace goldfinch
