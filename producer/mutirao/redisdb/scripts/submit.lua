-- Write the QUEUED records of a call and push its envelopes: all of it, or nothing.
-- KEYS[1]: the list to push to.  KEYS[2]: the queue's bell.  KEYS[3] and on: all stock lists of the queue, or all of the tenant's in it,
--   KEYS[1] among them.
-- ARGV[1]: "all", or one half of it where the queue is on another server than the records: "records", "push".
-- ARGV[2]: how long a finished record is kept, in seconds.  ARGV[3]: the deadline, in seconds from now.
-- ARGV[4]: how many requests may wait in these lists.
-- ARGV[5]: what a record's key begins with.  ARGV[6], ARGV[7]: what stands before and after the id in a payload's key.
-- From ARGV[8], one run after another, each of requests that differ in no more than id, digest and values:
--   3 texts of the record: before the id, before the digest, after it (without the last two braces);
--   4 texts of the envelope: before the id twice, before the values, after them;
--   "1" where the values go beside the message;  the rows of each beyond one;  how many requests;
--   3 a request: its id, the digest of its content, its values (base64 in the message, raw beside it).
-- Reply: {"queued", now, places of requests already known by this very content}, or, with nothing written,
--   {"taken", place} for an id of other content, or {"full", how many wait, how many are new}.
-- Invariant: a record's key is written once by this script, so a call that is sent again queues nothing twice; but for one that says
--   queued and has vanished from its list with nobody taking it (a purge, a list deleted by hand): it is queued again.
local RUN, CHUNK, LOOKED_AT, LOOKS_MAX, format = 10, 100, 100, 2000, string.format
local mode, prefix = ARGV[1], ARGV[5]
local time = redis.call("TIME")
local now = tonumber(time[1]) + tonumber(time[2]) / 1000000
local reply = {"queued", string.format("%.4f", now)}

local function requests(visit)
  local run = 8
  while run <= #ARGV do
    local last = run + RUN + 3 * (tonumber(ARGV[run + RUN - 1]) - 1)
    for at = run + RUN, last, 3 do
      visit(at, run)
    end
    run = last + 3
  end
end

local keys, stored = {}, 0
requests(function(at)
  keys[#keys + 1] = prefix .. ARGV[at]
end)
if mode ~= "push" then
  for first = 1, #keys, CHUNK do
    stored = stored + redis.call("EXISTS", unpack(keys, first, math.min(first + CHUNK - 1, #keys)))
  end
end

local function count_of(what, list)
  return tonumber(redis.call("HGET", LINES, what .. list))
end

-- Whether a request that is to wait has vanished: its number has neither been taken from its list nor stands there. What was given
-- back may stand a little before or after, so a few are looked at.
local looks = LOOKS_MAX
local function vanished(id, document)
  local job = mode == "all" and string.match(document, '^{"status":"QUEUED".*"job":({.*)}$')
  local number = job and tonumber(string.match(job, '"line":(%-?%d+)'))
  local expires = number and tonumber(string.match(job, '"expires_at":([%d%.]+)'))
  if not expires or expires <= now then
    return false
  end
  local priority = string.match(job, '"priority":"(%l+)"')
  local list = KEYS[({high = 3, normal = 4, low = 5})[priority] or 4]
  local first = number - (count_of("", list) or 0)
  if first < 0 then
    return number >= (count_of("gone from ", list) or math.huge) and number < (count_of("gone to ", list) or 0)
  end
  local length = redis.call("LLEN", list)
  for off = 0, length > 0 and LOOKED_AT or -1 do
    for _, at in ipairs(off == 0 and {first} or {first - off, first + off}) do
      local envelope = at >= 0 and at < length and redis.call("LINDEX", list, -1 - at)
      if envelope and string.match(envelope, '"id":%s*"([^"]*)"') == id then
        return false
      end
    end
    looks = looks - 1
    if looks == 0 then -- the next submit finds out
      return false
    end
  end
  return true
end

local seen, new, taken, place = {}, 0, nil, 0
requests(function(at)
  place = place + 1
  local id, digest = ARGV[at], ARGV[at + 1]
  local known = seen[id]
  if not known and stored > 0 then
    local document = redis.call("GET", keys[place])
    -- `job` is the last field of a record, and a result before it may hold anything.
    known = document and (string.match(document, '.*"job":{.-"digest":"(%x+)"') or "of another client")
    if known == digest and vanished(id, document) then
      known = nil
    end
  end
  if known and known ~= digest then
    taken = taken or place
  elseif known then
    reply[#reply + 1] = place
    keys[place] = false
  else
    new = new + 1
  end
  seen[id] = digest
end)
if taken then
  return {"taken", taken}
end

local waited  -- in the list that is pushed to
if mode ~= "records" and new > 0 then
  local depth = 0
  for at = 3, #KEYS do
    local length = redis.call("LLEN", KEYS[at])
    depth = depth + length
    waited = KEYS[at] == KEYS[1] and length or waited
  end
  if depth + new > tonumber(ARGV[4]) then
    return {"full", depth, new}
  end
end

-- What the next one's number in its list is: known only where the list is. Where the list is empty though not all of it has been
-- taken, somebody purged it: numbers go on from there, and which have gone is noted.
local line = mode == "all" and waited and waited + (count_of("", KEYS[1]) or 0)
local next_line = line and count_of("next ", KEYS[1]) or 0
if waited == 0 and line and next_line > line then
  local from, to = count_of("gone from ", KEYS[1]) or 0, count_of("gone to ", KEYS[1]) or 0
  local gone_from = to == line and to > from and from or line
  redis.call("HINCRBY", LINES, "gone from " .. KEYS[1], gone_from - from)
  redis.call("HINCRBY", LINES, "gone to " .. KEYS[1], next_line - to)
  redis.call("HINCRBY", LINES, KEYS[1], next_line - line)
  line = next_line
end

local kept = math.ceil(tonumber(ARGV[2]) + tonumber(ARGV[3]))
local times = string.format(',"queued_at":%.4f,"expires_at":%.4f', now, now + tonumber(ARGV[3]))
local before_end = times .. (line and ',"line":' or "")
local envelopes, more_rows = {}, 0
place = 0
requests(function(at, run)
  place = place + 1
  if not keys[place] then
    return
  end
  local id, values = ARGV[at], ARGV[at + 2]
  local beside = ARGV[run + 7] == "1"
  if mode ~= "push" then
    redis.call("SETEX", keys[place], kept,
      ARGV[run] .. id .. ARGV[run + 1] .. ARGV[at + 1] .. ARGV[run + 2] .. before_end .. (line and format("%d", line) or "") .. "}}")
    line = line and line + 1
    if beside then
      redis.call("SETEX", ARGV[6] .. id .. ARGV[7], kept, values)
    end
  end
  if mode ~= "records" then
    more_rows = more_rows + ARGV[run + 8]
    envelopes[#envelopes + 1] = ARGV[run + 3] .. id .. ARGV[run + 4] .. id .. ARGV[run + 5] .. (beside and "" or values)
      .. ARGV[run + 6]
    if #envelopes == CHUNK then
      redis.call("LPUSH", KEYS[1], unpack(envelopes))
      envelopes = {}
    end
  end
end)
if #envelopes > 0 then
  redis.call("LPUSH", KEYS[1], unpack(envelopes))
end
if line then
  redis.call("HINCRBY", LINES, "next " .. KEYS[1], line - next_line)
end
if waited then
  if waited == 0 and more_rows > 0 then
    more_rows = more_rows - tonumber(redis.call("HGET", LINES, "rows " .. KEYS[1]) or 0)
  end
  noted(KEYS[1], more_rows)
  if redis.call("LLEN", KEYS[2]) < 8 then
    redis.call("LPUSH", KEYS[2], "1")
  end
end
return reply
