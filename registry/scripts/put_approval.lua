-- Writes an approval if it still is what was seen. Beyond the cap, decided ones go first.
-- KEYS approvals ; ARGV 1 id, 2 seen ('' for none), 3 approval
-- -> {'conflict', approval} | {'put', how many there are}
local current = redis.call('HGET', KEYS[1], ARGV[1]) or ''
if current ~= ARGV[2] and current ~= ARGV[3] then return {'conflict', current} end
redis.call('HSET', KEYS[1], ARGV[1], ARGV[3])
return {'put', redis.call('HLEN', KEYS[1])}
