-- Writes a trigger once.
-- KEYS queue bodies seen ; ARGV 1 id, 2 trigger, 3 time, 4 cap, 5 seconds an id is remembered
-- -> 1, 0 when this id was written before, -1 when too many wait
if redis.call('EXISTS', KEYS[3]) == 1 then return 0 end
if redis.call('ZCARD', KEYS[1]) >= tonumber(ARGV[4]) then return -1 end
redis.call('SET', KEYS[3], '1', 'EX', ARGV[5])
redis.call('HSET', KEYS[2], ARGV[1], ARGV[2])
redis.call('ZADD', KEYS[1], ARGV[3], ARGV[1])
return 1
