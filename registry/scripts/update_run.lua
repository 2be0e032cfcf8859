-- Writes a run, unless a younger holder of its lease has written it, or it has ended.
-- KEYS run live-run fence ; ARGV 1 run, 2 id, 3 fence, 4 TTL in seconds, 5 '1' when it has now ended
-- -> {'missing'} | {'fenced', fence} | {'ended', run} | {'written'}
local current = redis.call('GET', KEYS[1])
if not current then return {'missing'} end
local highest = tonumber(redis.call('GET', KEYS[3]) or '0')
if tonumber(ARGV[3]) < highest then return {'fenced', highest} end
if current ~= ARGV[1] and redis.call('GET', KEYS[2]) ~= ARGV[2] then return {'ended', current} end
redis.call('SET', KEYS[1], ARGV[1], 'EX', ARGV[4])
redis.call('SET', KEYS[3], ARGV[3], 'EX', ARGV[4])
if ARGV[5] == '1' and redis.call('GET', KEYS[2]) == ARGV[2] then redis.call('DEL', KEYS[2]) end
return {'written'}
