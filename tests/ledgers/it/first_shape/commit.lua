-- Settles an event. The hash at KEYS[1] is as `claim.lua` says.
-- ARGV: event, its time or '', the token of the claim, time-to-live in ms
local event, at, token, ttl = ARGV[1], ARGV[2], ARGV[3], ARGV[4]

local held = redis.call('HMGET', KEYS[1], event, 'last', 'token')
local first = string.match(held[1] or '', '^settled (%d+)')
if first and first ~= token then
    return 'overtaken'
end
-- Whatever became of the claim, its holder has succeeded: another may hold the event by now, or it
-- was released, or lost with a server.
redis.call('HSET', KEYS[1], event, 'settled ' .. token)
if not held[3] or tonumber(held[3]) < tonumber(token) then
    redis.call('HSET', KEYS[1], 'token', token)
end
if at ~= '' and (not held[2] or held[2] < at) then
    redis.call('HSET', KEYS[1], 'last', at)
end
if redis.call('PTTL', KEYS[1]) < tonumber(ttl) then
    redis.call('PEXPIRE', KEYS[1], ttl)
end
return 'settled'
