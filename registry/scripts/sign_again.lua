-- Puts new signatures under what a domain keeps, value by value, each only if it still is what was read.
-- KEYS versions live [epoch changes]
-- ARGV 1 channel, 2 domain, then fours: 'versions' | 'live', field, value read, new value
-- -> number of values written
local written = 0
for i = 3, #ARGV, 4 do
  local key = ARGV[i] == 'versions' and KEYS[1] or KEYS[2]
  if redis.call('HGET', key, ARGV[i + 1]) == ARGV[i + 2] then
    redis.call('HSET', key, ARGV[i + 1], ARGV[i + 3])
    written = written + 1
  end
end
if KEYS[3] and written > 0 then bump(KEYS[3], KEYS[4], ARGV[1], ARGV[2]) end
return written
