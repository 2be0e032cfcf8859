-- The second half of a change in a Cluster, where the domain and the fleet lie in different slots: list or unlist the
-- domain, bump the fleet epoch, push, and take the mark away that the first half left.
-- KEYS epoch changes domains dirty ; ARGV 1 channel, 2 name, 3 'keep' | 'add' | 'remove'
-- -> new fleet epoch
if ARGV[3] == 'add' then redis.call('SADD', KEYS[3], ARGV[2]) end
if ARGV[3] == 'remove' then redis.call('SREM', KEYS[3], ARGV[2]) end
redis.call('HDEL', KEYS[4], ARGV[2])
return bump(KEYS[1], KEYS[2], ARGV[1], ARGV[2])
