-- Remove dead letters for good, and the offloaded tensors that were kept for them.
-- KEYS[1]: the dead letters.  KEYS[2]: their index.  ARGV, 1 a letter: its id.
-- Reply: 1 for each that was removed, 0 for each that was not there.
-- Invariant: the tensors of a job that has not ended, sent under the same id meanwhile, stay.
local reply = {}
for at, id in ipairs(ARGV) do
  reply[at] = redis.call("HDEL", KEYS[1], id)
  redis.call("ZREM", KEYS[2], id)
  local document = reply[at] == 1 and redis.call("GET", RECORD .. id)
  local status = document and string.match(document, '^{"status":"(%u+)"')
  if reply[at] == 1 and status ~= "QUEUED" and status ~= "STARTED" then
    redis.call("DEL", PAYLOAD .. id .. ":in")
  end
end
return reply
