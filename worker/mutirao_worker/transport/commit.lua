-- End the requests of a batch: keep and announce each result, and drop its reservation. What has already ended is discarded: the
-- first end wins, also over a worker that was taken for lost and comes back.
-- KEYS[1]: this worker's reservations.  KEYS[2]: the dead letters.  KEYS[3]: their index.  KEYS[4]: the workers' free slots.
-- ARGV[1]: the worker, "" where reservations are not on this server.  ARGV[2]: how long a record is kept.  ARGV[3]: the model.
-- ARGV[4]: the run: what the record says at its end, after its job's base part, of the whole batch.
-- ARGV[5]: "1" if tensors lie beside some of the requests.  ARGV[6]: the worker's free slots.
-- ARGV, 7 a request from ARGV[7]: its reservation's field, its id ("" for none), the record up to its job ("" to keep none), what
--   the run says of this request alone, the raw tensors of its result ("" for none), its client ("" for none), its dead letter
--   ("" for none).
-- Reply: {"1" if committed, the status in which it had already ended, ...}.
-- Invariant: result and acknowledgement are one step; a record that has ended never changes.
local groups, keys, fields, documents, reply = {}, {}, {}, {}, {}
for at = 7, #ARGV, 7 do
  fields[#fields + 1] = ARGV[at]
  keys[#keys + 1] = "celery-task-meta-" .. ARGV[at + 1]
end
for from = 1, #keys, 1000 do
  local to = math.min(from + 999, #keys)
  if ARGV[1] ~= "" then
    redis.call("HDEL", KEYS[1], unpack(fields, from, to))
  end
  for _, document in ipairs(redis.call("MGET", unpack(keys, from, to))) do
    documents[#documents + 1] = document
  end
end
if ARGV[1] ~= "" then
  redis.call("HSET", KEYS[4], ARGV[1], ARGV[6])
end
local fresh = {}
for i, key in ipairs(keys) do
  local at = 7 * i
  local id, head, letter = ARGV[at + 1], ARGV[at + 2], ARGV[at + 6]
  local document = fresh[id] or documents[i]
  if letter ~= "" then
    local letter_id = id ~= "" and id or string.match(letter, '"id":"([^"]*)"')
    keep_letter(KEYS[2], KEYS[3], letter_id, letter, seconds())
  end
  local status = document and status_of(document)
  if status and ended(status) then
    reply[i] = status
  elseif id == "" or head == "" then
    reply[i] = "1"
  else
    local made = head .. job_of(document, ARGV[3]) .. ARGV[4] .. ARGV[at + 3] .. "}}"
    announce(key, made, ARGV[2], ARGV[at + 5], groups)
    fresh[id] = made
    if ARGV[at + 4] ~= "" then
      redis.call("SETEX", "mutirao:payload:" .. id .. ":out", ARGV[2], ARGV[at + 4])
    end
    if ARGV[5] == "1" and letter == "" then
      redis.call("DEL", "mutirao:payload:" .. id .. ":in")
    end
    reply[i] = "1"
  end
end
tell(groups)
return reply
