-- Shared by all scripts. A domain's keys share a hash tag, so that they lie in one slot of a Cluster; the fleet's keys lie
-- in another, and are passed only where there are no slots.

-- Appends to an audit stream. The entry id is <seq>-0: Redis itself refuses an id that is not greater than the last.
local function append(audit, json, cap)
  local last = redis.call('XREVRANGE', audit, '+', '-', 'COUNT', 1)
  local seq = 1
  if last[1] then seq = tonumber(string.match(last[1][1], '^%d+')) + 1 end
  redis.call('XADD', audit, 'MAXLEN', '~', cap, string.format('%d-0', seq), 'e', json)
  return seq
end

-- Remembers under which audit entry a domain's pointers moved, and when: as many moves as the audit has entries.
local function remember(moves, at, seq, cap)
  redis.call('ZADD', moves, at, string.format('%012d', seq))
  redis.call('ZREMRANGEBYRANK', moves, 0, -tonumber(cap) - 1)
end

-- Tells the gateways that `name` changed: fleet epoch, when it changed last, and a push.
local function bump(epoch, changes, channel, name)
  local now = redis.call('INCR', epoch)
  redis.call('ZADD', changes, now, name)
  redis.call('PUBLISH', channel, string.format('%d %s', now, name))
  return now
end

-- Adds sixteen numbers to the sums of one field (see tallies.py for their order). A hash that has `cap` fields takes no new
-- ones: 'false' comes back. Sums that something else wrote begin anew.
local function add_tally(hash, field, deltas, cap)
  local packed = redis.call('HGET', hash, field)
  local sums
  if packed then
    local whole, found = pcall(cmsgpack.unpack, packed)
    sums = whole and type(found) == 'table' and found or {}
    for i = 1, #deltas do sums[i] = (type(sums[i]) == 'number' and sums[i] or 0) + deltas[i] end
  else
    if redis.call('HLEN', hash) >= tonumber(cap) then return false end
    sums = deltas
  end
  redis.call('HSET', hash, field, cmsgpack.pack(sums))
  return true
end

-- One exchange's (or one vote's, one score's) numbers, into the sums of its version and arm and of its unit.
local function count(totals, groups, units_prefix, total, group, unit, deltas, now, cap, ttl)
  add_tally(totals, total, deltas, 100000)
  local hash = units_prefix .. group
  if unit ~= '' and not add_tally(hash, unit, deltas, cap) then
    add_tally(hash, '', deltas, 2 * tonumber(cap))
  end
  redis.call('EXPIRE', hash, ttl)
  redis.call('ZADD', groups, now, group)
end
