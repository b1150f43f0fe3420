"""The Lua scripts of the Redis engine: each is one atomic step upon the log, its members or its marks.

Every script that answers for the log begins with `identify`: the log is another one, and so a new generation begins in
that very step, when its head is gone or when the server is not the one that wrote it (`master_replid` is new after
every restart and every promotion). No client can skip that, and none has to remember it (H10, H12).
"""

from __future__ import annotations

from typing import Final

from unstale.engines.redis_append_scripts import APPEND, APPEND_PLAIN, INVALIDATE, PUT
from unstale.engines.redis_lua import IDENTIFY, LIVES, Script
from unstale.engines.redis_store_scripts import EXTEND, FOREIGN_MARKS, LOCK, UNLOCK

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
    for script in (
        *(APPEND, APPEND_PLAIN, PUT, INVALIDATE, RENEW, HEAD, MEMBERS, FORGET, MARKS),
        *(FOREIGN_MARKS, EXTEND, LOCK, UNLOCK),
    )
}
