-- Hands out waiting triggers; one that is not reported done in time is handed out again.
-- KEYS queue bodies ; ARGV 1 now, 2 time at which they may be taken again, 3 how many
-- -> triggers
local bodies = {}
for _, id in ipairs(redis.call('ZRANGEBYSCORE', KEYS[1], '-inf', ARGV[1], 'LIMIT', 0, ARGV[3])) do
  local body = redis.call('HGET', KEYS[2], id)
  if body then
    redis.call('ZADD', KEYS[1], ARGV[2], id)
    bodies[#bodies + 1] = body
  else
    redis.call('ZREM', KEYS[1], id)
  end
end
return bodies
