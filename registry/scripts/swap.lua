-- Replaces a value if it still is what was seen, and counts what the change means (a score or a vote that came or changed).
-- KEYS value totals groups
-- ARGV 1 seen ('' for none), 2 new, 3 TTL in seconds ('' keeps the one it has), 4 now, 5 cap of units, 6 seconds units live,
--      7 what stands before a group's name [, 8 total, 9 group, 10 unit, 11 sixteen numbers (msgpack)]
-- -> {'swapped'} | {'conflict', value}
local current = redis.call('GET', KEYS[1]) or ''
if current ~= ARGV[1] then return {'conflict', current} end
if ARGV[3] == '' then redis.call('SET', KEYS[1], ARGV[2], 'KEEPTTL') else redis.call('SET', KEYS[1], ARGV[2], 'EX', ARGV[3]) end
if ARGV[8] then
  count(KEYS[2], KEYS[3], ARGV[7], ARGV[8], ARGV[9], ARGV[10], cmsgpack.unpack(ARGV[11]), ARGV[4], ARGV[5], ARGV[6])
end
return {'swapped'}
