-- Takes a lease when it is free, has lapsed, or is the asker's own (which renews it, with the same fencing number).
-- KEYS lease fence ; ARGV 1 holder, 2 TTL in milliseconds, 3 TTL of the fence in seconds
-- -> fencing number, or 0 when another holds it
local held = redis.call('GET', KEYS[1])
if held then
  local fence, holder = string.match(held, '^(%d+) (.*)$')
  if holder ~= ARGV[1] then return 0 end
  redis.call('PEXPIRE', KEYS[1], ARGV[2])
  return tonumber(fence)
end
local fence = redis.call('INCR', KEYS[2])
redis.call('EXPIRE', KEYS[2], ARGV[3])
redis.call('SET', KEYS[1], string.format('%d %s', fence, ARGV[1]), 'PX', ARGV[2])
return fence
