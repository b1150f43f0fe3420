"""The Lua scripts of the Redis engine: each is one atomic step upon the log, its members or its marks.

Every script that answers for the log begins with `identify`: the log is another one, and so a new generation begins in
that very step, when its head is gone or when the server is not the one that wrote it (`master_replid` is new after
every restart and every promotion). No client can skip that, and none has to remember it (H10, H12).

Lua does not roll back. So whatever may fail, a key of a wrong type or a full memory, comes before the first change that
counts: the stream's entry is added before the head is moved, and an id that is noted means nothing without its entry.
"""

from __future__ import annotations

from typing import Final

from unstale.engines.redis_lua import LIVES, SHARE, Script
from unstale.engines.redis_store_scripts import EXTEND, FOREIGN_MARKS, LOCK, UNLOCK

TRIM_STEP: Final = 64  # once in so many records the log is trimmed, if it is longer than it should be

# KEYS: 1 meta, 2 log, 3 ids, 4 members. ARGV: 1 an id for a generation that may have to begin.
IDENTIFY = """
local meta, log, ids, members, fresh = KEYS[1], KEYS[2], KEYS[3], KEYS[4], ARGV[1]
local sections = {}

-- The text of a section costs the server as much as several commands do: it is made once a script.
local function info(section, field)
  sections[section] = sections[section] or redis.call('INFO', section)
  return string.match(sections[section], field .. ':(%w+)') or ''
end

-- Answer: generation, head, the id of the record there, the first position that the marks cover, and what else the
-- log's own hash holds, by name: one command reads all.
local function identify()
  local server = info('replication', 'master_replid')
  local has = redis.call('HMGET', meta, 'gen', 'pos', 'id', 'server', 'start', 'evicted', 'replicas', 'bound', 'life',
    'due', 'until')
  local at, start = tonumber(has[2] or ''), tonumber(has[5] or '')
  local rest = {evicted = has[6], replicas = tonumber(has[7] or 0), bound = tonumber(has[8] or 0),
    life = tonumber(has[9] or 0), due = tonumber(has[10] or ''), latest = tonumber(has[11] or '')}
  if has[1] and at and has[3] and start and has[4] == server then return has[1], at, has[3], start, rest end
  rest.evicted, rest.replicas, rest.due, rest.latest = info('stats', 'evicted_keys'), 0, nil, nil
  redis.call('DEL', log, ids, members)
  redis.call('HSET', meta, 'gen', fresh, 'pos', 0, 'id', '', 'server', server, 'start', 1, 'evicted', rest.evicted,
    'replicas', 0, 'lives', '', 'due', '', 'until', '')
  return fresh, 0, '', 1, rest
end

-- The most replicas that this generation was seen with: an isolated old primary has none any more, and must not be
-- taken for a server that never had any.
local function replicas(most)
  local now = tonumber(info('replication', 'connected_slaves'))
  if now > most then redis.call('HSET', meta, 'replicas', now) end
  return math.max(most, now)
end
"""

# A mark is `generation:position` for one hard invalidation without a version, by far the most; else `generation;` and
# a MessagePack array of eight: the hard severity's last, plain, version, timeline, and the soft one's. Versions are
# texts of 20 digits, since Lua's numbers have but 53 bits: value + 2^63.
RAISE = """
local call, attempt, format = redis.call, redis.pcall, string.format  -- each record looks them up several times
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
  local plain = format('%s:%d', gen, position)
  local old
  if soft or version ~= '' then
    old = attempt('GET', key)
  else  -- most marks need no more than this one command
    old = attempt('SET', key, plain, 'PXAT', ends, 'GET')
    if not old then return end
    if type(old) == 'table' then call('SET', key, plain, 'PXAT', ends) end
  end
  local kind, rest
  if type(old) == 'string' and string.sub(old, 1, #gen) == gen then
    kind, rest = string.sub(old, #gen + 1, #gen + 1), string.sub(old, #gen + 2)
  end
  if not soft and version == '' and kind ~= ';' then return end
  local m = {0, 0, '', '', 0, 0, '', ''}
  if kind then  -- what nobody of us wrote ends everything so far (H29)
    local readable, eight = pcall(cmsgpack.unpack, rest)
    m[1], m[2] = tonumber(rest) or position - 1, tonumber(rest) or position - 1
    if kind == ';' and readable and type(eight) == 'table' and #eight == 8 then m = eight end
  end
  severity(m, soft and 5 or 1, position, version, timeline)
  call('SET', key, gen .. ';' .. cmsgpack.pack(m), 'PXAT', ends)
end
"""

# One record at its place; a known id keeps the place that it has, if the log still has it.
PUBLISH = """
local gen, position, last, start, rest = identify()
local began, now, due, latest = position, clock(), rest.due, rest.latest
local life = math.floor(math.max(1, tonumber(ARGV[3]), rest.life))
local ends = now + life
if not (due and latest and now < due and latest <= ends and ends - latest <= life / SHARE) then
  local lives = read_lives(meta)
  start = expire(lives, now, start, position)
  extend(lives, position, ends, life)
  note(meta, lives, start)  -- before the records: without them it promises nothing
end
local answer, told
ends, answer, told = number(ends), {gen}, 1

local function publish(id, data)
  local at = format('%d', position + 1)  -- the stream completes it: 42-0
  if call('HSETNX', ids, id, at) == 0 then
    local known = call('HGET', ids, id)
    local entry = call('XRANGE', log, known .. '-0', known .. '-0')[1]
    if entry and entry[2][2] == id then
      answer[told + 1], answer[told + 2], told = tonumber(known), entry[2][4], told + 2
      return false
    end
    call('HSET', ids, id, at)
  end
  local added = attempt('XADD', log, at, 'i', id, 'p', last, 'd', data)
  if type(added) == 'table' then
    call('HDEL', ids, id)  -- nobody would ever take it off
    call('XADD', log, at, 'i', id, 'p', last, 'd', data)  -- to fail as it did
  end
  answer[told + 1], answer[told + 2], told = position + 1, last, told + 2
  position, last = position + 1, id
  return true
end

local function close()
  redis.call('HSET', meta, 'pos', number(position), 'id', last)
  local step = math.floor(position / TRIM_STEP) > math.floor(began / TRIM_STEP)
  if step and redis.call('XLEN', log) > tonumber(ARGV[2]) then
    local first = number(position - tonumber(ARGV[2]) + 1) .. '-0'
    repeat
      local old = redis.call('XRANGE', log, '-', '(' .. first, 'COUNT', 500)
      local gone = {}
      for i, entry in ipairs(old) do gone[i] = entry[2][2] end
      if gone[1] then redis.call('HDEL', ids, unpack(gone)) end
      redis.call('XTRIM', log, 'MINID', #old < 500 and first or old[500][1])
    until #old < 500
  end
  answer[told + 1], answer[told + 2] = position, last
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

# One hard record, and the entries that it makes good, if the head is where its writer knows it to be. ARGV: 2 and 3 as
# above, 4 generation, 5 head, 6 the record's id, 7 its bytes, 8 the number of its marks, the KEYS from 5 on; then for
# each entry, the KEYS after these, its bytes and its life in ms, 0 to drop it. Answer: as above, or without the second
# and third. The record comes first: an entry that could not be written is missing, nobody would end one without it.
PUT = Script(
    LIVES,
    IDENTIFY,
    RAISE,
    PUBLISH,
    """
if redis.call('HEXISTS', ids, ARGV[6]) == 0 and (gen ~= ARGV[4] or number(position) ~= ARGV[5]) then
  return {gen, position, last}
end
if publish(ARGV[6], ARGV[7]) then
  local marks = tonumber(ARGV[8])
  for i = 5, 4 + marks do raise(KEYS[i], gen, position, false, '', '', ends) end
  close()
  for i = 5 + marks, #KEYS do
    local at = 9 + 2 * (i - 5 - marks)
    local dropped = ARGV[at + 1] == '0'
    if dropped then redis.call('UNLINK', KEYS[i]) else redis.call('SET', KEYS[i], ARGV[at], 'PX', ARGV[at + 1]) end
  end
  return answer
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
local gen, position, last, start, rest = identify()
local new = redis.call('HSET', members, 'n' .. ARGV[2], ARGV[3])
if ARGV[6] then redis.call('SET', KEYS[5], ARGV[6], 'PX', ARGV[7]) end
local list = redis.call('HGET', members, 'list')
if not list then
  list = fresh
  redis.call('HSET', members, 'list', list)
end
if tonumber(ARGV[4]) > rest.bound then redis.call('HSET', meta, 'bound', ARGV[4]) end
if tonumber(ARGV[5]) > rest.life then redis.call('HSET', meta, 'life', ARGV[5]) end
local now = rest.due and clock()
if now and now >= rest.due then settle(meta, now, start, position) end
return {gen, position, last, replicas(rest.replicas), list, new}
""",
)

# ARGV: 2 not empty to write as well, so that an acknowledgement by replicas says that they still follow this server.
# Answer: generation, head, its id, the most replicas that this generation was seen with.
HEAD = Script(
    IDENTIFY,
    """
local gen, position, last, _, rest = identify()
if ARGV[2] ~= '' then redis.call('HINCRBY', meta, 'beat', 1) end
return {gen, position, last, replicas(rest.replicas)}
""",
)

# Answer: generation, head, its id, the largest bound ever told in ms, then names and values of the members' hash.
MEMBERS = Script(
    "#!lua flags=allow-oom",  # polls read it now and then
    IDENTIFY,
    """
local gen, position, last, _, rest = identify()
redis.call('HSETNX', members, 'list', fresh)
return {gen, position, last, string.format('%.0f', rest.bound), redis.call('HGETALL', members)}
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
local gen, position, last, start, rest = identify()
if ARGV[2] ~= '' then redis.call('HINCRBY', meta, 'beat', 1) end
local now = info('stats', 'evicted_keys')
if now ~= rest.evicted then
  start = position + 1
  redis.call('HSET', meta, 'start', number(start), 'evicted', now)
end
start = settle(meta, clock(), start, position)
return {gen, position, last, start, #KEYS > 4 and redis.call('MGET', unpack(KEYS, 5)) or {}}
""",
)

BY_SHA: Final = {
    script.sha: script
    for script in (APPEND, PUT, INVALIDATE, RENEW, HEAD, MEMBERS, FORGET, MARKS, FOREIGN_MARKS, EXTEND, LOCK, UNLOCK)
}
