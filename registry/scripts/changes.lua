-- What changed since an epoch, at one instant, and some names besides.
-- KEYS epoch changes keys
-- ARGV 1 the epoch known, 2 how many changes are too many, 3 what stands before a domain's name in its key, 4 what stands behind
--      it, then names to read in any case; the name * stands for the keys
-- -> {epoch, 1} when everything is to be read (too much changed, or the epoch went back or is no number), else
--    {epoch, 0, name, flat hash, name, flat hash, ...}; 0 in place of a hash that is another kind of value
local epoch = redis.call('GET', KEYS[1]) or '0'
local now, known = tonumber(epoch), tonumber(ARGV[1])
if not now or now < known then return {epoch, 1} end
local names = {}
if now > known then
  names = redis.call('ZRANGEBYSCORE', KEYS[2], '(' .. ARGV[1], '+inf', 'LIMIT', 0, tonumber(ARGV[2]) + 1)
  if #names > tonumber(ARGV[2]) then return {epoch, 1} end
end
for i = 5, #ARGV do names[#names + 1] = ARGV[i] end
local answer = {epoch, 0}
for _, name in ipairs(names) do
  local found = redis.pcall('HGETALL', name == '*' and KEYS[3] or ARGV[3] .. name .. ARGV[4])
  if found.err then found = 0 end
  answer[#answer + 1] = name
  answer[#answer + 1] = found
end
return answer
