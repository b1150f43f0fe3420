"""The Lua scripts of the Redis engine: each is one atomic step upon the log, its members or its marks.

Every script that answers for the log begins with `identify`: the log is another one, and so a new generation begins in
that very step, when its head is gone or when the server is not the one that wrote it (`master_replid` is new after
every restart and every promotion). No client can skip that, and none has to remember it (H10, H12).

Lua does not roll back. So whatever may fail, a key of a wrong type or a full memory, comes before the first change that
counts: the stream's entry is added before its id is noted and before the head is moved.
"""

from __future__ import annotations

from typing import Final

from unstale.engines.redis_lua import LIVES, SHARE, Script
from unstale.engines.redis_store_scripts import EXTEND, FOREIGN_MARKS, LOCK, UNLOCK

TRIM_STEP: Final = 64  # the log is trimmed when it is longer by so many records than it should be

# KEYS: 1 meta, 2 log, 3 ids, 4 members. ARGV: 1 an id for a generation that may have to begin.
IDENTIFY = """
local meta, log, ids, members, fresh = KEYS[1], KEYS[2], KEYS[3], KEYS[4], ARGV[1]

local function info(section, field)
  return string.match(redis.call('INFO', section), field .. ':(%w+)') or ''
end

local function identify()
  local server = info('replication', 'master_replid')
  local has = redis.call('HMGET', meta, 'gen', 'pos', 'id', 'server', 'start', 'evicted')
  local at, start = tonumber(has[2] or ''), tonumber(has[5] or '')
  if has[1] and at and has[3] and start and has[4] == server then return has[1], at, has[3], start, has[6] end
  local evicted = info('stats', 'evicted_keys')
  redis.call('DEL', log, ids, members)
  redis.call('HSET', meta, 'gen', fresh, 'pos', 0, 'id', '', 'server', server, 'start', 1, 'evicted', evicted,
    'replicas', 0, 'lives', '', 'due', '', 'until', '')
  return fresh, 0, '', 1, evicted
end

-- The most replicas that this generation was seen with: an isolated old primary has none any more, and must not be
-- taken for a server that never had any.
local function replicas()
  local most = tonumber(redis.call('HGET', meta, 'replicas') or 0)
  local now = tonumber(info('replication', 'connected_slaves'))
  if now > most then redis.call('HSET', meta, 'replicas', now) end
  return math.max(most, now)
end
"""

# A mark is `generation:position` for one hard invalidation without a version, by far the most; else `generation;` and
# a MessagePack array of eight: the hard severity's last, plain, version, timeline, and the soft one's. Versions are
# texts of 20 digits, since Lua's numbers have but 53 bits: value + 2^63.
RAISE = """
local function severity(m, at, position, version, timeline)
  local last = m[at]
  if position > last then m[at] = position end
  if version == '' then
    if position > m[at + 1] then m[at + 1] = position end
  elseif m[at + 2] == '' or m[at + 3] == timeline then
    if version > m[at + 2] then m[at + 2] = version end
    m[at + 3] = timeline
  else
    if last > m[at + 1] then m[at + 1] = last end
    m[at + 2], m[at + 3] = version, timeline
  end
end

local function raise(key, gen, position, soft, version, timeline, ends)
  local old = redis.pcall('GET', key)
  local kind, rest
  if type(old) == 'string' and string.sub(old, 1, #gen) == gen then
    kind, rest = string.sub(old, #gen + 1, #gen + 1), string.sub(old, #gen + 2)
  end
  if not soft and version == '' and kind ~= ';' then
    redis.call('SET', key, gen .. ':' .. number(position), 'PXAT', ends)
    return
  end
  local m = {0, 0, '', '', 0, 0, '', ''}
  if kind then  -- what nobody of us wrote ends everything so far (H29)
    local readable, eight = pcall(cmsgpack.unpack, rest)
    m[1], m[2] = tonumber(rest) or position - 1, tonumber(rest) or position - 1
    if kind == ';' and readable and type(eight) == 'table' and #eight == 8 then m = eight end
  end
  severity(m, soft and 5 or 1, position, version, timeline)
  redis.call('SET', key, gen .. ';' .. cmsgpack.pack(m), 'PXAT', ends)
end
"""

# One record at its place; a known id keeps the place that it has, if the log still has it.
PUBLISH = """
local gen, position, last, start = identify()
local told, now = redis.call('HMGET', meta, 'life', 'due', 'until'), clock()
local life = math.floor(math.max(1, tonumber(ARGV[3]), tonumber(told[1] or 0)))
local ends, due, latest = now + life, tonumber(told[2] or ''), tonumber(told[3] or '')
if not (due and latest and now < due and latest <= ends and ends - latest <= life / SHARE) then
  local lives = read_lives(meta)
  start = expire(lives, now, start, position)
  extend(lives, position, ends, life)
  note(meta, lives, start)  -- before the records: without them it promises nothing
end
local answer
ends, answer = number(ends), {gen}

local function publish(id, data)
  local known = redis.call('HGET', ids, id)
  if known then
    local entry = redis.call('XRANGE', log, known .. '-0', known .. '-0')[1]
    if entry then
      answer[#answer + 1] = tonumber(known)
      answer[#answer + 1] = entry[2][4]
      return false
    end
  end
  local at = number(position + 1)
  redis.call('XADD', log, at .. '-0', 'i', id, 'p', last, 'd', data)
  redis.call('HSET', ids, id, at)
  answer[#answer + 1] = position + 1
  answer[#answer + 1] = last
  position, last = position + 1, id
  return true
end

local function close()
  redis.call('HSET', meta, 'pos', number(position), 'id', last)
  local surplus = redis.call('XLEN', log) - tonumber(ARGV[2])
  if surplus >= TRIM_STEP then
    local first = number(position - tonumber(ARGV[2]) + 1) .. '-0'
    repeat
      local old = redis.call('XRANGE', log, '-', '(' .. first, 'COUNT', 500)
      for _, entry in ipairs(old) do redis.call('HDEL', ids, entry[2][2]) end
      redis.call('XTRIM', log, 'MINID', #old < 500 and first or old[500][1])
    until #old < 500
  end
  answer[#answer + 1] = position
  answer[#answer + 1] = last
  return answer
end
""".replace("TRIM_STEP", str(TRIM_STEP)).replace("SHARE", str(SHARE))

# ARGV: 2 records kept at most, 3 life of a mark in ms; then for each record: its id, its bytes, `h` or `s`, its
# version, the version's timeline, the number of its scopes, and for each of these the index of its mark among the KEYS.
# Answer: generation; for each record its position and the id before it; the head and the id of the record there.
APPEND = Script(
    LIVES,
    IDENTIFY,
    RAISE,
    PUBLISH,
    """
local at = 4
while at <= #ARGV do
  local added = publish(ARGV[at], ARGV[at + 1])
  local count = tonumber(ARGV[at + 5])
  if added then
    for i = at + 6, at + 5 + count do
      raise(KEYS[tonumber(ARGV[i])], gen, position, ARGV[at + 2] == 's', ARGV[at + 3], ARGV[at + 4], ends)
    end
  end
  at = at + 6 + count
end
return close()
""",
)

# For other languages: one hard or soft invalidation. KEYS from 5 on: the marks of its scopes. ARGV: 2 and 3 as above,
# 4 the record's id, 5 `h` or `s`, 6 who, 7 why. The scopes are what follows the marks' prefix, ARGV 8, in their keys.
INVALIDATE = Script(
    LIVES,
    IDENTIFY,
    RAISE,
    PUBLISH,
    """
local scopes, soft = {}, ARGV[5] == 's'
for i = 5, #KEYS do scopes[#scopes + 1] = string.sub(KEYS[i], #ARGV[8] + 1) end
if #scopes == 0 then return redis.error_reply('ERR an invalidation names at least one scope') end
local record = {ARGV[4], scopes, soft, cjson.null, cjson.null, '', false, ARGV[6], ARGV[7]}
if publish(ARGV[4], cmsgpack.pack({1, 'i', record})) then
  for i = 5, #KEYS do raise(KEYS[i], gen, position, soft, '', '', ends) end
end
return close()
""",
)

# What a poll asks beside the records: it renews the membership, then tells the head (H36). ARGV: 2 the node, 3 what it
# tells, 4 its bound in ms, 5 life of its entries in ms; who tells about itself: KEYS 5 where, ARGV 6 what, 7 its life.
# And it takes note of what expires, should the clock not stay where it is: nodes poll all the time.
# Answer: generation, head, its id, replicas as below, the list's id, 1 if it was not on the list.
RENEW = Script(
    "#!lua flags=allow-oom",  # a full memory must not cost the leases
    LIVES,
    IDENTIFY,
    """
local gen, position, last, start = identify()
local new = redis.call('HSET', members, 'n' .. ARGV[2], ARGV[3])
if ARGV[6] then redis.call('SET', KEYS[5], ARGV[6], 'PX', ARGV[7]) end
redis.call('HSETNX', members, 'list', fresh)
local told, now = redis.call('HMGET', meta, 'bound', 'life', 'due'), clock()
if tonumber(ARGV[4]) > tonumber(told[1] or 0) then redis.call('HSET', meta, 'bound', ARGV[4]) end
if tonumber(ARGV[5]) > tonumber(told[2] or 0) then redis.call('HSET', meta, 'life', ARGV[5]) end
if now >= (tonumber(told[3] or '') or math.huge) then settle(meta, now, start, position) end
return {gen, position, last, replicas(), redis.call('HGET', members, 'list'), new}
""",
)

# ARGV: 2 not empty to write as well, so that an acknowledgement by replicas says that they still follow this server.
# Answer: generation, head, its id, the most replicas that this generation was seen with.
HEAD = Script(
    IDENTIFY,
    """
local gen, position, last = identify()
if ARGV[2] ~= '' then redis.call('HINCRBY', meta, 'beat', 1) end
return {gen, position, last, replicas()}
""",
)

# Answer: generation, head, its id, the largest bound ever told in ms, then names and values of the members' hash.
MEMBERS = Script(
    "#!lua flags=allow-oom",  # polls read it now and then
    IDENTIFY,
    """
local gen, position, last = identify()
redis.call('HSETNX', members, 'list', fresh)
return {gen, position, last, redis.call('HGET', meta, 'bound') or '0', redis.call('HGETALL', members)}
""",
)

# Takes off a member that has not spoken since. KEYS: 1 members, 2 about it. ARGV: 1 the field, 2 what it said last.
FORGET = Script("""if redis.call('HGET', KEYS[1], ARGV[1]) == ARGV[2] then
redis.call('HDEL', KEYS[1], ARGV[1]) redis.call('DEL', KEYS[2]) end""")

# KEYS from 5 on: marks. ARGV: 2 as above. Marks that may have been evicted say nothing (H14): when the server has
# evicted anything since it was last looked at, the range that they cover begins anew, above the head.
# Answer: generation, head, its id, the first position that the marks cover, the marks.
MARKS = Script(
    LIVES,
    IDENTIFY,
    """
local gen, position, last, start, evicted = identify()
if ARGV[2] ~= '' then redis.call('HINCRBY', meta, 'beat', 1) end
local now = info('stats', 'evicted_keys')
if now ~= evicted then
  start = position + 1
  redis.call('HSET', meta, 'start', number(start), 'evicted', now)
end
start = settle(meta, clock(), start, position)
return {gen, position, last, start, #KEYS > 4 and redis.call('MGET', unpack(KEYS, 5)) or {}}
""",
)

BY_SHA: Final = {
    script.sha: script
    for script in (APPEND, INVALIDATE, RENEW, HEAD, MEMBERS, FORGET, MARKS, FOREIGN_MARKS, EXTEND, LOCK, UNLOCK)
}
