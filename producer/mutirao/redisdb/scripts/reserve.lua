-- Take requests out of their queues into the hash of what this worker has reserved, in one step.
-- KEYS[1]: the leases.  KEYS[2]: the workers' free slots.  KEYS[3]: this worker's reservations.
-- ARGV[1]: the worker.  ARGV[2]: its lease in seconds.  ARGV[3]: its free slots.  ARGV[4]: how many more it has in a moment.
-- ARGV[5]: the last tag it gave.  ARGV[6]: how many times it has taken something.  ARGV[7]: "1" where records are on this server.
-- ARGV[8]: how long an ended record is kept.  ARGV[9]: the time of ending, as Celery writes it.  ARGV[10]: the separator of kombu's
--   priority steps.  ARGV[11]: "1" where the call was sent before anything waited: it takes nothing once the worker has no lease.
-- ARGV, 4 a queue from ARGV[12]: its name, the most requests that a free slot may get, the most to take ahead for slots that are busy,
--   how many are held for these already.
-- Reply: {now, 1 if the lease had lapsed, those of the queues in which something is left, how many jobs have ever been cancelled, the earliest deadline
--   of what is taken ("" for none), {list key, envelope, ...} taken, in the order of their tags, {list key, envelope, why, ...}
--   ended before they could be taken}; nil where it was sent early and nothing is to be done.
-- Invariant: an envelope is always in exactly one place: a queue's list, one worker's reservations, or ended.
-- Invariant: a tenant whose lists are all empty is not in the ring of the queue.
-- Redis takes nothing back of a script that it stops half-way, as at a key of another type: what had been taken is put back then.
local worker, free, starting = ARGV[1], tonumber(ARGV[3]), tonumber(ARGV[4])
local tag, turn, recorded = tonumber(ARGV[5]), tonumber(ARGV[6]), ARGV[7] == "1"
local FIRST, STEPS, FEW = 12, {"", "3", "6", "9"}, 8

if ARGV[11] == "1" then
  local keys = {}
  for at = FIRST, #ARGV, 4 do
    for _, step in ipairs(STEPS) do
      keys[#keys + 1] = step == "" and ARGV[at] or ARGV[at] .. ARGV[10] .. step
    end
    keys[#keys + 1] = TENANTS .. ARGV[at]
  end
  if redis.call("EXISTS", unpack(keys)) == 0 or not redis.call("ZSCORE", KEYS[1], worker) then
    return false
  end
end

local now = seconds()
local lapsed = 0
though_full()
if redis.call("ZADD", KEYS[1], "XX", "CH", now + tonumber(ARGV[2]), worker) == 0 then
  lapsed = redis.call("ZADD", KEYS[1], now + tonumber(ARGV[2]), worker)
end

-- How many slots of other live workers could serve this queue right now, and how many such workers there are.
local function others(queue)
  local members = redis.call("SMEMBERS", CONSUMERS .. queue)
  if #members < 2 then
    return 0, 0
  end
  local leases, slots = redis.call("ZMSCORE", KEYS[1], unpack(members)), redis.call("HMGET", KEYS[2], unpack(members))
  local idle, count = 0, 0
  for i, member in ipairs(members) do
    if not leases[i] then
      redis.call("SREM", CONSUMERS .. queue, member)
    elseif member ~= worker and tonumber(leases[i]) > now then
      idle, count = idle + tonumber(slots[i] or 0), count + 1
    end
  end
  return idle, count
end

-- A share, not a grab: what others could start at once is left to them; more than that is taken ahead only where they are full, and
-- so that all hold alike.
local function wanted(queue, waiting, cap, ahead, held)
  local idle, count = others(queue)
  local share = free > 0 and math.min(math.ceil(waiting * free / (free + idle)), free * cap) or 0
  local rest = waiting - share - idle * cap
  if rest > 0 and ahead > 0 then
    share = share + math.max(0, math.min(ahead, math.ceil((rest + held) / (count + 1)) - held))
  end
  return math.min(share, waiting)
end

local taken, gone, left = {}, {}, {}
local entries, ids, keys, earliest = {}, {}, {}, math.huge
local reserved = false

-- One who waits in a queue: its lists, and what it has been served; "" is the tenant of the stock lists.
local function waiter(queue, tenant, served)
  local found = {tenant = tenant, served = served, lists = {}, lengths = {}, waiting = 0, share = 0, got = 0, cost = 0}
  for i, step in ipairs(STEPS) do
    local list = step == "" and queue or queue .. ARGV[10] .. step
    if tenant ~= "" then
      list = queue .. ARGV[10] .. (step == "" and "0" or step) .. ARGV[10] .. tenant
    end
    found.lists[i], found.lengths[i] = list, redis.call("LLEN", list)
    found.waiting = found.waiting + found.lengths[i]
  end
  return found
end

-- Who waits in a queue, as many as may matter, the least served first; how many requests wait there, and the ring of those who share.
local function waiters_of(queue, most)
  local ring, stock = TENANTS .. queue, waiter(queue, "", 0)
  local members = redis.call("ZRANGE", ring, 0, math.max(1, most - 1), "WITHSCORES")
  if #members == 0 then
    return {stock}, stock.waiting, nil
  end
  if stock.waiting > 0 then
    join(queue, "")
    members = redis.call("ZRANGE", ring, 0, math.max(1, most - 1), "WITHSCORES")
  end
  local found, waiting = {}, math.max(0, redis.call("ZCARD", ring) - #members / 2)
  for i = 1, #members, 2 do
    local each = members[i] == "" and stock or waiter(queue, members[i], 0)
    each.served = tonumber(members[i + 1])
    if each.waiting > 0 then
      found[#found + 1] = each
      waiting = waiting + each.waiting
    else
      redis.call("ZREM", ring, members[i])
    end
  end
  return found, waiting, ring
end

-- Share what is taken among those who wait: the least served first, until all have been served alike.
local function share_out(waiters, count)
  while count > 0 do
    local least, above, group = math.huge, math.huge, {}
    for _, each in ipairs(waiters) do
      if each.share < each.waiting then
        local level = each.served + each.share
        if level < least then
          least, above, group = level, least, {each}
        elseif level == least then
          group[#group + 1] = each
        else
          above = math.min(above, level)
        end
      end
    end
    if #group == 0 then
      return
    end
    local by = math.min(math.max(1, math.floor(count / #group)), above - least)
    for _, each in ipairs(group) do
      local more = math.min(by, each.waiting - each.share, count)
      each.share, count = each.share + more, count - more
    end
  end
end

local function pop(from, i, count)
  local key = from.lists[i]
  local popped = count >= 1 and redis.call("RPOP", key, count)
  if not popped then
    return 0
  end
  for _, envelope in ipairs(popped) do
    entries[#entries + 1] = {key, envelope}
  end
  -- Among few it costs less to look for one of several rows than to ask whether there is any.
  local noted_rows = #popped > FEW and tonumber(redis.call("HGET", LINES, "rows " .. key) or 0)
  local counted = 0
  for _, envelope in ipairs(popped) do
    local id = string.match(envelope, '"id":%s*"([^"]*)"') or ""
    ids[#ids + 1] = id
    keys[#keys + 1] = RECORD .. id
    if noted_rows ~= 0 then
      counted = counted + more_rows_of(envelope)
    end
  end
  redis.call("HINCRBY", LINES, key, #popped)
  from.lengths[i] = from.lengths[i] - #popped
  if from.lengths[i] == 0 and (counted > 0 or (noted_rows or 0) ~= 0) then
    redis.call("HDEL", LINES, "rows " .. key)
  elseif counted > 0 then
    redis.call("HINCRBY", LINES, "rows " .. key, -counted)
  end
  from.got, from.cost = from.got + #popped, from.cost + #popped + counted
  return #popped
end

-- Take one's share. Urgent first, but an eighth for each lower step that waits, and every eighth time the other way round: nobody starves.
local function take(from)
  local first, last, by, rest = 1, #STEPS, 1, from.share
  if turn % 8 == 7 then
    first, last, by = #STEPS, 1, -1
  end
  for i = first, last, by do
    if from.lengths[i] > 0 and rest > 0 then
      local kept = 0
      for j = i + by, last, by do
        kept = kept + math.min(from.lengths[j], math.floor(from.share / 8))
      end
      rest = rest - pop(from, i, math.min(from.lengths[i], math.max(1, rest - kept)))
    end
  end
  for i = first, last, by do
    if rest > 0 then
      rest = rest - pop(from, i, rest)
    end
  end
end

-- Note in the ring what everyone was served. Whose lists are empty leaves it; without tenants there is none.
local function settle_up(ring, waiters)
  for _, each in ipairs(waiters) do
    if each.got > 0 and each.got >= each.waiting then
      redis.call("ZREM", ring, each.tenant)
    elseif each.got > 0 then
      redis.call("ZINCRBY", ring, each.cost, each.tenant)
    end
  end
  if redis.call("ZCARD", ring) == 1 and redis.call("ZSCORE", ring, "") then
    redis.call("DEL", ring)
  end
end

local cancelled = "0"

local function take_all()
  for at = FIRST, #ARGV, 4 do
    local queue, cap, ahead = ARGV[at], tonumber(ARGV[at + 1]), tonumber(ARGV[at + 2])
    local waiters, waiting, ring = waiters_of(queue, cap * free + ahead)
    if waiting > 0 then
      local before = #entries
      share_out(waiters, wanted(queue, waiting, cap, ahead, tonumber(ARGV[at + 3])))
      -- Who gets little gets it first: it is then in the next batch.
      table.sort(waiters, function(a, b) return a.share < b.share or (a.share == b.share and a.served < b.served) end)
      for _, each in ipairs(waiters) do
        take(each)
      end
      local got = #entries - before
      free = math.max(0, free - got)
      if waiting > got then
        left[#left + 1] = queue
        if redis.call("LLEN", BELL .. queue) < 8 then
          redis.call("LPUSH", BELL .. queue, "1")
        end
      else
        redis.call("DEL", BELL .. queue)
      end
    end
    if ring then
      settle_up(ring, waiters)
    end
  end
  redis.call("HSET", KEYS[2], worker, math.max(0, tonumber(ARGV[3]) + starting - #entries))
end

local function keep_all()
  if recorded and #entries == 0 then
    cancelled = redis.call("GET", CANCELLED)
  elseif #entries > 0 then
    local documents = {}
    if recorded then
      keys[#keys + 1] = CANCELLED
      for from = 1, #keys, 1000 do
        for _, document in ipairs(redis.call("MGET", unpack(keys, from, math.min(from + 999, #keys)))) do
          documents[#documents + 1] = document
        end
      end
    end
    cancelled = documents[#entries + 1]
    local fields, groups = {}, {}
    for i, entry in ipairs(entries) do
      local document, why = documents[i], nil
      if document then
        local status = status_of(document)
        if ended(status) then
          why = status
        else
          local deadline = deadline_of(document)
          if deadline and deadline <= now and status == "QUEUED" then
            why = "expired"
          elseif deadline and deadline < earliest then
            earliest = deadline
          end
        end
        if why == "expired" then
          local reply = string.match(entry[2], '"reply":%s*"([^"]*)"')
          announce(keys[i], revoked(document, ids[i], why, ARGV[9], now), ARGV[8], reply, groups)
          redis.call("DEL", PAYLOAD .. ids[i] .. ":in")
        end
      end
      if why then
        gone[#gone + 1], gone[#gone + 2], gone[#gone + 3] = entry[1], entry[2], why
      else
        tag = tag + 1
        taken[#taken + 1], taken[#taken + 2] = entry[1], entry[2]
        fields[#fields + 1], fields[#fields + 2] = tag .. " " .. entry[1], entry[2]
      end
    end
    for from = 1, #fields, 1000 do
      redis.call("HSET", KEYS[3], unpack(fields, from, math.min(from + 999, #fields)))
    end
    reserved = true
    tell(groups)
  end
end

local function put_all_back()
  for i = #entries, 1, -1 do
    redis.call("RPUSH", entries[i][1], entries[i][2])
    pcall(noted, entries[i][1], 0)
  end
end

local taken_all, problem = pcall(take_all)
if taken_all then
  taken_all, problem = pcall(keep_all)
end
if not taken_all then
  if not reserved then
    put_all_back()
  end
  return type(problem) == "table" and problem or redis.error_reply(problem)
end
return {string.format("%.6f", now), lapsed, left, cancelled or "0",
  earliest < math.huge and string.format("%.4f", earliest) or "", taken, gone}
