"""Keys and scripts of what gateways add up in Redis. They live beside the layout of ``redis_scripts``:

    {turnout}:evidence         stream  fields replica, data; news of guards, read by the one that judges; expires
    {turnout}:flushed:REPLICA  string  number of the last flush that was taken in; expires
    {turnout}:totals:PLACE     hash    name -> sum over all gateways; expires
    {turnout}:lease            hash    fence, holder, beat, position (of the evidence that is judged); expires
    {turnout}:judged           hash    model -> what the judge keeps of it; expires

All of it may be deleted at any time: counts begin anew, and nothing that serves or guards depends on it. So what is not
of ours is taken away: a key of another type (``redis_side``), a sum that is no count, a lease without one, a stream
whose last id is used up or that ends before what was judged of it.
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
# each place: how many triples, and these: i (integer), f (float) or m (largest), name, value. A stream that takes no
# further id is begun again. Answers whether it was new, sums that were none, and whether the stream was begun again.
FLUSH = """
local seen = tonumber(redis.call('GET', KEYS[1]) or '')
if seen and seen >= tonumber(ARGV[2]) then return {0, 0, 0} end
if ARGV[4] ~= '' then redis.call('XRANGE', KEYS[2], '0-0', '0-0') end
for k = 3, #KEYS do redis.call('HGET', KEYS[k], '') end -- of another type: an error before anything is written
local mended, begun = 0, 0
local function is_count(kind, text) -- anything else is none that was added up, or would overflow
  if kind == 'i' then return #text < 16 and string.match(text, '^%d+$') end
  local number = string.match(text, '^[%d.e+-]+$') and tonumber(text)
  return number and number >= 0 and number < 1e300
end
local function held_in(key, kind, name)
  local held = redis.call('HGET', key, name)
  if not held or is_count(kind, held) then return held end
  redis.call('HSET', key, name, 0)
  mended = mended + 1
end
redis.call('SET', KEYS[1], ARGV[2], 'PX', ARGV[3])
if ARGV[4] ~= '' then
  local entry = {'XADD', KEYS[2], 'MAXLEN', '~', ARGV[5], '*', 'replica', ARGV[1], 'data', ARGV[4]}
  local added = redis.pcall(unpack(entry))
  if type(added) == 'table' and added.err then
    if not string.find(added.err, 'exhausted', 1, true) and not string.find(added.err, 'top item', 1, true) then
      return added
    end
    redis.call('PEXPIRE', KEYS[2], 0)
    redis.call(unpack(entry))
    begun = 1
  end
  redis.call('PEXPIRE', KEYS[2], ARGV[6])
end
local at = 8
for k = 3, #KEYS do
  local last = at + 3 * tonumber(ARGV[at])
  for i = at + 1, last, 3 do
    local kind, name, value = ARGV[i], ARGV[i + 1], ARGV[i + 2]
    local held = held_in(KEYS[k], kind, name)
    if kind == 'i' then
      redis.call('HINCRBY', KEYS[k], name, value)
    elseif kind == 'f' then
      redis.call('HINCRBYFLOAT', KEYS[k], name, value)
    elseif not held or tonumber(held) < tonumber(value) then
      redis.call('HSET', KEYS[k], name, value)
    end
  end
  redis.call('PEXPIRE', KEYS[k], ARGV[7])
  at = last + 1
end
return {1, mended, begun}
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
# ARGV holder, fence, ms all is kept, position judged, the one to read after, entries, then model and state (empty:
# none). Answers held, entries and 0; 1 after a stream that takes no further id was begun again; 2 after one was that
# ends before the position, by the server's time where it is empty. Of such a stream nobody knows what was judged: it is
# not read again, so that nothing counts twice.
BEAT = """
local function padded(id)
  local ms, number = string.match(id, '^(%d+)-(%d+)$')
  if not ms or #ms > 20 or #number > 20 then return '~' end -- behind all digits
  return string.rep('0', 20 - #ms) .. ms .. string.rep('0', 20 - #number) .. number
end
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
local newest = redis.call('XREVRANGE', KEYS[2], '+', '-', 'COUNT', 1)[1]
local last = newest and newest[1] or (tonumber(redis.call('TIME')[1]) + 1) .. '000-0'
if ARGV[5] ~= '' and padded(ARGV[5]) > padded(last) then
  redis.call('HSET', KEYS[1], 'position', '')
  redis.call('PEXPIRE', KEYS[2], 0)
  return {'held', {}, 2}
end
local entries = redis.call('XRANGE', KEYS[2], ARGV[5] == '' and '-' or '(' .. ARGV[5], '+', 'COUNT', ARGV[6])
if last ~= '18446744073709551615-18446744073709551615' then return {'held', entries, 0} end
if #entries > 0 and entries[#entries][1] == last then entries[#entries] = nil end
redis.call('PEXPIRE', KEYS[2], 0)
return {'held', entries, 1}
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
