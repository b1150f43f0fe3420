"""The scripts of a queue in Redis: each is one atomic step, and all keys of a queue lie in one slot.

KEYS are the same for all: values (key -> "version:data"), stream (an entry for each key that waits), meta (id, version,
token), lock (the token of who leads), tries (key -> failures), dead (key -> MessagePack of what was put aside), and the
caller's last put. A key of `values` has exactly one entry in the stream, delivered or not: its first put adds the
entry, merging changes the value alone, and whoever removes the one removes or renews the other.
"""

from __future__ import annotations

from typing import Final

GROUP: Final = "flushers"

# A step of the flusher begins with this: a flusher that was deposed changes nothing, whatever it believes.
_LEADING: Final = """
if redis.call('GET', KEYS[4]) ~= ARGV[1] then return redis.error_reply('DEPOSED') end
"""
_IS: Final = """
local function is(key, version)
  local kept = redis.call('HGET', KEYS[1], key)
  return kept, kept and string.sub(kept, 1, #version + 1) == version .. ':'
end
"""

# ARGV: id of a new queue, number of the call, most keys, number of groups, their sizes, then key and data of each.
# 1. A put is sent, and its reply lost. 2. It is sent again: the number of the call is known, so is the reply. 3. Or its
# caller has given up, and has put something newer: what comes late is refused, or it would be the newest.
PUT: Final = """
local call, most, groups = tonumber(ARGV[2]), tonumber(ARGV[3]), tonumber(ARGV[4])
local said = redis.call('GET', KEYS[7])
if said then
  said = cjson.decode(said)
  if call < said[1] then return redis.error_reply('LATE') end
  if call == said[1] then
    redis.call('EXPIRE', KEYS[7], 3600)  -- a write, for WAIT to wait for
    return said[2]
  end
end
redis.call('HSETNX', KEYS[3], 'id', ARGV[1])
local time = redis.call('TIME')
local last = math.max(tonumber(redis.call('HGET', KEYS[3], 'version') or '0'), time[1] * 1000000 + time[2])
local dead, failing = redis.call('HLEN', KEYS[6]), redis.call('HLEN', KEYS[5]) > 0
local used = redis.call('HLEN', KEYS[1]) + dead
local answer = {redis.call('HGET', KEYS[3], 'id'), string.format('%.0f', last)}
local at = 5 + groups
for group = 1, groups do
  local size = tonumber(ARGV[4 + group])
  local fresh = 0
  if used + size > most then
    local seen = {}
    for n = at, at + 2 * size - 2, 2 do
      local key = ARGV[n]
      if not seen[key] and redis.call('HEXISTS', KEYS[1], key) + redis.call('HEXISTS', KEYS[6], key) == 0 then
        fresh = fresh + 1
      end
      seen[key] = true
    end
  end
  if fresh > 0 and used + fresh > most then
    answer[2 + group] = '0'
  else
    for n = at, at + 2 * size - 2, 2 do
      local key = ARGV[n]
      last = last + 1
      if redis.call('HSET', KEYS[1], key, string.format('%.0f', last) .. ':' .. ARGV[n + 1]) == 1 then
        redis.call('XADD', KEYS[2], '*', 'key', key)
        used = used + 1
      end
      if dead > 0 and redis.call('HDEL', KEYS[6], key) == 1 then
        dead, used = dead - 1, used - 1
      end
      if failing then redis.call('HDEL', KEYS[5], key) end
    end
    answer[2 + group] = '1'
  end
  at = at + 2 * size
end
redis.call('HSET', KEYS[3], 'version', string.format('%.0f', last))
redis.call('SET', KEYS[7], cjson.encode({call, answer}), 'EX', 3600)
return answer
"""

# ARGV: life of the lock in ms.
LEAD: Final = f"""
if redis.call('EXISTS', KEYS[4]) == 1 then return '0' end
local token = string.format('%.0f', redis.call('HINCRBY', KEYS[3], 'token', 1))
redis.call('SET', KEYS[4], token, 'PX', ARGV[1])
redis.pcall('XGROUP', 'CREATE', KEYS[2], '{GROUP}', '0', 'MKSTREAM')
return token
"""

# ARGV: token, life of the lock in ms.
RENEW: Final = _LEADING + "return redis.call('PEXPIRE', KEYS[4], ARGV[2])"
RESIGN: Final = _LEADING + "return redis.call('DEL', KEYS[4])"

# ARGV: token, life of the lock in ms, number of new entries, cursor, entries and keys that are held already.
# With a cursor, what others had been given is claimed: they are dead or deposed, for we lead. Who has nothing left then
# is forgotten; a consumer that still has entries is not, for they would be lost with it.
TAKE: Final = (
    _LEADING
    + f"""
redis.call('PEXPIRE', KEYS[4], ARGV[2])
local count, cursor, found = tonumber(ARGV[3]), ARGV[4], {{}}
local function add(entry, key)
  local value = redis.call('HGET', KEYS[1], key)
  if value then
    found[#found + 1] = {{entry, key, value, tonumber(redis.call('HGET', KEYS[5], key) or '0')}}
  else
    redis.call('XACK', KEYS[2], '{GROUP}', entry)
    redis.call('XDEL', KEYS[2], entry)
  end
end
for n = 5, #ARGV, 2 do add(ARGV[n], ARGV[n + 1]) end
if cursor ~= '' and count > 0 then
  local claimed = redis.call('XAUTOCLAIM', KEYS[2], '{GROUP}', ARGV[1], '0', cursor, 'COUNT', count)
  cursor = claimed[1]
  for _, entry in ipairs(claimed[2]) do
    if entry[2] then add(entry[1], entry[2][2]) end
  end
  if cursor == '0-0' then
    cursor = ''
    for _, consumer in ipairs(redis.call('XINFO', 'CONSUMERS', KEYS[2], '{GROUP}')) do
      if consumer[4] == 0 and consumer[2] ~= ARGV[1] then
        redis.call('XGROUP', 'DELCONSUMER', KEYS[2], '{GROUP}', consumer[2])
      end
    end
  end
elseif count > 0 then
  local read = redis.call('XREADGROUP', 'GROUP', '{GROUP}', ARGV[1], 'COUNT', count, 'STREAMS', KEYS[2], '>')
  if read then
    for _, entry in ipairs(read[1][2]) do add(entry[1], entry[2][2]) end
  end
end
return {{cursor, found}}
"""
)

# ARGV: token, then entry, key and version of each. An entry that was removed already is one of a call repeated.
DONE: Final = (
    _LEADING
    + _IS
    + f"""
for n = 2, #ARGV, 3 do
  local entry, key, version = ARGV[n], ARGV[n + 1], ARGV[n + 2]
  if redis.call('XACK', KEYS[2], '{GROUP}', entry) == 1 then
    redis.call('XDEL', KEYS[2], entry)
    local kept, same = is(key, version)
    if same then
      redis.call('HDEL', KEYS[1], key)
      redis.call('HDEL', KEYS[5], key)
    elseif kept then
      redis.call('XADD', KEYS[2], '*', 'key', key)
    end
  end
end
return 1
"""
)

# ARGV: token, key, version.
FAILED: Final = (
    _LEADING
    + _IS
    + """
local _, same = is(ARGV[2], ARGV[3])
return same and redis.call('HINCRBY', KEYS[5], ARGV[2], 1) or 0
"""
)

# ARGV: token, then entry, key, version and what is kept of each. A newer write stays, as an entry held by who leads.
# The answer tells of each whether it is gone.
BURY: Final = (
    _LEADING
    + _IS
    + f"""
local gone = {{}}
for n = 2, #ARGV, 4 do
  local key = ARGV[n + 1]
  local _, same = is(key, ARGV[n + 2])
  if same then
    redis.call('XACK', KEYS[2], '{GROUP}', ARGV[n])
    redis.call('XDEL', KEYS[2], ARGV[n])
    redis.call('HDEL', KEYS[1], key)
    redis.call('HDEL', KEYS[5], key)
    redis.call('HSET', KEYS[6], key, ARGV[n + 3])
  end
  gone[#gone + 1] = same and 1 or 0
end
return gone
"""
)

# ARGV: key, what is kept and "version:data" of each. Another write of the key may have been put aside meanwhile.
REPLAY: Final = """
local count = 0
for n = 1, #ARGV, 3 do
  if redis.call('HGET', KEYS[6], ARGV[n]) == ARGV[n + 1] then
    redis.call('HDEL', KEYS[6], ARGV[n])
    redis.call('HSET', KEYS[1], ARGV[n], ARGV[n + 2])
    redis.call('XADD', KEYS[2], '*', 'key', ARGV[n])
    count = count + 1
  end
end
return count
"""
