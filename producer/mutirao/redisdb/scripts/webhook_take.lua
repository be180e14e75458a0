-- Take webhook deliveries, half of them new ones where there are enough of either kind, and hold them for a while.
-- KEYS[1]: the list of deliveries that were never tried.  KEYS[2]: those that are held or wait for another attempt, by when.
-- ARGV[1]: the most to take.  ARGV[2]: for how many seconds they are held.  ARGV, 1 a delivery from ARGV[3]: already held, and still running.
-- Reply: the deliveries.
-- Invariant: a delivery is always in exactly one of the two; one held by a process that died is taken again when its time is up.
local now = seconds()
local room, held_until = tonumber(ARGV[1]), now + tonumber(ARGV[2])
for at = 3, #ARGV do
  redis.call("ZADD", KEYS[2], "XX", held_until, ARGV[at])
end
if room < 1 then
  return {}
end
local due = redis.call("ZRANGEBYSCORE", KEYS[2], "-inf", now, "LIMIT", 0, room)
local reply = redis.call("RPOP", KEYS[1], room - math.min(#due, math.floor(room / 2))) or {}
for at = 1, math.min(#due, room - #reply) do
  reply[#reply + 1] = due[at]
end
for _, envelope in ipairs(reply) do
  redis.call("ZADD", KEYS[2], held_until, envelope)
end
return reply
