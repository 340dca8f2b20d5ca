-- Gives a claim back. The hash at KEYS[1] is as `claim.lua` says.
-- ARGV: event, the token of the claim
local event, token = ARGV[1], ARGV[2]

local held = redis.call('HGET', KEYS[1], event)
local by, claim = string.match(held or '', '^claimed (%d+) %d+ (%x+)$')
if by == token then
    redis.call('HSET', KEYS[1], event, 'released ' .. token .. ' ' .. claim)
end
return 'released'
