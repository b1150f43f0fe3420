"""What the Lua scripts of the Redis engine share: their form, who answers, and the account of how long marks live.

The server lets marks and entries expire by its wall clock, and that may be stepped: an entry can then outlive the mark
that ends it, and who asks would take the missing mark for "never invalidated" (H22):

1. The clock is an hour ahead, an entry is stored: it expires at T + 1 h + `ttl`.
2. The clock is set right. The entry is ended: its mark expires at T + 2 x `max_ttl`.
3. The clock, by itself or by another step, comes to where the mark has expired and the entry has not. A node joins.

So the hash that says which positions the marks cover says too, by ranges of positions, until when their marks live at
least: `lives`. Once a script has seen the clock beyond that, the range is covered no more, even if the clock goes back.
"""

from __future__ import annotations

import hashlib
from typing import Final

SHARE: Final = 32  # of the life of a mark: so much of the log lies in one range, as long as the clock is right
RANGES_MAX: Final = 40


class Script:
    """A script, by its text and by the digest under which the server keeps it.

    Args:
        body: What it does, after the functions that all share.
    """

    __slots__ = ("sha", "text")

    def __init__(self, *parts: str) -> None:
        self.text = "\n".join(part.strip() for part in parts) + "\n"
        self.sha = hashlib.sha1(self.text.encode(), usedforsecurity=False).hexdigest()


# `lives` is p1, e1, p2, e2, ...: marks of positions after p1, up to p2, live until e1 at least, those after the last p
# until the last e. Both grow from range to range. `due` is the first e and `until` the last: most calls need no more.
# Moments are milliseconds of the server's clock. Marks are written to expire at a moment, not after a time: so they
# live for as long as is noted.
LIVES: Final = """
local function number(value) return string.format('%.0f', value) end

local function clock()
  local time = redis.call('TIME')
  return time[1] * 1000 + math.floor(time[2] / 1000)
end

local function read_lives(key)
  local readable, lives = pcall(cmsgpack.unpack, redis.call('HGET', key, 'lives') or '')
  if not readable or type(lives) ~= 'table' or #lives % 2 == 1 then return {} end
  for i = 1, #lives do if type(lives[i]) ~= 'number' then return {} end end
  return lives
end

-- Takes off what has expired, and gives the first position that is covered: of what is in no range nothing is known.
local function expire(lives, now, start, upto)
  while lives[2] and lives[2] <= now do
    table.remove(lives, 1)
    table.remove(lives, 1)
  end
  return math.max(start, (lives[1] or upto) + 1)
end

-- Notes that marks of positions after `upto`, and maybe marks of before, are written anew, to expire at `ends`. If the
-- clock has gone back, that may be earlier than was noted: the noted moment comes down.
local function extend(lives, upto, ends, life)
  local after = upto
  while lives[2] and lives[#lives] > ends do
    table.remove(lives)
    after = table.remove(lives)
  end
  if not lives[2] or ends - lives[#lives] > life / SHARE then
    lives[#lives + 1] = after
    lives[#lives + 1] = ends
  end
  if #lives > 2 * RANGES_MAX then  -- the two oldest become one, and end as the first of them
    table.remove(lives, 3)
    table.remove(lives, 3)
  end
end

local function note(key, lives, start)
  redis.call('HSET', key, 'start', number(start), 'lives', cmsgpack.pack(lives),
    'due', lives[2] and number(lives[2]) or '', 'until', lives[2] and number(lives[#lives]) or '')
end

-- Takes off what has expired by now; gives the first position that is covered, and the rest of the ranges.
local function settle(key, now, start, upto)
  local lives = read_lives(key)
  local size, first = #lives, expire(lives, now, start, upto)
  if first ~= start or #lives ~= size then note(key, lives, first) end
  return first, lives
end
""".replace("SHARE", str(SHARE)).replace("RANGES_MAX", str(RANGES_MAX))

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
