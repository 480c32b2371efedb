// The scripts of RedisStore. Each looks and changes in one go.
//
// A session's hash: owner (none or empty: nobody), epoch (kept for as long as the session
// is, so that a claim that was given up never passes for the next one), tenant, and once
// something is stored generation, tokens, generated and interrupted (1 or 0) of the last
// generation, stored_at (seconds since 1970) and bytes. Of one that was deleted, for some
// time: epoch, tenant and deleted.
//
// Totals are a hash: by tenant, the bytes of its snapshots. Where a tenant that has some
// is missing, it is counted when it matters.
//
// A Redis that has no memory left refuses a script at its first write, if that may take
// memory; what has written goes on to its end. So whatever must not be refused begins by
// deleting something: leases, claims on what is there, and what makes room. Snapshots are
// refused, and new sessions.
#pragma once

#include <string_view>

namespace goldfinch {

// KEYS: the owner before, this owner. ARGV: milliseconds. A lapsed lease is never
// revived: whoever took over would be robbed.
inline constexpr std::string_view kNewOwnerScript = R"(
redis.call('DEL', KEYS[1])
return redis.call('SET', KEYS[2], '1', 'PX', ARGV[1])
)";

// KEYS: session, this owner. ARGV: owner's name, "new" or "stored", prefix of owners,
// tenant.
inline constexpr std::string_view kAcquireScript = R"(
if redis.call('EXISTS', KEYS[2]) == 0 then return {'lapsed'} end
local tenant = redis.call('HGET', KEYS[1], 'tenant')
if tenant and tenant ~= ARGV[4] then return {'none'} end
if redis.call('HEXISTS', KEYS[1], 'deleted') == 1 then return {'none'} end
local held = redis.call('HGET', KEYS[1], 'owner')
if held and held ~= '' and held ~= ARGV[1]
    and redis.call('EXISTS', ARGV[3] .. held) == 1 then return {'held'} end
local generation = redis.call('HGET', KEYS[1], 'generation')
if not generation and ARGV[2] == 'stored' then return {'none'} end
if tenant then redis.call('HDEL', KEYS[1], 'owner') end
local epoch = redis.call('HINCRBY', KEYS[1], 'epoch', 1)
redis.call('HSET', KEYS[1], 'owner', ARGV[1], 'tenant', ARGV[4])
return {'ok', epoch, generation or '0'}
)";

// KEYS: session. ARGV: owner's name, epoch. What was never stored leaves nothing behind:
// its id is known to nobody.
inline constexpr std::string_view kReleaseScript = R"(
if redis.call('HGET', KEYS[1], 'owner') ~= ARGV[1]
    or redis.call('HGET', KEYS[1], 'epoch') ~= ARGV[2] then return 0 end
if redis.call('HEXISTS', KEYS[1], 'generation') == 0 then
  redis.call('DEL', KEYS[1])
else
  redis.call('HDEL', KEYS[1], 'owner')
end
return 1
)";

// KEYS: session, blob, this owner, ids of the tenant, totals. ARGV: owner's name, epoch,
// generation, tenant, tokens, blob, id, most bytes of the tenant (empty: no limit),
// generated, interrupted.
inline constexpr std::string_view kPutScript = R"(
if redis.call('EXISTS', KEYS[3]) == 0
    or redis.call('HGET', KEYS[1], 'owner') ~= ARGV[1]
    or redis.call('HGET', KEYS[1], 'epoch') ~= ARGV[2]
    or redis.call('HGET', KEYS[1], 'tenant') ~= ARGV[4] then return {'lost'} end
local stored = redis.call('HMGET', KEYS[1], 'generation', 'bytes')
if stored[1] and tonumber(ARGV[3]) <= tonumber(stored[1]) then return {'old'} end
local total = redis.call('HGET', KEYS[5], ARGV[4])
if not total and redis.call('ZCARD', KEYS[4]) > 0 then return {'uncounted'} end
local grown = #ARGV[6] - (stored[2] or 0)
local next = string.format('%.0f', (total or 0) + grown)
if ARGV[8] ~= '' and (grown > 0 or not stored[1])
    and tonumber(next) > tonumber(ARGV[8]) then return {'over', next} end
redis.call('SET', KEYS[2], ARGV[6])
redis.call('HSET', KEYS[1], 'generation', ARGV[3], 'tokens', ARGV[5],
    'generated', ARGV[9], 'interrupted', ARGV[10],
    'stored_at', redis.call('TIME')[1], 'bytes', #ARGV[6])
redis.call('ZADD', KEYS[4], 0, ARGV[7])
redis.call('HSET', KEYS[5], ARGV[4], next)
return {'ok'}
)";

// KEYS: ids of the tenant, totals. ARGV: tenant, prefix of sessions. The tenant's bytes,
// as text.
inline constexpr std::string_view kTenantBytesScript = R"(
local total = redis.call('HGET', KEYS[2], ARGV[1])
if total then return total end
local count = 0
local ids = redis.call('ZRANGE', KEYS[1], 0, -1)
for _, id in ipairs(ids) do
  count = count + (redis.call('HGET', ARGV[2] .. id, 'bytes') or 0)
end
count = string.format('%.0f', count)
if #ids > 0 then redis.call('HSET', KEYS[2], ARGV[1], count) end
return count
)";

// KEYS: session. ARGV: prefix of owners, this owner's name, tenant. Returns generation,
// tenant, tokens, when it was stored, bytes, whose claim there is, nobody's (0), this
// owner's (1) or another live owner's (2), generated and interrupted. Where nothing is
// stored, 'held' if another one has claimed it for this tenant, else nil.
inline constexpr std::string_view kHeadScript = R"(
local f = redis.call('HMGET', KEYS[1], 'generation', 'tenant', 'tokens', 'stored_at',
    'bytes', 'owner', 'generated', 'interrupted')
local owner = f[6] or ''
local claimed = (owner ~= '' and redis.call('EXISTS', ARGV[1] .. owner)) or 0
if claimed == 1 and owner ~= ARGV[2] then claimed = 2 end
if not f[1] then
  if claimed == 2 and f[2] == ARGV[3] then return 'held' end
  return nil
end
f[6] = claimed
return f
)";

// KEYS: ids of the tenant. ARGV: where to begin, how many, prefixes of sessions and
// owners, this owner's name. Returns of each its id and what kHeadScript does.
inline constexpr std::string_view kListScript = R"(
local found = {}
for _, id in ipairs(redis.call('ZRANGEBYLEX', KEYS[1], ARGV[1], '+',
    'LIMIT', 0, ARGV[2])) do
  local f = redis.call('HMGET', ARGV[3] .. id, 'generation', 'tenant', 'tokens',
      'stored_at', 'bytes', 'owner', 'generated', 'interrupted')
  if f[1] then
    local owner = f[6] or ''
    local claimed = (owner ~= '' and redis.call('EXISTS', ARGV[4] .. owner)) or 0
    if claimed == 1 and owner ~= ARGV[5] then claimed = 2 end
    found[#found + 1] = {id, f[1], f[2], f[3], f[4], f[5], claimed, f[7], f[8]}
  end
end
return found
)";

// KEYS: session, blob, this owner, totals. ARGV: owner's name, epoch, id, prefix of ids,
// for how many milliseconds it is known that it was deleted.
inline constexpr std::string_view kDeleteScript = R"(
if redis.call('EXISTS', KEYS[3]) == 0
    or redis.call('HGET', KEYS[1], 'owner') ~= ARGV[1]
    or redis.call('HGET', KEYS[1], 'epoch') ~= ARGV[2] then return 'lost' end
local f = redis.call('HMGET', KEYS[1], 'generation', 'tenant', 'bytes')
redis.call('DEL', KEYS[1], KEYS[2])
if not f[1] then return 'none' end
redis.call('HSET', KEYS[1], 'epoch', ARGV[2], 'tenant', f[2], 'deleted', '1')
redis.call('PEXPIRE', KEYS[1], ARGV[5])
redis.call('ZREM', ARGV[4] .. f[2], ARGV[3])
if redis.call('EXISTS', ARGV[4] .. f[2]) == 0 then
  redis.call('HDEL', KEYS[4], f[2])
elseif redis.call('HEXISTS', KEYS[4], f[2]) == 1 then
  redis.call('HINCRBY', KEYS[4], f[2], string.format('%.0f', 0 - f[3]))
end
return 'ok'
)";

// KEYS: session, blob, totals. ARGV: seconds to live (0: for ever), id, prefixes of
// owners and of ids. Claims of dead owners on what was never stored go, too. 1 when a
// snapshot stays, -1 when one has gone.
inline constexpr std::string_view kExpireScript = R"(
local f = redis.call('HMGET', KEYS[1], 'owner', 'tenant', 'stored_at', 'bytes',
    'deleted')
if f[5] then return 0 end
local stays = (f[3] and 1) or 0
local live = tonumber(ARGV[1])
if f[1] and f[1] ~= '' and redis.call('EXISTS', ARGV[3] .. f[1]) == 1 then
  return stays
end
if f[3] and (live == 0 or redis.call('TIME')[1] - f[3] < live) then return 1 end
redis.call('DEL', KEYS[1], KEYS[2])
if not f[3] then return 0 end
redis.call('ZREM', ARGV[4] .. f[2], ARGV[2])
if redis.call('EXISTS', ARGV[4] .. f[2]) == 0 then
  redis.call('HDEL', KEYS[3], f[2])
elseif redis.call('HEXISTS', KEYS[3], f[2]) == 1 then
  redis.call('HINCRBY', KEYS[3], f[2], string.format('%.0f', 0 - f[4]))
end
return -1
)";

}  // namespace goldfinch
