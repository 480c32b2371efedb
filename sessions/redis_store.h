// Parked sessions in a Redis, which replicas on any number of machines share.
//
// A session is a hash of what is known of it and of who holds it, and a string with its
// snapshot; an owner's lease is a key that expires by the clock of the Redis. Whatever
// looks before it changes something is one script, so it happens whole or not at all. The
// bytes of each tenant are added up in the scripts that write and delete: Put's limit
// holds exactly, across replicas.
//
// "Durable" is what the Redis makes of it: with `appendonly yes` and `appendfsync always`
// an acknowledged snapshot survives a crash of the machine; without, one of this server.
// A cluster of them is not supported: the scripts reach keys of several slots.
//
// Any thread may call; each call has a connection to itself, and takes no longer than the
// time-outs. After any error but want of memory the next call connects anew, so that a
// name that leads to another Redis after a failover is followed.
#pragma once

#include <chrono>
#include <cstdint>
#include <initializer_list>
#include <memory>
#include <set>
#include <string>
#include <string_view>
#include <vector>

#include "engine/sync/mutex.h"
#include "sessions/lease_clock.h"
#include "sessions/store.h"

struct redisContext;
struct redisReply;

namespace goldfinch {

struct RedisAddress {
  std::string host = "127.0.0.1";
  int port = 6379;
  std::string path;  // of a socket; then host and port are unused
  std::string password;
  int database = 0;
};

// redis://[:PASSWORD@]HOST[:PORT][/DATABASE] or unix://PATH. INVALID_ARGUMENT for others,
// without the password.
absl::StatusOr<RedisAddress> ParseRedisUrl(std::string_view url);

struct RedisStoreOptions {
  RedisAddress address;
  std::string prefix = "goldfinch:";  // of every key
  std::chrono::seconds lease{30};
  std::chrono::seconds time_to_live{0};  // of what is parked; 0: for ever
  std::chrono::milliseconds connect_timeout{2000};
  std::chrono::milliseconds command_timeout{5000};
  std::shared_ptr<const LeaseClock> clock = std::make_shared<LeaseClock>();
};

// Who has one ignores SIGPIPE: hiredis writes to connections that may be gone.
class RedisStore final : public SnapshotStore {
 public:
  // UNAVAILABLE when it does not answer, FAILED_PRECONDITION when it refuses us.
  static absl::StatusOr<std::unique_ptr<RedisStore>> Open(RedisStoreOptions options);
  ~RedisStore() override;  // gives up the lease
  RedisStore(const RedisStore&) = delete;
  RedisStore& operator=(const RedisStore&) = delete;

  absl::Status Renew() override;
  bool lease_is_good() const override;
  bool is_good(const Claim& claim) const override;
  absl::StatusOr<Claim> Acquire(std::string_view session_id, std::string_view tenant,
                                AcquireMode mode) override;
  absl::Status Release(std::string_view session_id, const Claim& claim) override;
  absl::Status Disown(std::string_view session_id) override;
  absl::Status Put(std::string_view session_id, const Claim& claim,
                   std::uint64_t generation, const SnapshotInfo& info,
                   std::span<const std::string_view> bytes,
                   std::int64_t max_tenant_bytes) override;
  absl::StatusOr<std::int64_t> TenantBytes(std::string_view tenant) override;
  absl::StatusOr<std::string> Get(std::string_view session_id,
                                  std::int64_t max_bytes) override;
  absl::StatusOr<StoredSession> Head(std::string_view session_id,
                                     std::string_view tenant) override;
  absl::Status Delete(std::string_view session_id, const Claim& claim) override;
  absl::StatusOr<std::vector<StoredSession>> List(std::string_view tenant,
                                                  std::string_view after,
                                                  std::size_t limit) override;
  absl::StatusOr<StoreUsage> RemoveExpired() override;
  void Abandon() override;

 private:
  struct FreeContext {
    void operator()(redisContext* context) const;
  };
  struct FreeReply {
    void operator()(redisReply* reply) const;
  };
  using Context = std::unique_ptr<redisContext, FreeContext>;
  using Reply = std::unique_ptr<redisReply, FreeReply>;
  struct Lease {
    std::string owner;
    std::uint64_t number = 0;
    std::chrono::nanoseconds good_until{0};
  };

  explicit RedisStore(RedisStoreOptions options) : options_(std::move(options)) {}

  absl::StatusOr<Context> Connect();
  absl::StatusOr<Context> TakeConnection();
  absl::StatusOr<Reply> CallOn(redisContext& context,
                               const std::vector<std::string_view>& words);
  // An error of the Redis is an error; nil is not.
  absl::StatusOr<Reply> Call(const std::vector<std::string_view>& words);
  absl::StatusOr<Reply> Eval(std::string_view script,
                             std::initializer_list<std::string_view> keys,
                             std::initializer_list<std::string_view> arguments);
  std::string Key(std::string_view kind, std::string_view name) const;
  std::string TotalsKey() const { return options_.prefix + "totals"; }
  Lease lease() const;

  const RedisStoreOptions options_;

  Mutex renew_mu_;  // one renewal at a time; before mu_
  mutable Mutex mu_;
  std::vector<Context> idle_ ABSL_GUARDED_BY(mu_);
  // How often all connections were given up, of which those in use then are not kept.
  std::uint64_t drops_ ABSL_GUARDED_BY(mu_) = 0;
  std::set<redisContext*> in_use_ ABSL_GUARDED_BY(mu_);
  bool abandoned_ ABSL_GUARDED_BY(mu_) = false;
  Lease lease_ ABSL_GUARDED_BY(mu_);
};

}  // namespace goldfinch
