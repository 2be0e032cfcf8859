-- Writes one gateway key, if it still is what the writer saw.
-- KEYS keys audit epoch changes ; ARGV 1 hash, 2 record seen ('' for none), 3 record, 4 audit entry, 5 audit cap, 6 channel
-- -> {'conflict', record} | {'same'} | {'put'}
local current = redis.call('HGET', KEYS[1], ARGV[1]) or ''
if current == ARGV[3] then return {'same'} end
if current ~= ARGV[2] then return {'conflict', current} end
redis.call('HSET', KEYS[1], ARGV[1], ARGV[3])
append(KEYS[2], ARGV[4], ARGV[5])
bump(KEYS[3], KEYS[4], ARGV[6], '*')
return {'put'}
