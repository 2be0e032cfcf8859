-- Counts a batch of outcomes of one domain, once.
-- KEYS batch outcomes totals groups
-- ARGV 1 seconds a batch is remembered, 2 now, 3 cap of the stream, 4 cap of units, 5 seconds units live, 6 what stands before
--      a group's name, then for each outcome: JSON, total, group, unit, sixteen numbers (msgpack)
-- -> 1, or 0 when this batch was counted before
if not redis.call('SET', KEYS[1], '1', 'NX', 'EX', ARGV[1]) then return 0 end
for i = 7, #ARGV, 5 do
  redis.call('XADD', KEYS[2], 'MAXLEN', '~', ARGV[3], '*', 'o', ARGV[i])
  count(KEYS[3], KEYS[4], ARGV[6], ARGV[i + 1], ARGV[i + 2], ARGV[i + 3], cmsgpack.unpack(ARGV[i + 4]), ARGV[2], ARGV[4], ARGV[5])
end
redis.call('EXPIRE', KEYS[2], ARGV[5])
redis.call('EXPIRE', KEYS[4], ARGV[5])
-- Groups beyond the newest 500 belong to experiments long gone.
local spare = redis.call('ZCARD', KEYS[4]) - 500
if spare > 0 then
  for _, group in ipairs(redis.call('ZRANGE', KEYS[4], 0, spare - 1)) do redis.call('DEL', ARGV[6] .. group) end
  redis.call('ZREMRANGEBYRANK', KEYS[4], 0, spare - 1)
end
return 1
