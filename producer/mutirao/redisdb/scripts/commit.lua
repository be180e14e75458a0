-- End the requests of a batch: keep and publish each result, and drop its reservation. A result of a job that has already ended is
-- discarded: the first end wins, also over a worker that was taken for lost and comes back.
-- KEYS[1]: this worker's reservations.  KEYS[2]: the dead letters.  KEYS[3]: their index.  KEYS[4]: the workers' free slots.
-- ARGV[1]: the worker, "" where reservations are not on this server.  ARGV[2]: how long a record is kept, in seconds.  ARGV[3]: the model.
-- ARGV[4]: the run: the end of each record, after its job's base part, the same for the whole batch.
-- ARGV[5]: "1" if some of the requests have offloaded tensors.  ARGV[6]: the worker's free slots.
-- ARGV[7]: the number of requests.  ARGV[8]: the number of groups of consecutive requests of one client.
-- ARGV[9]: the number of requests with offloaded outputs.
-- ARGV, 4 a request from ARGV[10]: its reservation's field, its id ("" for none), the record up to its job ("" to keep none), the
--   fields of the run that are this request's own.
-- Then 2 a group: its number of requests, their client ("" for none).  2 for offloaded outputs: the request's place, the bytes.
--   2 a dead letter: the request's place, the letter.
-- Reply: one a request: "1" if committed, else the status in which it had already ended.
-- Invariant: result and acknowledgement are one step. A reservation is dropped last: where Redis stops the script half-way, it stays.
-- Invariant: a record that has ended never changes.
local FIRST = 10
local SMALL_MAX_BYTES = 65536
local count, groups, keys, fields, documents, has_listener, reply = tonumber(ARGV[7]), {}, {}, {}, {}, {}, {}
for at = FIRST, FIRST + 4 * count - 4, 4 do
  fields[#fields + 1] = ARGV[at]
  keys[#keys + 1] = RECORD .. ARGV[at + 1]
end
-- A small result is always kept, a failure above all; a large one only where Redis has room for it.
if ARGV[9] == "0" and (count ~= 1 or #ARGV[FIRST + 2] <= SMALL_MAX_BYTES) then
  allow_when_full()
elseif ARGV[1] ~= "" then
  redis.call("HSET", KEYS[4], ARGV[1], ARGV[6])
end
for from = 1, count, 1000 do
  local to = math.min(from + 999, count)
  for _, document in ipairs(redis.call("MGET", unpack(keys, from, to))) do
    documents[#documents + 1] = document
  end
  -- One query for the subscribers of all jobs costs a fraction of publishing each to nobody.
  local listeners = redis.call("PUBSUB", "NUMSUB", unpack(keys, from, to))
  for at = 2, #listeners, 2 do
    has_listener[#has_listener + 1] = tonumber(listeners[at]) > 0
  end
end
if ARGV[1] ~= "" then
  redis.call("HSET", KEYS[4], ARGV[1], ARGV[6])
end

local clients, raw_outputs, letters, at = {}, {}, {}, FIRST + 4 * count
for _ = 1, tonumber(ARGV[8]) do
  for _ = 1, tonumber(ARGV[at]) do
    clients[#clients + 1] = ARGV[at + 1]
  end
  at = at + 2
end
for _ = 1, tonumber(ARGV[9]) do
  raw_outputs[tonumber(ARGV[at])] = ARGV[at + 1]
  at = at + 2
end
for place = at, #ARGV, 2 do
  letters[tonumber(ARGV[place])] = ARGV[place + 1]
end

local committed = {}
for i, key in ipairs(keys) do
  local first = FIRST + 4 * i - 4
  local id, head, letter = ARGV[first + 1], ARGV[first + 2], letters[i]
  local document = committed[id] or documents[i]
  if letter then
    local letter_id = id ~= "" and id or string.match(letter, '"id":"([^"]*)"')
    keep_dead_letter(KEYS[2], KEYS[3], letter_id, letter, seconds())
  end
  local status = document and status_of(document)
  if status and ended(status) then
    reply[i] = status
  elseif id == "" or head == "" then
    reply[i] = "1"
  else
    local ended_document = head .. job_of(document, ARGV[3]) .. ARGV[4] .. ARGV[first + 3] .. "}}"
    keep_and_publish(key, ended_document, ARGV[2], clients[i], groups, has_listener[i])
    committed[id] = ended_document
    if raw_outputs[i] then
      redis.call("SETEX", PAYLOAD .. id .. ":out", ARGV[2], raw_outputs[i])
    end
    if ARGV[5] == "1" and not letter then
      redis.call("DEL", PAYLOAD .. id .. ":in")
    end
    reply[i] = "1"
  end
end
publish_groups(groups)
if ARGV[1] ~= "" then
  for from = 1, count, 1000 do
    redis.call("HDEL", KEYS[1], unpack(fields, from, math.min(from + 999, count)))
  end
end
return reply
