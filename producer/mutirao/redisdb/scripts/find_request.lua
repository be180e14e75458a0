-- Find a request in a queue's list, or in a worker's reservations; no envelope leaves Redis.
-- KEYS[1]: a queue's list, or a worker's reservations.
-- ARGV[1]: the request's id.  ARGV[2], ARGV[3]: of a list the first and last position to look at, where 1 is served next;
--   "0" for reservations.
-- Reply: the request's position in a list, 1 for any in a worker's reservations; 0 where it is not there.
-- Invariant: nothing is changed.
local function matches(envelope)
  return string.find(envelope, ARGV[1], 1, true) and string.match(envelope, '"id":%s*"([^"]*)"') == ARGV[1]
end

if ARGV[2] == "0" then
  for _, entry in ipairs(redis.call("HVALS", KEYS[1])) do
    if matches(entry) then
      return 1
    end
  end
  return 0
end
local envelopes = redis.call("LRANGE", KEYS[1], -tonumber(ARGV[3]), -tonumber(ARGV[2]))
for at = #envelopes, 1, -1 do
  if matches(envelopes[at]) then
    return tonumber(ARGV[2]) + #envelopes - at
  end
end
return 0
