-- Moves a domain's pointers, if they still stand where the mover saw them.
-- KEYS live audit moves request blocked [epoch changes]
-- ARGV 1 epoch seen, 2 new epoch, 3 new deployment, 4 time, 5 audit entry, 6 audit cap, 7 seconds a request is remembered,
--      8 channel, 9 domain, then pairs: version number, what a gateway needs of it
-- -> {'done', deployment} | {'missing'} | {'conflict', deployment, seq, entry} | {'blocked', n} | {'moved', seq}
local known = redis.call('GET', KEYS[4])
if known then return {'done', known} end
if redis.call('HEXISTS', KEYS[1], 'domain') == 0 then return {'missing'} end
local epoch = redis.call('HGET', KEYS[1], 'epoch') or '0'
if epoch ~= ARGV[1] then
  local deployment = redis.call('HGET', KEYS[1], 'deployment') or ''
  local seq = redis.call('ZREVRANGE', KEYS[3], 0, 0)[1]
  if not seq then return {'conflict', deployment, '', ''} end
  local id = string.format('%d-0', tonumber(seq))
  local last = redis.call('XRANGE', KEYS[2], id, id)
  if last[1] then return {'conflict', deployment, last[1][1], last[1][2][2]} end
  return {'conflict', deployment, '', ''}
end
for i = 10, #ARGV, 2 do
  if redis.call('HEXISTS', KEYS[5], ARGV[i]) == 1 then return {'blocked', ARGV[i]} end
end
for _, field in ipairs(redis.call('HKEYS', KEYS[1])) do
  if string.sub(field, 1, 2) == 'v:' then redis.call('HDEL', KEYS[1], field) end
end
redis.call('HSET', KEYS[1], 'epoch', ARGV[2], 'deployment', ARGV[3])
for i = 10, #ARGV, 2 do redis.call('HSET', KEYS[1], 'v:' .. ARGV[i], ARGV[i + 1]) end
local seq = append(KEYS[2], ARGV[5], ARGV[6])
remember(KEYS[3], ARGV[4], seq, ARGV[6])
redis.call('SET', KEYS[4], ARGV[3], 'EX', ARGV[7])
if KEYS[6] then bump(KEYS[6], KEYS[7], ARGV[8], ARGV[9]) end
return {'moved', seq}
