-- Renews or gives back a lease that is still the asker's.
-- KEYS lease ; ARGV 1 '<fence> <holder>', 2 TTL in milliseconds, 0 to give it back
-- -> 1, or 0 when it is no longer the asker's
if redis.call('GET', KEYS[1]) ~= ARGV[1] then return 0 end
if ARGV[2] == '0' then redis.call('DEL', KEYS[1]) else redis.call('PEXPIRE', KEYS[1], ARGV[2]) end
return 1
