-- Reads keys of one slot at one instant.
-- KEYS any -> for each key that exists: key, type, milliseconds to live (-1: for ever), value
local answer = {}
for _, key in ipairs(KEYS) do
  local kind = redis.call('TYPE', key)['ok']
  local value
  if kind == 'string' then value = redis.call('GET', key)
  elseif kind == 'hash' then value = redis.call('HGETALL', key)
  elseif kind == 'set' then value = redis.call('SMEMBERS', key)
  elseif kind == 'zset' then value = redis.call('ZRANGE', key, 0, -1, 'WITHSCORES')
  elseif kind == 'stream' then value = redis.call('XRANGE', key, '-', '+')
  end
  if value then
    answer[#answer + 1] = key
    answer[#answer + 1] = kind
    answer[#answer + 1] = redis.call('PTTL', key)
    answer[#answer + 1] = value
  end
end
return answer
