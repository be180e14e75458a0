-- Write the QUEUED records of a call and push its envelopes: all of it, or nothing.
-- KEYS[1]: the list to push to.  KEYS[2]: the queue's wakeup tokens.  KEYS[3] and on: all stock lists of the queue, or all of the
--   tenant's in it, KEYS[1] among them.
-- ARGV[1]: "all", or one half of it where the queue is on another server than the records: "records", "push".
-- ARGV[2]: how long a finished record is kept, in seconds.  ARGV[3]: the deadline, in seconds from now.
-- ARGV[4]: how many requests may wait in these lists.
-- ARGV[5]: the prefix of a record's key.  ARGV[6], ARGV[7]: the parts of a payload's key before and after the id.
-- From ARGV[8], one group after another, each of requests that differ in no more than id, digest and values:
--   3 texts of the record: before the id, before the digest, after it (without the last two braces);
--   4 texts of the envelope: before the id twice, before the values, after them;
--   "1" where the values are offloaded;  the rows of each beyond one;  the number of requests;
--   3 a request: its id, the digest of its content, its values (base64 in the message, raw where offloaded).
-- Reply: {"queued", now, places of requests already known by this very content}, or, with nothing written,
--   {"taken", place} for an id of other content, or {"full", how many wait, how many are new}.
-- Invariant: a record's key is written once by this script, so a call that is sent again queues nothing twice. The exception is a
--   record that says queued while its request has vanished from its list, untaken (a purge, a list deleted by hand): it is queued again.
local GROUP_HEAD, CHUNK, PROBE_DISTANCE, PROBES_MAX, format = 10, 100, 100, 2000, string.format
local mode, record_prefix = ARGV[1], ARGV[5]
local now = seconds()
local reply = {"queued", string.format("%.4f", now)}

-- Call `visit` with the place of each request in ARGV, and that of its group.
local function requests(visit)
  local group = 8
  while group <= #ARGV do
    local last = group + GROUP_HEAD + 3 * (tonumber(ARGV[group + GROUP_HEAD - 1]) - 1)
    for at = group + GROUP_HEAD, last, 3 do
      visit(at, group)
    end
    group = last + 3
  end
end

local keys, stored = {}, 0
requests(function(at)
  keys[#keys + 1] = record_prefix .. ARGV[at]
end)
if mode ~= "push" then
  for first = 1, #keys, CHUNK do
    stored = stored + redis.call("EXISTS", unpack(keys, first, math.min(first + CHUNK - 1, #keys)))
  end
end

local function list_count(what, list)
  return tonumber(redis.call("HGET", LIST_COUNTS, what .. list))
end

-- Return whether a request that should wait has vanished: its number has neither been taken from its list nor stands there. A request
-- that was put back may stand a little before or after its position, so its neighbours are looked at too.
local probes_left = PROBES_MAX
local function vanished(id, document)
  local job = mode == "all" and string.match(document, '^{"status":"QUEUED".*"job":({.*)}$')
  local number = job and tonumber(string.match(job, '"line":(%-?%d+)'))
  local expires = number and tonumber(string.match(job, '"expires_at":([%d%.]+)'))
  if not expires or expires <= now then
    return false
  end
  local priority = string.match(job, '"priority":"(%l+)"')
  local list = KEYS[({high = 3, normal = 4, low = 5})[priority] or 4]
  local first = number - (list_count("", list) or 0)
  if first < 0 then
    return number >= (list_count("gone from ", list) or math.huge) and number < (list_count("gone to ", list) or 0)
  end
  local length = redis.call("LLEN", list)
  for off = 0, length > 0 and PROBE_DISTANCE or -1 do
    for _, at in ipairs(off == 0 and {first} or {first - off, first + off}) do
      local envelope = at >= 0 and at < length and redis.call("LINDEX", list, -1 - at)
      if envelope and string.match(envelope, '"id":%s*"([^"]*)"') == id then
        return false
      end
    end
    probes_left = probes_left - 1
    if probes_left == 0 then -- the next submit finds out
      return false
    end
  end
  return true
end

local digests, new, conflict, place = {}, 0, nil, 0
requests(function(at)
  place = place + 1
  local id, digest = ARGV[at], ARGV[at + 1]
  local stored_digest = digests[id]
  if not stored_digest and stored > 0 then
    local document = redis.call("GET", keys[place])
    -- `job` is the last field of a record, and a result before it may hold anything.
    stored_digest = document and (string.match(document, '.*"job":{.-"digest":"(%x+)"') or "of another client")
    if stored_digest == digest and vanished(id, document) then
      stored_digest = nil
    end
  end
  if stored_digest and stored_digest ~= digest then
    conflict = conflict or place
  elseif stored_digest then
    reply[#reply + 1] = place
    keys[place] = false
  else
    new = new + 1
  end
  digests[id] = digest
end)
if conflict then
  return {"taken", conflict}
end

local waiting_before  -- in the list that is pushed to
if mode ~= "records" and new > 0 then
  local depth = 0
  for at = 3, #KEYS do
    local length = redis.call("LLEN", KEYS[at])
    depth = depth + length
    waiting_before = KEYS[at] == KEYS[1] and length or waiting_before
  end
  if depth + new > tonumber(ARGV[4]) then
    return {"full", depth, new}
  end
end

-- The number of the next request in its list, known only where the list is on this server. Where the list is empty though not all of
-- it has been taken, somebody purged it: numbers go on from there, and the range that vanished is kept.
local number = mode == "all" and waiting_before and waiting_before + (list_count("", KEYS[1]) or 0)
local next_number = number and list_count("next ", KEYS[1]) or 0
if waiting_before == 0 and number and next_number > number then
  local from, to = list_count("gone from ", KEYS[1]) or 0, list_count("gone to ", KEYS[1]) or 0
  local gone_from = to == number and to > from and from or number
  redis.call("HINCRBY", LIST_COUNTS, "gone from " .. KEYS[1], gone_from - from)
  redis.call("HINCRBY", LIST_COUNTS, "gone to " .. KEYS[1], next_number - to)
  redis.call("HINCRBY", LIST_COUNTS, KEYS[1], next_number - number)
  number = next_number
end

local kept_s = math.ceil(tonumber(ARGV[2]) + tonumber(ARGV[3]))
local times = string.format(',"queued_at":%.4f,"expires_at":%.4f', now, now + tonumber(ARGV[3]))
local before_end = times .. (number and ',"line":' or "")
local envelopes, extra_rows = {}, 0
place = 0
requests(function(at, group)
  place = place + 1
  if not keys[place] then
    return
  end
  local id, values = ARGV[at], ARGV[at + 2]
  local is_offloaded = ARGV[group + 7] == "1"
  if mode ~= "push" then
    redis.call("SETEX", keys[place], kept_s,
      ARGV[group] .. id .. ARGV[group + 1] .. ARGV[at + 1] .. ARGV[group + 2] .. before_end .. (number and format("%d", number) or "") .. "}}")
    number = number and number + 1
    if is_offloaded then
      redis.call("SETEX", ARGV[6] .. id .. ARGV[7], kept_s, values)
    end
  end
  if mode ~= "records" then
    extra_rows = extra_rows + ARGV[group + 8]
    envelopes[#envelopes + 1] = ARGV[group + 3] .. id .. ARGV[group + 4] .. id .. ARGV[group + 5] .. (is_offloaded and "" or values)
      .. ARGV[group + 6]
    if #envelopes == CHUNK then
      redis.call("LPUSH", KEYS[1], unpack(envelopes))
      envelopes = {}
    end
  end
end)
if #envelopes > 0 then
  redis.call("LPUSH", KEYS[1], unpack(envelopes))
end
if number then
  redis.call("HINCRBY", LIST_COUNTS, "next " .. KEYS[1], number - next_number)
end
if waiting_before then
  if waiting_before == 0 and extra_rows > 0 then
    extra_rows = extra_rows - tonumber(redis.call("HGET", LIST_COUNTS, "rows " .. KEYS[1]) or 0)
  end
  count_waiting(KEYS[1], extra_rows)
  if redis.call("LLEN", KEYS[2]) < 8 then
    redis.call("LPUSH", KEYS[2], "1")
  end
end
return reply
