"""Keys and scripts of what gateways add up in Redis. They live beside the layout of ``redis_scripts``:

    {turnout}:evidence         stream  fields replica, data; news of guards, read by the one that judges; expires
    {turnout}:flushed:REPLICA  string  number of the last flush that was taken in; expires
    {turnout}:totals:PLACE     hash    name -> sum over all gateways; expires
    {turnout}:lease            hash    fence, holder, beat, position (of the evidence that is judged); expires
    {turnout}:judged           hash    model -> what the judge keeps of it; expires

All of it may be deleted at any time: counts begin anew, and nothing that serves or guards depends on it. So what is not
of ours is taken away: a key of another type (``redis_side``), a sum that is no number, a lease without one.
"""

EVIDENCE = "{turnout}:evidence"
LEASE = "{turnout}:lease"
JUDGED = "{turnout}:judged"


def flushed_key(replica: str) -> str:
    """Where the number of a gateway's last flush is."""
    return f"{{turnout}}:flushed:{replica}"


def totals_key(place: str) -> str:
    """Where the sums of one thing are."""
    return f"{{turnout}}:totals:{place}"


# News of one gateway, once. KEYS flushed, evidence, totals of each place.
# ARGV replica, sequence, ms the mark is kept, evidence, entries kept, ms they are kept, ms totals are kept, then for
# each place: how many triples, and these: i (integer), f (float) or m (largest), name, value.
FLUSH = """
local seen = tonumber(redis.call('GET', KEYS[1]) or '')
if seen and seen >= tonumber(ARGV[2]) then return {0, 0} end
if ARGV[4] ~= '' then redis.call('XRANGE', KEYS[2], '0-0', '0-0') end
for k = 3, #KEYS do redis.call('HGET', KEYS[k], '') end -- of another type: an error before anything is written
local mended = 0
local function add(command, key, name, value)
  local reply = redis.pcall(command, key, name, value)
  if type(reply) ~= 'table' or not reply.err then return nil end
  if not string.find(reply.err, 'not an integer', 1, true) and not string.find(reply.err, 'not a float', 1, true) then
    return reply
  end
  redis.call('HSET', key, name, value)
  mended = mended + 1
end
redis.call('SET', KEYS[1], ARGV[2], 'PX', ARGV[3])
if ARGV[4] ~= '' then
  redis.call('XADD', KEYS[2], 'MAXLEN', '~', ARGV[5], '*', 'replica', ARGV[1], 'data', ARGV[4])
  redis.call('PEXPIRE', KEYS[2], ARGV[6])
end
local at = 8
for k = 3, #KEYS do
  local last = at + 3 * tonumber(ARGV[at])
  for i = at + 1, last, 3 do
    local kind, name, value = ARGV[i], ARGV[i + 1], ARGV[i + 2]
    local failed
    if kind == 'i' then
      failed = add('HINCRBY', KEYS[k], name, value)
    elseif kind == 'f' then
      failed = add('HINCRBYFLOAT', KEYS[k], name, value)
    else
      local held = tonumber(redis.call('HGET', KEYS[k], name) or '')
      if not held or held < tonumber(value) then redis.call('HSET', KEYS[k], name, value) end
    end
    if failed then return failed end
  end
  redis.call('PEXPIRE', KEYS[k], ARGV[7])
  at = last + 1
end
return {1, mended}
"""

# Take the lease from nobody, or from a holder whose beat has not moved; one that is not of ours is nobody's, and the
# next fence is then beyond any that was there. KEYS lease. ARGV holder, fence and beat as they
# were seen, ms it is kept.
TAKE = """
local function is_number(text) return text and #text < 16 and string.match(text, '^%d+$') end
local lease = redis.call('HMGET', KEYS[1], 'fence', 'holder', 'beat')
local is_ours = is_number(lease[1]) and is_number(lease[3])
if is_ours and lease[2] and lease[2] ~= '' and not (lease[1] == ARGV[2] and lease[3] == ARGV[3]) then return lease end
if lease[1] and not is_number(lease[1]) then redis.call('HSET', KEYS[1], 'fence', redis.call('TIME')[1]) end
local fence = redis.call('HINCRBY', KEYS[1], 'fence', 1)
redis.call('HSET', KEYS[1], 'holder', ARGV[1], 'beat', 0)
redis.call('PEXPIRE', KEYS[1], ARGV[4])
return {tostring(fence), ARGV[1], '0'}
"""

# Give it back; the fence stays, so that it never comes again. KEYS lease. ARGV holder, fence.
LEAVE = """
local lease = redis.call('HMGET', KEYS[1], 'holder', 'fence')
if lease[1] == ARGV[1] and lease[2] == ARGV[2] then redis.call('HSET', KEYS[1], 'holder', '') end
"""

# A sign of life, what was judged, and what there is to judge. KEYS lease, evidence, judged.
# ARGV holder, fence, ms all is kept, position judged, where to read from, entries, then model and state (empty: none).
BEAT = """
local lease = redis.call('HMGET', KEYS[1], 'holder', 'fence', 'beat')
if lease[1] ~= ARGV[1] or lease[2] ~= ARGV[2] then return {'lost', {}} end
if not string.match(lease[3] or '', '^%d+$') or #lease[3] > 15 then redis.call('HSET', KEYS[1], 'beat', 0) end
redis.call('HINCRBY', KEYS[1], 'beat', 1)
if ARGV[4] ~= '' then redis.call('HSET', KEYS[1], 'position', ARGV[4]) end
redis.call('PEXPIRE', KEYS[1], ARGV[3])
for i = 7, #ARGV, 2 do
  if ARGV[i + 1] == '' then
    redis.call('HDEL', KEYS[3], ARGV[i])
  else
    redis.call('HSET', KEYS[3], ARGV[i], ARGV[i + 1])
  end
end
redis.call('PEXPIRE', KEYS[3], ARGV[3])
return {'held', redis.call('XRANGE', KEYS[2], ARGV[5], '+', 'COUNT', ARGV[6])}
"""

# KEYS lease, judged.
JUDGED_SO_FAR = """
return {redis.call('HGET', KEYS[1], 'position') or '', redis.call('HGETALL', KEYS[2])}
"""

# KEYS totals of each place.
TOTALS = """
local found = {}
for k = 1, #KEYS do found[k] = redis.call('HGETALL', KEYS[k]) end
return found
"""
