-- Gives a claim back. The hash at KEYS[1] is as `claim.lua` says.
-- ARGV: event, the token of the claim
local event, token = ARGV[1], ARGV[2]

local held = redis.call('HGET', KEYS[1], event)
if held and string.match(held, '^claimed (%d+)') == token then
    redis.call('HDEL', KEYS[1], event)
end
return 'released'
