-- What wrk sends: chat requests of about 1 KB, each with a message of its own, so that no cache can answer.
-- wrk ... -s chat.lua URL -- "Header: value" ...   prints its figures as one line of JSON after the word FIGURES

local before = [[{"model":"gpt-4o-mini","messages":[{"role":"system","content":"You answer customers of a shop for outdoor gear. Be brief and polite. Use only what the order system says; never promise a date that it does not hold. If the customer is angry, say sorry once. If the customer asks for money back, say which steps follow and how long each takes. Answer in the customer's language. Never name other customers, prices of suppliers or notes of colleagues. End with the number of the case."},{"role":"user","content":"Hello, I ordered a tent and two sleeping mats nine days ago and the page still says that it was handed to the carrier. We leave on Friday for the Dolomites with three children and can't go without the tent, so please tell me where it is and whether I could fetch it from the depot myself. My order is ]]
local after = [[, paid by card, sent to the address of my office. Thank you, Jo"}],"temperature":0.2,"max_tokens":256}]]
local number = math.floor(os.time() * 1000) + tonumber(tostring({}):match("0x%x%x%x%x(%x%x%x%x)") or "0", 16)

function init(arguments)
  wrk.method = "POST"
  wrk.headers["Content-Type"] = "application/json"
  for _, header in ipairs(arguments) do
    local name, value = header:match("^([^:]+):%s*(.*)$")
    if name then wrk.headers[name] = value end
  end
end

function request()
  number = number + 1
  return wrk.format(nil, nil, nil, before .. number .. after)
end

function done(summary, latency, requests)
  local errors = summary.errors
  print(string.format(
    'FIGURES {"requests":%d,"seconds":%f,"p50_ms":%f,"p99_ms":%f,"not_2xx":%d,"broken":%d}',
    summary.requests, summary.duration / 1e6, latency:percentile(50) / 1000, latency:percentile(99) / 1000,
    errors.status, errors.connect + errors.read + errors.write + errors.timeout))
end
