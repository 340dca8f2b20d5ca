-- Settles an event. The hash at KEYS[1] is as `claim.lua` says.
-- ARGV: event, its time or '', the token of the claim, time-to-live in ms
local event, at, token, ttl = ARGV[1], ARGV[2], ARGV[3], ARGV[4]

local held = redis.call('HMGET', KEYS[1], event, 'last', 'token')
-- A claim that is not there was lost with a server. This one has succeeded.
if held[1] and string.match(held[1], '^%a+ (%d+)') ~= token then
    return 'overtaken'
end
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
