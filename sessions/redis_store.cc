#include "sessions/redis_store.h"

#include <hiredis/hiredis.h>
#include <sys/socket.h>

#include <utility>

#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/string_view.h"
#include "sessions/redis_scripts.h"
#include "sessions/session_id.h"

namespace goldfinch {
namespace {

// Numbers pass through Lua, which counts exactly up to here.
constexpr std::uint64_t kMaxGeneration = std::uint64_t{1} << 53;

constexpr std::size_t kMaxIdleConnections = 8;

absl::Status NoAnswer() {
  return absl::UnavailableError("the session store does not answer");
}
absl::Status Odd() {
  return absl::UnavailableError("the session store gave an answer of no known form");
}

timeval TimeOf(std::chrono::milliseconds duration) {
  return {.tv_sec = duration.count() / 1000,
          .tv_usec = static_cast<suseconds_t>(duration.count() % 1000 * 1000)};
}

std::string_view TextOf(const redisReply* reply) {
  return reply->str == nullptr ? std::string_view()
                               : std::string_view(reply->str, reply->len);
}

template <typename Number>
Number NumberOf(const redisReply* reply) {
  if (reply->type == REDIS_REPLY_INTEGER) return static_cast<Number>(reply->integer);
  const std::string_view text = TextOf(reply);
  Number number = 0;
  if (!absl::SimpleAtoi(absl::string_view(text.data(), text.size()), &number)) return 0;
  return number;
}

// Only its first word, the kind of error: the rest may quote what was sent.
absl::Status ErrorOf(const redisReply* reply) {
  const std::string_view text = TextOf(reply);
  const std::string kind(text.substr(0, text.find(' ')));
  if (kind == "OOM") {
    return absl::ResourceExhaustedError("the session store has no memory left");
  }
  if (kind == "NOAUTH" || kind == "WRONGPASS" || kind == "NOPERM") {
    return absl::FailedPreconditionError(
        absl::StrCat("the session store refuses this server: ", kind));
  }
  return absl::UnavailableError(absl::StrCat("the session store refuses: ", kind));
}

bool IsArray(const redisReply* reply, std::size_t size) {
  return reply->type == REDIS_REPLY_ARRAY && reply->elements >= size;
}

// Of what kHeadScript returns.
StoredSession StoredOf(std::string_view id, redisReply* const* fields) {
  StoredSession stored;
  stored.id = id;
  stored.generation = NumberOf<std::uint64_t>(fields[0]);
  stored.info.tenant = TextOf(fields[1]);
  stored.info.num_tokens = NumberOf<std::int64_t>(fields[2]);
  stored.stored_at = std::chrono::system_clock::time_point(
      std::chrono::seconds(NumberOf<std::int64_t>(fields[3])));
  stored.bytes = NumberOf<std::uint64_t>(fields[4]);
  stored.claimed = NumberOf<int>(fields[5]) > 0;
  stored.held_elsewhere = NumberOf<int>(fields[5]) == 2;
  stored.info.num_generated = NumberOf<std::int64_t>(fields[6]);
  stored.info.interrupted = NumberOf<int>(fields[7]) == 1;
  return stored;
}
constexpr std::size_t kHeadFields = 8;

bool IsClosed(const redisContext& context) {
  char byte;
  return recv(context.fd, &byte, 1, MSG_PEEK | MSG_DONTWAIT) == 0;
}

}  // namespace

absl::StatusOr<RedisAddress> ParseRedisUrl(std::string_view url) {
  const auto bad = [](const char* what) {
    return absl::InvalidArgumentError(absl::StrCat(
        "the session store's ", what,
        "; it must be redis://[:PASSWORD@]HOST[:PORT][/DATABASE] or unix://PATH"));
  };
  RedisAddress address;
  if (url.starts_with("unix://")) {
    address.path = url.substr(7);
    if (address.path.empty()) return bad("path is empty");
    return address;
  }
  if (!url.starts_with("redis://")) return bad("scheme is unknown");
  url.remove_prefix(8);
  if (const std::size_t at = url.rfind('@'); at != url.npos) {
    std::string_view user = url.substr(0, at);
    if (!user.starts_with(':')) return bad("password has no colon before it");
    address.password = user.substr(1);
    url.remove_prefix(at + 1);
  }
  if (const std::size_t slash = url.find('/'); slash != url.npos) {
    const std::string number(url.substr(slash + 1));
    if (!absl::SimpleAtoi(number, &address.database) || address.database < 0) {
      return bad("database is no number");
    }
    url = url.substr(0, slash);
  }
  if (const std::size_t colon = url.rfind(':'); colon != url.npos) {
    const std::string number(url.substr(colon + 1));
    if (!absl::SimpleAtoi(number, &address.port) || address.port < 1 ||
        address.port > 65535) {
      return bad("port is not in [1, 65535]");
    }
    url = url.substr(0, colon);
  }
  if (url.empty()) return bad("host is empty");
  address.host = url;
  return address;
}

void RedisStore::FreeContext::operator()(redisContext* context) const {
  redisFree(context);
}
void RedisStore::FreeReply::operator()(redisReply* reply) const {
  freeReplyObject(reply);
}

absl::StatusOr<std::unique_ptr<RedisStore>> RedisStore::Open(RedisStoreOptions options) {
  std::unique_ptr<RedisStore> store(new RedisStore(std::move(options)));
  if (absl::Status status = store->Renew(); !status.ok()) return status;
  return store;
}

RedisStore::~RedisStore() {
  const std::string owner = lease().owner;
  if (!owner.empty()) Call({"DEL", Key("owner", owner)}).IgnoreError();
}

std::string RedisStore::Key(std::string_view kind, std::string_view name) const {
  std::string key = options_.prefix;
  return key.append(kind).append(":").append(name);
}

RedisStore::Lease RedisStore::lease() const {
  const MutexLock lock(mu_);
  return lease_;
}

// Who reads from a connection then finds its end.
void RedisStore::Abandon() {
  const MutexLock lock(mu_);
  abandoned_ = true;
  for (const redisContext* context : in_use_) shutdown(context->fd, SHUT_RDWR);
}

absl::StatusOr<RedisStore::Context> RedisStore::Connect() {
  const RedisAddress& address = options_.address;
  const timeval timeout = TimeOf(options_.connect_timeout);
  Context context(
      address.path.empty()
          ? redisConnectWithTimeout(address.host.c_str(), address.port, timeout)
          : redisConnectUnixWithTimeout(address.path.c_str(), timeout));
  if (context == nullptr) return NoAnswer();
  if (context->err != 0) {
    return absl::UnavailableError(absl::StrCat(
        NoAnswer().message(), ": ", static_cast<const char*>(context->errstr)));
  }
  redisSetTimeout(context.get(), TimeOf(options_.command_timeout));
  absl::Status status;
  if (!address.password.empty()) {
    status = CallOn(*context, {"AUTH", address.password}).status();
  }
  if (status.ok() && address.database != 0) {
    status = CallOn(*context, {"SELECT", std::to_string(address.database)}).status();
  }
  if (!status.ok()) return status;
  return context;
}

absl::StatusOr<RedisStore::Context> RedisStore::TakeConnection() {
  {
    const MutexLock lock(mu_);
    if (abandoned_) return NoAnswer();
    while (!idle_.empty()) {
      Context context = std::move(idle_.back());
      idle_.pop_back();
      // The Redis may have been started anew since.
      if (!IsClosed(*context)) return context;
    }
  }
  return Connect();
}

// UNAVAILABLE when nothing came back; else what did, which may be an error.
absl::StatusOr<RedisStore::Reply> RedisStore::CallOn(
    redisContext& context, const std::vector<std::string_view>& words) {
  {
    const MutexLock lock(mu_);
    if (abandoned_) return NoAnswer();
    in_use_.insert(&context);
  }
  std::vector<const char*> argv;
  std::vector<std::size_t> sizes;
  for (const std::string_view word : words) {
    argv.push_back(word.data());
    sizes.push_back(word.size());
  }
  Reply reply(static_cast<redisReply*>(redisCommandArgv(
      &context, static_cast<int>(argv.size()), argv.data(), sizes.data())));
  {
    const MutexLock lock(mu_);
    in_use_.erase(&context);
  }
  if (reply == nullptr) return NoAnswer();
  if (reply->type == REDIS_REPLY_ERROR) return ErrorOf(reply.get());
  return reply;
}

absl::StatusOr<RedisStore::Reply> RedisStore::Call(
    const std::vector<std::string_view>& words) {
  std::uint64_t drops = 0;
  {
    const MutexLock lock(mu_);
    drops = drops_;
  }
  auto context = TakeConnection();
  if (!context.ok()) return context.status();
  absl::StatusOr<Reply> reply = CallOn(**context, words);
  const MutexLock lock(mu_);
  if (!reply.ok() && !absl::IsResourceExhausted(reply.status())) {
    // Whatever was sent may have been done: no second attempt here. The other connections
    // may be dead too, and each would be waited for. An error that it answers may be
    // about where the connection leads: to what is a replica since a failover, or loads,
    // or has another password. The same name may lead to another Redis by now. (A full
    // one stays the same.)
    idle_.clear();
    ++drops_;
  } else if (drops == drops_ && idle_.size() < kMaxIdleConnections) {
    idle_.push_back(*std::move(context));
  }
  return reply;
}

absl::StatusOr<RedisStore::Reply> RedisStore::Eval(
    std::string_view script, std::initializer_list<std::string_view> keys,
    std::initializer_list<std::string_view> arguments) {
  const std::string num_keys = std::to_string(keys.size());
  std::vector<std::string_view> words = {"EVAL", script, num_keys};
  words.insert(words.end(), keys);
  words.insert(words.end(), arguments);
  return Call(words);
}

absl::Status RedisStore::Renew() {
  const MutexLock one(renew_mu_);
  Lease next = lease();
  const auto now = options_.clock->Uptime();
  const std::string millis =
      std::to_string(std::chrono::milliseconds(options_.lease).count());
  bool extended = false;
  if (!next.owner.empty() && now < next.good_until) {
    const auto reply = Call({"PEXPIRE", Key("owner", next.owner), millis});
    if (!reply.ok()) return reply.status();
    extended = NumberOf<int>(reply->get()) == 1;
  }
  if (!extended) {
    const std::string before = std::exchange(next.owner, NewSessionId());
    ++next.number;
    const auto reply =
        Eval(kNewOwnerScript, {Key("owner", before), Key("owner", next.owner)}, {millis});
    if (!reply.ok()) return reply.status();
  }
  next.good_until = now + options_.lease - options_.lease / kLeaseMarginPart;
  const MutexLock lock(mu_);
  lease_ = next;
  return absl::OkStatus();
}

bool RedisStore::lease_is_good() const {
  return options_.clock->Uptime() < lease().good_until;
}

bool RedisStore::is_good(const Claim& claim) const {
  const Lease now = lease();
  return claim.lease == now.number && options_.clock->Uptime() < now.good_until;
}

absl::StatusOr<Claim> RedisStore::Acquire(std::string_view session_id,
                                          std::string_view tenant, AcquireMode mode) {
  if (auto status = CheckSessionId(session_id); !status.ok()) return status;
  const Lease by = lease();
  const auto reply = Eval(
      kAcquireScript, {Key("session", session_id), Key("owner", by.owner)},
      {by.owner, mode == AcquireMode::kNew ? "new" : "stored", Key("owner", ""), tenant});
  if (!reply.ok()) return reply.status();
  if (!IsArray(reply->get(), 1)) return Odd();
  const std::string_view outcome = TextOf((*reply)->element[0]);
  if (outcome == "none") return NoSuchSession();
  if (outcome == "held") {
    return HeldElsewhere();
  }
  if (outcome == "lapsed") {
    return LeaseLapsed();
  }
  if (!IsArray(reply->get(), 3)) return Odd();
  return Claim{.epoch = NumberOf<std::uint64_t>((*reply)->element[1]),
               .generation = NumberOf<std::uint64_t>((*reply)->element[2]),
               .lease = by.number};
}

absl::Status RedisStore::Release(std::string_view session_id, const Claim& claim) {
  if (auto status = CheckSessionId(session_id); !status.ok()) return status;
  const Lease by = lease();
  if (claim.lease != by.number) return absl::OkStatus();
  return Eval(kReleaseScript, {Key("session", session_id)},
              {by.owner, std::to_string(claim.epoch)})
      .status();
}

// A release may arrive when this server has long given up waiting, and claimed the session
// anew. So it names the claim it is of, which is looked up before.
absl::Status RedisStore::Disown(std::string_view session_id) {
  if (auto status = CheckSessionId(session_id); !status.ok()) return status;
  const std::string owner = lease().owner, key = Key("session", session_id);
  const auto claim = Call({"HMGET", key, "owner", "epoch"});
  if (!claim.ok()) return claim.status();
  if (!IsArray(claim->get(), 2)) return Odd();
  if (TextOf((*claim)->element[0]) != owner) return absl::OkStatus();
  return Eval(kReleaseScript, {key}, {owner, TextOf((*claim)->element[1])}).status();
}

absl::Status RedisStore::Put(std::string_view session_id, const Claim& claim,
                             std::uint64_t generation, const SnapshotInfo& info,
                             std::span<const std::string_view> bytes,
                             std::int64_t max_tenant_bytes) {
  if (auto status = CheckSessionId(session_id); !status.ok()) return status;
  if (generation > kMaxGeneration) {
    return absl::InvalidArgumentError(absl::StrCat("the generation is ", generation,
                                                   "; the limit is ", kMaxGeneration));
  }
  const Lease by = lease();
  if (claim.lease != by.number) return ClaimLost();
  std::size_t size = 0;
  for (const std::string_view piece : bytes) size += piece.size();
  std::string blob;
  blob.reserve(size);
  for (const std::string_view piece : bytes) blob.append(piece);
  const std::string limit =
      max_tenant_bytes == kUnlimitedBytes ? "" : std::to_string(max_tenant_bytes);
  const auto put = [&] {
    return Eval(kPutScript,
                {Key("session", session_id), Key("blob", session_id),
                 Key("owner", by.owner), Key("ids", info.tenant), TotalsKey()},
                {by.owner, std::to_string(claim.epoch), std::to_string(generation),
                 info.tenant, std::to_string(info.num_tokens), blob, session_id, limit,
                 std::to_string(info.num_generated), info.interrupted ? "1" : "0"});
  };
  auto reply = put();
  if (reply.ok() && IsArray(reply->get(), 1) &&
      TextOf((*reply)->element[0]) == "uncounted") {
    const auto counted = TenantBytes(info.tenant);
    if (!counted.ok()) return counted.status();
    reply = put();
  }
  if (!reply.ok()) return reply.status();
  if (!IsArray(reply->get(), 1)) return Odd();
  const std::string_view outcome = TextOf((*reply)->element[0]);
  if (outcome == "ok") return absl::OkStatus();
  if (outcome == "lost") return ClaimLost();
  if (outcome == "over" && IsArray(reply->get(), 2)) {
    return OverTenantLimit(NumberOf<std::int64_t>((*reply)->element[1]),
                           max_tenant_bytes);
  }
  if (outcome != "old") return Odd();
  return absl::FailedPreconditionError(
      absl::StrCat("the snapshot has generation ", generation,
                   "; the store already holds a newer one"));
}

absl::StatusOr<std::int64_t> RedisStore::TenantBytes(std::string_view tenant) {
  const auto reply = Eval(kTenantBytesScript, {Key("ids", tenant), TotalsKey()},
                          {tenant, Key("session", "")});
  if (!reply.ok()) return reply.status();
  return NumberOf<std::int64_t>(reply->get());
}

// One byte more than the limit at most, so that it is seen when there are more.
absl::StatusOr<std::string> RedisStore::Get(std::string_view session_id,
                                            std::int64_t max_bytes) {
  if (auto status = CheckSessionId(session_id); !status.ok()) return status;
  const std::string key = Key("blob", session_id);
  const auto reply = Call({"GETRANGE", key, "0", std::to_string(max_bytes)});
  if (!reply.ok()) return reply.status();
  const std::string_view bytes = TextOf(reply->get());
  if (std::ssize(bytes) > max_bytes) return OverReadersLimit(max_bytes);
  if (!bytes.empty()) return std::string(bytes);
  // What is not there looks like what is empty.
  const auto there = Call({"EXISTS", key});
  if (!there.ok()) return there.status();
  if (NumberOf<int>(there->get()) == 0) return NoSuchSession();
  return std::string();
}

absl::StatusOr<StoredSession> RedisStore::Head(std::string_view session_id,
                                               std::string_view tenant) {
  if (auto status = CheckSessionId(session_id); !status.ok()) return status;
  const auto reply = Eval(kHeadScript, {Key("session", session_id)},
                          {Key("owner", ""), lease().owner, tenant});
  if (!reply.ok()) return reply.status();
  if (TextOf(reply->get()) == "held") return HeldElsewhere();
  if ((*reply)->type == REDIS_REPLY_NIL) return NoSuchSession();
  if (!IsArray(reply->get(), kHeadFields)) return Odd();
  StoredSession stored = StoredOf(session_id, (*reply)->element);
  if (stored.info.tenant != tenant) return NoSuchSession();
  return stored;
}

absl::Status RedisStore::Delete(std::string_view session_id, const Claim& claim) {
  if (auto status = CheckSessionId(session_id); !status.ok()) return status;
  const Lease by = lease();
  if (claim.lease != by.number) return ClaimLost();
  const std::string remembered =
      std::to_string(std::chrono::milliseconds(kDeletedLeases * options_.lease).count());
  const auto reply = Eval(
      kDeleteScript,
      {Key("session", session_id), Key("blob", session_id), Key("owner", by.owner),
       TotalsKey()},
      {by.owner, std::to_string(claim.epoch), session_id, Key("ids", ""), remembered});
  if (!reply.ok()) return reply.status();
  const std::string_view outcome = TextOf(reply->get());
  if (outcome == "lost") return ClaimLost();
  return outcome == "none" ? NoSuchSession() : absl::OkStatus();
}

absl::StatusOr<std::vector<StoredSession>> RedisStore::List(std::string_view tenant,
                                                            std::string_view after,
                                                            std::size_t limit) {
  if (!after.empty()) {
    if (auto status = CheckSessionId(after); !status.ok()) return status;
  }
  const std::string from = after.empty() ? "-" : absl::StrCat("(", std::string(after));
  const auto reply = Eval(
      kListScript, {Key("ids", tenant)},
      {from, std::to_string(limit), Key("session", ""), Key("owner", ""), lease().owner});
  if (!reply.ok()) return reply.status();
  if ((*reply)->type != REDIS_REPLY_ARRAY) return Odd();
  std::vector<StoredSession> found;
  for (std::size_t i = 0; i < (*reply)->elements; ++i) {
    const redisReply* one = (*reply)->element[i];
    if (!IsArray(one, 1 + kHeadFields)) return Odd();
    found.push_back(StoredOf(TextOf(one->element[0]), one->element + 1));
  }
  return found;
}

// A cursor walks over all sessions, a hundred or so at a time.
absl::StatusOr<StoreUsage> RedisStore::RemoveExpired() {
  const std::string pattern = Key("session", "*");
  const std::string age = std::to_string(options_.time_to_live.count());
  const std::size_t name_at = Key("session", "").size();
  StoreUsage left;
  std::string cursor = "0";
  do {
    const auto page = Call({"SCAN", cursor, "MATCH", pattern, "COUNT", "100"});
    if (!page.ok()) return page.status();
    if (!IsArray(page->get(), 2)) return Odd();
    cursor = TextOf((*page)->element[0]);
    const redisReply* keys = (*page)->element[1];
    for (std::size_t i = 0; i < keys->elements; ++i) {
      const std::string_view key = TextOf(keys->element[i]);
      const std::string_view id = key.substr(std::min(name_at, key.size()));
      if (!IsSessionId(id)) continue;
      const auto reply = Eval(kExpireScript, {key, Key("blob", id), TotalsKey()},
                              {age, id, Key("owner", ""), Key("ids", "")});
      if (!reply.ok()) return reply.status();
      const int outcome = NumberOf<int>(reply->get());
      left.snapshots += outcome > 0 ? 1 : 0;
      left.expired += outcome < 0 ? 1 : 0;
    }
  } while (cursor != "0");
  const auto totals = Call({"HGETALL", TotalsKey()});
  if (!totals.ok()) return totals.status();
  for (std::size_t i = 0; i + 1 < (*totals)->elements; i += 2) {
    const auto bytes = NumberOf<std::int64_t>((*totals)->element[i + 1]);
    if (bytes > 0) left.tenant_bytes[std::string(TextOf((*totals)->element[i]))] = bytes;
  }
  return left;
}

}  // namespace goldfinch
