-- Adds an immutable version under the next number, unless the same text (or the same request) already has one.
-- KEYS versions hashes audit request live
-- ARGV 1 content hash, 2 number, 3 version, 4 audit entry, 5 audit cap, 6 seconds a request is remembered
-- -> {'exists', version} | {'missing'} | {'retry', next number} | {'added'}
local number = redis.call('HGET', KEYS[2], ARGV[1]) or redis.call('GET', KEYS[4])
if number then return {'exists', redis.call('HGET', KEYS[1], number) or ''} end
if redis.call('HEXISTS', KEYS[5], 'domain') == 0 then return {'missing'} end
local next_number = redis.call('HLEN', KEYS[1]) + 1
if tostring(next_number) ~= ARGV[2] then return {'retry', next_number} end
redis.call('HSET', KEYS[1], ARGV[2], ARGV[3])
redis.call('HSET', KEYS[2], ARGV[1], ARGV[2])
append(KEYS[3], ARGV[4], ARGV[5])
redis.call('SET', KEYS[4], ARGV[2], 'EX', ARGV[6])
return {'added'}
