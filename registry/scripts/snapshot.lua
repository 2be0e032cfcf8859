-- Everything a gateway serves from, at one instant.
-- KEYS epoch domains keys ; ARGV 1 what stands before a domain's name in its key, 2 what stands behind it
-- -> {epoch, flat keys hash, name, flat live hash, name, flat live hash, ...}; 0 in place of a hash that is another kind of
--    value: one foreign value must not hide all others
local function hash(key)
  local found = redis.pcall('HGETALL', key)
  if found.err then return 0 end
  return found
end
local names = redis.call('SMEMBERS', KEYS[2])
local answer = {redis.call('GET', KEYS[1]) or '0', hash(KEYS[3])}
for _, name in ipairs(names) do
  answer[#answer + 1] = name
  answer[#answer + 1] = hash(ARGV[1] .. name .. ARGV[2])
end
return answer
