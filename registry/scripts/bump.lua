-- The second half of a change in a Cluster, where the domain and the fleet lie in different slots: list or unlist the
-- domain, bump the fleet epoch, push, and take the mark away that the first half left. Marks of writers that died go too.
-- KEYS epoch changes domains dirty
-- ARGV 1 channel, 2 name, 3 'keep' | 'add' | 'remove' | 'nothing' (nothing changed), 4 the mark, 5 time before which marks are dead
-- -> fleet epoch
redis.call('HDEL', KEYS[4], ARGV[4])
local marks = redis.call('HGETALL', KEYS[4])
for i = 1, #marks, 2 do
  if tonumber(marks[i + 1]) < tonumber(ARGV[5]) then redis.call('HDEL', KEYS[4], marks[i]) end
end
if ARGV[3] == 'nothing' and redis.call('SISMEMBER', KEYS[3], ARGV[2]) == 1 then
  return tonumber(redis.call('GET', KEYS[1]) or '0')
end
if ARGV[3] == 'add' or ARGV[3] == 'nothing' then redis.call('SADD', KEYS[3], ARGV[2]) end
if ARGV[3] == 'remove' then redis.call('SREM', KEYS[3], ARGV[2]) end
return bump(KEYS[1], KEYS[2], ARGV[1], ARGV[2])
