-- Check records a last time before their requests run: a request that was cancelled, has expired or has ended must not run.
-- ARGV[1]: how long an ended record is kept, in seconds.  ARGV[2]: the time of ending, as Celery writes it.
-- ARGV, 2 a request from ARGV[3]: its id, its client ("" for none).
-- Reply: {now, why a request must not run ("" to run it), ...}.
-- Invariant: a record that has ended never changes; one that expires here is published in the same step.
local now, keys, documents, reply, groups = seconds(), {}, {}, {}, {}
allow_when_full()
for at = 3, #ARGV, 2 do
  keys[#keys + 1] = RECORD .. ARGV[at]
end
for from = 1, #keys, 1000 do
  for _, document in ipairs(redis.call("MGET", unpack(keys, from, math.min(from + 999, #keys)))) do
    documents[#documents + 1] = document
  end
end
for i, key in ipairs(keys) do
  local document, reason = documents[i], ""
  if document then
    local status = status_of(document)
    if ended(status) then
      reason = status
    elseif status == "QUEUED" and (deadline_of(document) or now + 1) <= now then
      reason = "expired"
      keep_and_publish(key, revoked_record(document, ARGV[2 * i + 1], reason, ARGV[2], now), ARGV[1], ARGV[2 * i + 2], groups)
      redis.call("DEL", PAYLOAD .. ARGV[2 * i + 1] .. ":in")
    end
  end
  reply[i + 1] = reason
end
reply[1] = string.format("%.6f", now)
publish_groups(groups)
return reply
