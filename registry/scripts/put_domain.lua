-- Writes a domain's rules. What is already so is not written, audited or told again.
-- KEYS live audit [epoch changes domains] ; ARGV 1 domain, 2 audit entry, 3 audit cap, 4 channel, 5 name
-- -> {'same'} | {'put'}
if redis.call('HGET', KEYS[1], 'domain') == ARGV[1] then
  if not KEYS[3] or redis.call('SISMEMBER', KEYS[5], ARGV[5]) == 1 then return {'same'} end
end
redis.call('HSET', KEYS[1], 'domain', ARGV[1])
append(KEYS[2], ARGV[2], ARGV[3])
if KEYS[3] then
  redis.call('SADD', KEYS[5], ARGV[5])
  bump(KEYS[3], KEYS[4], ARGV[4], ARGV[5])
end
return {'put'}
