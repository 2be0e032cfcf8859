-- Marks a version as never to be served again; one that serves now must be taken away first.
-- KEYS blocked versions live audit ; ARGV 1 number, 2 why, 3 audit entry, 4 audit cap
-- -> {'missing'} | {'serving'} | {'same'} | {'blocked'}
if redis.call('HEXISTS', KEYS[2], ARGV[1]) == 0 then return {'missing'} end
if redis.call('HEXISTS', KEYS[3], 'v:' .. ARGV[1]) == 1 then return {'serving'} end
if redis.call('HGET', KEYS[1], ARGV[1]) == ARGV[2] then return {'same'} end
redis.call('HSET', KEYS[1], ARGV[1], ARGV[2])
append(KEYS[4], ARGV[3], ARGV[4])
return {'blocked'}
