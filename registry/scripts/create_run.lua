-- Begins a run, unless one of this domain is queued or running. The oldest runs beyond the cap go.
-- KEYS run live-run runs ; ARGV 1 run, 2 id, 3 time, 4 TTL in seconds, 5 cap, 6..8 what stands before an id: run, events, fence
-- -> {'live', id} | {'created'}
local live = redis.call('GET', KEYS[2])
if live and live ~= ARGV[2] and redis.call('EXISTS', ARGV[6] .. live) == 1 then return {'live', live} end
redis.call('SET', KEYS[1], ARGV[1], 'EX', ARGV[4])
redis.call('SET', KEYS[2], ARGV[2], 'EX', ARGV[4])
redis.call('ZADD', KEYS[3], ARGV[3], ARGV[2])
redis.call('EXPIRE', KEYS[3], ARGV[4])
local spare = redis.call('ZCARD', KEYS[3]) - tonumber(ARGV[5])
if spare > 0 then
  for _, id in ipairs(redis.call('ZRANGE', KEYS[3], 0, spare - 1)) do
    redis.call('DEL', ARGV[6] .. id, ARGV[7] .. id, ARGV[8] .. id)
    redis.call('ZREM', KEYS[3], id)
  end
end
return {'created'}
