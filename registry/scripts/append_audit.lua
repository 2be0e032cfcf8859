-- Appends one entry to an audit, once per request.
-- KEYS audit request ; ARGV 1 entry, 2 audit cap, 3 seconds a request is remembered
-- -> seq
local known = redis.call('GET', KEYS[2])
if known then return tonumber(known) end
local seq = append(KEYS[1], ARGV[1], ARGV[2])
redis.call('SET', KEYS[2], seq, 'EX', ARGV[3])
return seq
