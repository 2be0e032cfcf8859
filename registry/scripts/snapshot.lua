-- Everything a gateway serves from, at one instant.
-- KEYS epoch domains keys ; ARGV 1 what stands before a domain's name in its key, 2 what stands behind it
-- -> {epoch, flat keys hash, name, flat live hash, name, flat live hash, ...}
local names = redis.call('SMEMBERS', KEYS[2])
local answer = {redis.call('GET', KEYS[1]) or '0', redis.call('HGETALL', KEYS[3])}
for _, name in ipairs(names) do
  answer[#answer + 1] = name
  answer[#answer + 1] = redis.call('HGETALL', ARGV[1] .. name .. ARGV[2])
end
return answer
