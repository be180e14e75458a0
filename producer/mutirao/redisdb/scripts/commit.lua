-- End the requests of a batch: keep and announce each result, and drop its reservation. What has already ended is discarded: the
-- first end wins, also over a worker that was taken for lost and comes back.
-- KEYS[1]: this worker's reservations.  KEYS[2]: the dead letters.  KEYS[3]: their index.  KEYS[4]: the workers' free slots.
-- ARGV[1]: the worker, "" where reservations are not on this server.  ARGV[2]: how long a record is kept.  ARGV[3]: the model.
-- ARGV[4]: the run: what the record says at its end, after its job's base part, of the whole batch.
-- ARGV[5]: "1" if tensors lie beside some of the requests.  ARGV[6]: the worker's free slots.
-- ARGV[7]: how many requests.  ARGV[8]: how many runs of them have the same client.  ARGV[9]: how many have raw tensors.
-- ARGV, 4 a request from ARGV[10]: its reservation's field, its id ("" for none), the record up to its job ("" to keep none), what
--   the run says of this request alone.
-- Then 2 a run: how many follow each other, their client ("" for none).  2 for raw tensors: whose, them.  2 a dead letter: whose, it.
-- Reply: {"1" if committed, the status in which it had already ended, ...}.
-- Invariant: result and acknowledgement are one step, a reservation dropped last: where Redis stops the script half-way, it stands.
-- Invariant: a record that has ended never changes.
local FIRST = 10
local LARGE = 65536
local count, groups, keys, fields, documents, heard, reply = tonumber(ARGV[7]), {}, {}, {}, {}, {}, {}
for at = FIRST, FIRST + 4 * count - 4, 4 do
  fields[#fields + 1] = ARGV[at]
  keys[#keys + 1] = RECORD .. ARGV[at + 1]
end
-- A small end always gets in, a failure above all; a large one only where there is room for it.
if ARGV[9] == "0" and (count ~= 1 or #ARGV[FIRST + 2] <= LARGE) then
  though_full()
elseif ARGV[1] ~= "" then
  redis.call("HSET", KEYS[4], ARGV[1], ARGV[6])
end
for from = 1, count, 1000 do
  local to = math.min(from + 999, count)
  for _, document in ipairs(redis.call("MGET", unpack(keys, from, to))) do
    documents[#documents + 1] = document
  end
  -- To ask for all at once who is listened to costs a fraction of telling each to nobody.
  local listeners = redis.call("PUBSUB", "NUMSUB", unpack(keys, from, to))
  for at = 2, #listeners, 2 do
    heard[#heard + 1] = tonumber(listeners[at]) > 0
  end
end
if ARGV[1] ~= "" then
  redis.call("HSET", KEYS[4], ARGV[1], ARGV[6])
end

local clients, raws, letters, at = {}, {}, {}, FIRST + 4 * count
for _ = 1, tonumber(ARGV[8]) do
  for _ = 1, tonumber(ARGV[at]) do
    clients[#clients + 1] = ARGV[at + 1]
  end
  at = at + 2
end
for _ = 1, tonumber(ARGV[9]) do
  raws[tonumber(ARGV[at])] = ARGV[at + 1]
  at = at + 2
end
for place = at, #ARGV, 2 do
  letters[tonumber(ARGV[place])] = ARGV[place + 1]
end

local fresh = {}
for i, key in ipairs(keys) do
  local first = FIRST + 4 * i - 4
  local id, head, letter = ARGV[first + 1], ARGV[first + 2], letters[i]
  local document = fresh[id] or documents[i]
  if letter then
    local letter_id = id ~= "" and id or string.match(letter, '"id":"([^"]*)"')
    keep_letter(KEYS[2], KEYS[3], letter_id, letter, seconds())
  end
  local status = document and status_of(document)
  if status and ended(status) then
    reply[i] = status
  elseif id == "" or head == "" then
    reply[i] = "1"
  else
    local made = head .. job_of(document, ARGV[3]) .. ARGV[4] .. ARGV[first + 3] .. "}}"
    announce(key, made, ARGV[2], clients[i], groups, heard[i])
    fresh[id] = made
    if raws[i] then
      redis.call("SETEX", PAYLOAD .. id .. ":out", ARGV[2], raws[i])
    end
    if ARGV[5] == "1" and not letter then
      redis.call("DEL", PAYLOAD .. id .. ":in")
    end
    reply[i] = "1"
  end
end
tell(groups)
if ARGV[1] ~= "" then
  for from = 1, count, 1000 do
    redis.call("HDEL", KEYS[1], unpack(fields, from, math.min(from + 999, count)))
  end
end
return reply
