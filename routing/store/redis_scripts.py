"""How turnout lays itself out in Redis, and the scripts that keep it whole.

All keys share the hash tag ``{turnout}``, so that one script may touch them on a cluster too:

    {turnout}:meta             hash    layout (version of this page), store_id, sequence (changes so far)
    {turnout}:routes           hash    model -> "REVISION HEAD_SHA256\\n" and the document's bytes
    {turnout}:history:MODEL    zset    score: revision, member: encoded history entry
    {turnout}:changes          stream  id SEQUENCE-0, fields model, revision, store, at (in us); dense ids show a gap
    {turnout}:void:ATTEMPT     string  an attempt that was given up and must not happen any more; expires
    {turnout}:presence         hash    replica -> "EXPIRES_MS " by the server's clock, and what it says; expires whole

Delete all of it or nothing. Documents and entries are opaque to the scripts.
"""

LAYOUT = 1
META = "{turnout}:meta"
ROUTES = "{turnout}:routes"
CHANGES = "{turnout}:changes"
PRESENCE = "{turnout}:presence"


def history_key(model: str) -> str:
    """Where a route's history is."""
    return f"{{turnout}}:history:{model}"


def void_key(attempt: str) -> str:
    """The mark on an attempt that was given up."""
    return f"{{turnout}}:void:{attempt}"


# Who holds the contents; a new or flushed store gets an identity. KEYS meta. ARGV layout, fresh store_id.
IDENTIFY = """
if redis.call('EXISTS', KEYS[1]) == 0 then
  redis.call('HSET', KEYS[1], 'layout', ARGV[1], 'store_id', ARGV[2], 'sequence', 0)
end
return redis.call('HMGET', KEYS[1], 'layout', 'store_id', 'sequence')
"""

# The one write. KEYS meta, routes, history, changes, void.
# ARGV layout, fresh store_id, model, expected, revision, record, entry, changes to keep.
COMPARE_AND_SET = """
if redis.call('EXISTS', KEYS[1]) == 0 then
  redis.call('HSET', KEYS[1], 'layout', ARGV[1], 'store_id', ARGV[2], 'sequence', 0)
end
local meta = redis.call('HMGET', KEYS[1], 'layout', 'store_id')
if meta[1] ~= ARGV[1] then return {'layout', meta[1]} end
if redis.call('EXISTS', KEYS[5]) == 1 then return {'void'} end
local held = redis.call('HGET', KEYS[2], ARGV[3])
local current = held and string.match(held, '^%d+') or '0'
if current ~= ARGV[4] then
  local past = redis.call('ZRANGEBYSCORE', KEYS[3], ARGV[5], ARGV[5])
  return {'stale', current, past[1] or ''}
end
local time = redis.call('TIME')
local sequence = string.format('%.0f', redis.call('HINCRBY', KEYS[1], 'sequence', 1))
redis.call('XADD', KEYS[4], 'MAXLEN', '~', ARGV[8], sequence .. '-0',
           'model', ARGV[3], 'revision', ARGV[5], 'store', meta[2],
           'at', string.format('%.0f', time[1] * 1000000 + time[2]))
redis.call('ZADD', KEYS[3], ARGV[5], ARGV[7])
redis.call('HSET', KEYS[2], ARGV[3], ARGV[6])
return {'done'}
"""

# After a lost reply: did it happen? If not, it never will, even if the command is still on its way.
# KEYS routes, history, void. ARGV model, revision, seconds to remember.
SETTLE = """
redis.call('SET', KEYS[3], '', 'EX', ARGV[3])
local held = redis.call('HGET', KEYS[1], ARGV[1])
local past = redis.call('ZRANGEBYSCORE', KEYS[2], ARGV[2], ARGV[2])
return {held and string.match(held, '^%d+') or '0', past[1] or ''}
"""

# A replica is alive. KEYS presence. ARGV replica, what it says, milliseconds (0 takes it away), milliseconds that it is
# told of after that. Answers the time in microseconds.
PUT_PRESENCE = """
if ARGV[3] == '0' then
  redis.call('HDEL', KEYS[1], ARGV[1])
  return
end
local time = redis.call('TIME')
local expires_ms = time[1] * 1000 + math.floor(time[2] / 1000) + ARGV[3]
redis.call('HSET', KEYS[1], ARGV[1], string.format('%.0f ', expires_ms) .. ARGV[2])
redis.call('PEXPIRE', KEYS[1], ARGV[3] + ARGV[4])
return string.format('%.0f', time[1] * 1000000 + time[2])
"""

# How many words were not of ours and were taken away; then what replicas said, and how many milliseconds it still
# counts. Forgets those that are silent for too long. KEYS presence. ARGV milliseconds, the most that a word may count.
WORDS = """
local time = redis.call('TIME')
local now_ms = time[1] * 1000 + math.floor(time[2] / 1000)
local words = {0}
local flat = redis.call('HGETALL', KEYS[1])
for i = 1, #flat, 2 do
  local expires_ms, data = string.match(flat[i + 1], '^(%d+) (.*)$')
  if not expires_ms or #expires_ms > 15 or tonumber(expires_ms) > now_ms + ARGV[2] then
    redis.call('HDEL', KEYS[1], flat[i])
    words[1] = words[1] + 1
  elseif tonumber(expires_ms) > now_ms - ARGV[1] then
    words[#words + 1] = flat[i]
    words[#words + 1] = data
    words[#words + 1] = string.format('%.0f', tonumber(expires_ms) - now_ms)
  else
    redis.call('HDEL', KEYS[1], flat[i])
  end
end
return words
"""
