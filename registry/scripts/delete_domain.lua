-- Takes a domain out of service. Versions and audit stay; the epoch goes on, so that an old epoch never fits again.
-- KEYS live audit moves [epoch changes domains]
-- ARGV 1 epoch seen, 2 new epoch, 3 empty deployment, 4 time, 5 audit entry, 6 audit cap, 7 channel, 8 name
-- -> {'missing'} | {'conflict', deployment} | {'deleted'}
if redis.call('HEXISTS', KEYS[1], 'domain') == 0 then return {'missing'} end
local epoch = redis.call('HGET', KEYS[1], 'epoch') or '0'
if epoch ~= ARGV[1] then return {'conflict', redis.call('HGET', KEYS[1], 'deployment') or ''} end
redis.call('DEL', KEYS[1])
redis.call('HSET', KEYS[1], 'epoch', ARGV[2], 'deployment', ARGV[3])
local seq = append(KEYS[2], ARGV[5], ARGV[6])
remember(KEYS[3], ARGV[4], seq, ARGV[6])
if KEYS[4] then
  redis.call('SREM', KEYS[6], ARGV[8])
  bump(KEYS[4], KEYS[5], ARGV[7], ARGV[8])
end
return {'deleted'}
