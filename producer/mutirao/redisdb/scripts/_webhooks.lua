-- Prelude of the scripts that end jobs: a job's webhook is delivered by a Celery task, which is queued in the step that ends the job.

local function push_webhook(document)
  if not string.find(document, '"webhook":"', 1, true) then
    return
  end
  -- A result may hold the word too; `job` comes last.
  local id, job = string.match(document, '^{"status":"%u+","task_id":"([^"]*)".*,"job":({.*)$')
  if not job or not string.find(job, '"webhook":"', 1, true) then
    return
  end
  redis.call("LPUSH", WEBHOOKS, '{"headers":{"id":"webhook-' .. id .. '","task":"' .. WEBHOOK_TASK .. '","lang":"py","root_id":"webhook-' .. id
    .. '","parent_id":null,"argsrepr":"(\'' .. id .. '\',)","kwargsrepr":"{}","retries":0},"properties":{"delivery_tag":"webhook-' .. id
    .. '","correlation_id":"webhook-' .. id .. '","body_encoding":null,"priority":0,"delivery_info":{"exchange":"","routing_key":"'
    .. WEBHOOKS .. '"}},"content-type":"application/json","content-encoding":"utf-8","body":"[[\\"' .. id .. '\\"],{},{}]"}')
end
