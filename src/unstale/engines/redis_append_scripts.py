"""The Lua scripts of the Redis engine that append to the log, each in one atomic step.

Lua does not roll back. So whatever may fail, a key of a wrong type or a full memory, comes before the first change that
counts: the stream's entry is added before the head is moved, and an id that is noted means nothing without its entry.
"""

from __future__ import annotations

from typing import Final

from unstale.engines.redis_lua import IDENTIFY, LIVES, SHARE, Script

TRIM_STEP: Final = 64  # once in so many records the log is trimmed, if it is longer than it should be

# A mark is `generation:position` for one hard invalidation without a version, by far the most; else `generation;` and
# a MessagePack array of eight: the hard severity's last, plain, version, timeline, and the soft one's. Versions are
# texts of 20 digits, since Lua's numbers have but 53 bits: value + 2^63.
RAISE = """
local call, attempt, format = redis.call, redis.pcall, string.format  -- each record looks them up several times
local byte, SEMICOLON = string.byte, 59
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
    if type(old) == 'string' and byte(old, #gen + 1) ~= SEMICOLON then return end
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

-- Adds the next record. Should that fail, the ids that are noted already are taken off: nobody would ever do it.
local function add(id, data, at, from, upto)
  local added = attempt('XADD', log, at, 'i', id, 'p', last, 'd', data)
  if type(added) == 'table' then
    call('HDEL', ids, unpack(ARGV, from, upto))
    call('XADD', log, at, 'i', id, 'p', last, 'd', data)  -- to fail as it did
  end
  position, last = position + 1, id
end

local function publish(from, data)  -- the id's place among the ARGV
  local id, at = ARGV[from], format('%d', position + 1)  -- the stream completes it: 42-0
  if call('HSETNX', ids, id, at) == 0 then
    local known = call('HGET', ids, id)
    local entry = call('XRANGE', log, known .. '-0', known .. '-0')[1]
    if entry and entry[2][2] == id then
      answer[told + 1], answer[told + 2], told = tonumber(known), entry[2][4], told + 2
      return false
    end
    call('HSET', ids, id, at)
  end
  answer[told + 1], answer[told + 2], told = position + 1, last, told + 2
  add(id, data, at, from, from)
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
  local added = publish(at, ARGV[at + 1])
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

# The same for many hard records without versions, by fewer commands. ARGV: 2 and 3 as above, 4 the number of records;
# then the ids of all, the bytes of all, and of each the number of its scopes, whose marks follow in the KEYS from 5 on.
# Answer: as above; or, if all are new, of the first record alone, since each next one follows the one before it.
APPEND_PLAIN = Script(
    LIVES,
    IDENTIFY,
    RAISE,
    PUBLISH,
    """
local count, noted, new = tonumber(ARGV[4]), {}, true
local known = call('HMGET', ids, unpack(ARGV, 5, 4 + count))
for i = 1, count do
  new = new and not known[i]
  noted[2 * i - 1], noted[2 * i] = ARGV[4 + i], format('%d', position + i)
end
new = new and call('HSET', ids, unpack(noted)) == count  -- else one is there twice, and all are looked at one by one
if new then answer[2], answer[3], told = position + 1, last, 3 end
local mark = 5
for i = 1, count do
  local added, data = true, ARGV[4 + count + i]
  if new then
    add(noted[2 * i - 1], data, noted[2 * i], 4 + i, 4 + count)
  else
    added = publish(4 + i, data)
  end
  local after = mark + tonumber(ARGV[4 + 2 * count + i])
  for at = mark, after - 1 do
    if added then raise(KEYS[at], gen, position, false, '', '', ends) end
  end
  mark = after
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
if publish(6, ARGV[7]) then
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
if publish(4, cmsgpack.pack({1, 'i', record})) then
  for i = 5, #KEYS do raise(KEYS[i], gen, position, soft, '', '', ends) end
end
return close()
""",
)
