-- Look for a request where it waits, or where a worker holds it; no envelope leaves Redis.
-- KEYS[1]: a queue's list, or a worker's reservations.
-- ARGV[1]: the request's id.  ARGV[2], ARGV[3]: of a list, the first and last place to look at, counted from 1, who is served next;
--   of reservations "0".
-- Reply: the request's place in a list, 1 for any in a worker's hash; 0 where it is not there.
-- Invariant: nothing is changed.
local function is(envelope)
  return string.find(envelope, ARGV[1], 1, true) and string.match(envelope, '"id":%s*"([^"]*)"') == ARGV[1]
end

if ARGV[2] == "0" then
  for _, entry in ipairs(redis.call("HVALS", KEYS[1])) do
    if is(entry) then
      return 1
    end
  end
  return 0
end
local found = redis.call("LRANGE", KEYS[1], -tonumber(ARGV[3]), -tonumber(ARGV[2]))
for at = #found, 1, -1 do
  if is(found[at]) then
    return tonumber(ARGV[2]) + #found - at
  end
end
return 0
