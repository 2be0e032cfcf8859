-- Offers samples of one task to its reservoirs: bottom-k sampling, the k smallest priorities stay.
-- KEYS times representative failures threshold tasks
-- ARGV 1 now, 2 retention in seconds, 3 cap of representative, 4 cap of failures, 5 task, 6 what stands before a sample's id,
--      7 cap of tasks, then for each sample: id, time, reservoir, priority, JSON ('' when it is stored already and only offered again)
-- -> ids that were kept
local now, retention = tonumber(ARGV[1]), tonumber(ARGV[2])
local reservoirs = {representative = KEYS[2], failures = KEYS[3]}
local caps = {representative = tonumber(ARGV[3]), failures = tonumber(ARGV[4])}

local function forget(id)
  redis.call('ZREM', KEYS[1], id)
  redis.call('ZREM', KEYS[2], id)
  redis.call('ZREM', KEYS[3], id)
  redis.call('DEL', ARGV[6] .. id)
end

local function wanted(id)
  return redis.call('ZSCORE', KEYS[2], id) or redis.call('ZSCORE', KEYS[3], id)
end

-- true when the id now stands in the reservoir
local function offer(which, id, priority)
  local field = which .. ':' .. ARGV[5]
  local threshold = tonumber(redis.call('HGET', KEYS[4], field))
  if threshold and tonumber(priority) >= threshold then return false end
  redis.call('ZADD', reservoirs[which], priority, id)
  if redis.call('ZCARD', reservoirs[which]) <= caps[which] then return true end
  local out = redis.call('ZPOPMAX', reservoirs[which])
  redis.call('HSET', KEYS[4], field, out[2])
  if out[1] == id then return false end
  if not wanted(out[1]) then forget(out[1]) end
  return true
end

for _, id in ipairs(redis.call('ZRANGEBYSCORE', KEYS[1], '-inf', now - retention, 'LIMIT', 0, 500)) do forget(id) end

local kept = {}
redis.call('ZREMRANGEBYSCORE', KEYS[5], '-inf', now - retention)
if not redis.call('ZSCORE', KEYS[5], ARGV[5]) and redis.call('ZCARD', KEYS[5]) >= tonumber(ARGV[7]) then return kept end
for i = 8, #ARGV, 5 do
  local id, at, which, priority, json = ARGV[i], ARGV[i + 1], ARGV[i + 2], ARGV[i + 3], ARGV[i + 4]
  local body = ARGV[6] .. id
  local stored = redis.call('EXISTS', body) == 1
  local left = math.floor(tonumber(at) + retention - now)
  if stored == (json == '') and left > 0 and offer(which, id, priority) then
    if not stored then
      redis.call('SET', body, json, 'EX', left)
      redis.call('ZADD', KEYS[1], at, id)
      redis.call('ZADD', KEYS[5], 'GT', at, ARGV[5])
    end
    kept[#kept + 1] = id
  elseif stored and json ~= '' then
    kept[#kept + 1] = id
  end
end
for i = 1, 5 do redis.call('EXPIRE', KEYS[i], math.floor(retention) + 86400) end
return kept
