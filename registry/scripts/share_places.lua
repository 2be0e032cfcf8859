-- One holder's share of a limited number of places: as fair as the wants allow (nobody gets more than it wants, who wants
-- less leaves the rest to the others), and never more than the others' grants leave. A grant lapses when it is not asked for
-- again; the order among equals turns with time, so that nobody waits for ever where holders outnumber places.
-- KEYS holders ; ARGV 1 holder, 2 places wanted (0 gives all back), 3 places it may be using, 4 limit, 5 TTL in milliseconds
-- -> places granted, places it should go down to when it can
local time = redis.call('TIME')
local now = tonumber(time[1]) * 1000 + math.floor(tonumber(time[2]) / 1000)
local wanted, used, limit, ttl = tonumber(ARGV[2]), tonumber(ARGV[3]), tonumber(ARGV[4]), tonumber(ARGV[5])
local all, granted = {}, 0
local kept = redis.call('HGETALL', KEYS[1])
for i = 1, #kept, 2 do
  local holder = kept[i]
  if holder ~= ARGV[1] then
    local one = cmsgpack.unpack(kept[i + 1])
    if one[1] <= now then
      redis.call('HDEL', KEYS[1], holder)
    else
      granted = granted + one[3]
      all[#all + 1] = { holder, one[2] }
    end
  end
end
if wanted == 0 then
  redis.call('HDEL', KEYS[1], ARGV[1])
  return { 0, 0 }
end
all[#all + 1] = { ARGV[1], wanted }
table.sort(all, function(a, b) return a[1] < b[1] end)
local turn = math.floor(now / ttl)
for i, one in ipairs(all) do one[3] = (i + turn) % #all end
table.sort(all, function(a, b)
  if a[2] ~= b[2] then return a[2] < b[2] end
  return a[3] < b[3]
end)
local left, fair = limit, 0
for i, one in ipairs(all) do
  local share = math.min(one[2], math.ceil(left / (#all - i + 1)))
  left = left - share
  if one[1] == ARGV[1] then fair = share end
end
local grant = math.max(math.min(fair, limit - granted), used)
redis.call('HSET', KEYS[1], ARGV[1], cmsgpack.pack({ now + ttl, wanted, grant }))
redis.call('PEXPIRE', KEYS[1], ttl * 2)
return { grant, fair }
