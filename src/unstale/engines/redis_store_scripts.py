"""The Lua scripts of the Redis engine for its store: locks, and the marks of a log that is another engine's."""

from __future__ import annotations

from typing import Final

from unstale.engines.redis_lua import LIVES, Script

# Marks of a log that is another engine's. KEYS: 1 what they cover, then marks.
# Answer: generation, first and last position covered, the marks.
FOREIGN_MARKS: Final = Script(
    LIVES,
    """
local has = redis.call('HMGET', KEYS[1], 'gen', 'start', 'upto', 'evicted')
local start, upto = tonumber(has[2] or 1), tonumber(has[3] or 0)
if has[1] then
  local evicted = string.match(redis.call('INFO', 'stats'), 'evicted_keys:(%w+)')
  if has[4] ~= evicted then
    start = upto + 1
    redis.call('HSET', KEYS[1], 'start', number(start), 'evicted', evicted)
  end
  start = settle(KEYS[1], clock(), start, upto)
end
return {has[1] or '', start, upto, #KEYS > 1 and redis.call('MGET', unpack(KEYS, 2)) or {}}
""",
)

# Compare and set: nothing is written unless what the marks and their range were computed from is still there.
# KEYS: 1 what they cover, then marks. ARGV: 1 to 3 the generation, start and upto that were seen, 4 to 6 the new ones,
# 7 life in ms, then for each mark what was seen ('' for none) and the new one.
EXTEND: Final = Script(
    LIVES,
    """
local has, now = redis.call('HMGET', KEYS[1], 'gen', 'start', 'upto'), clock()
local upto = tonumber(has[3] or 0)
local start, lives = settle(KEYS[1], now, tonumber(has[2] or 1), upto)
if (has[1] or '') ~= ARGV[1] or number(start) ~= ARGV[2] or number(upto) ~= ARGV[3] then return 0 end
for i = 2, #KEYS do
  local old = redis.pcall('GET', KEYS[i])
  if (type(old) == 'string' and old or '') ~= ARGV[4 + 2 * i] then return 0 end
end
local first, life = tonumber(ARGV[5]), math.max(1, math.floor(tonumber(ARGV[7])))
local ends = now + life
if ARGV[4] ~= ARGV[1] or first > upto + 1 then lives = {} end
if lives[1] then lives[1] = math.min(lives[1], first - 1) else upto = first - 1 end
extend(lives, upto, ends, life)
for i = 2, #KEYS do redis.call('SET', KEYS[i], ARGV[5 + 2 * i], 'PXAT', number(ends)) end
redis.call('HSET', KEYS[1], 'gen', ARGV[4], 'upto', ARGV[6])
note(KEYS[1], lives, first)
redis.call('HSETNX', KEYS[1], 'evicted', string.match(redis.call('INFO', 'stats'), 'evicted_keys:(%w+)'))
return 1
""",
)

# KEYS: 1 the lock, 2 the last token. ARGV: 1 life in ms. The token is a moment of the server's clock or one more than
# the last, whichever is higher: so it grows across a wipe as well.
LOCK: Final = Script(
    """
if redis.call('EXISTS', KEYS[1]) == 1 then return false end
local time = redis.call('TIME')
local token = math.max((tonumber(redis.call('GET', KEYS[2]) or 0) or 0) + 1, time[1] * 1000000 + time[2])
token = string.format('%.0f', token)
redis.call('SET', KEYS[2], token)
redis.call('SET', KEYS[1], token, 'PX', ARGV[1])
return token
"""
)

UNLOCK: Final = Script("if redis.call('GET', KEYS[1]) == ARGV[1] then return redis.call('DEL', KEYS[1]) end return 0")
