-- Counts the jobs that have a time, and those that are due. `entry.lua` describes the keys and the reply.
-- ARGV: the id of this call
local call = ARGV[1]
require_master()
local overdue = redis.call('ZCOUNT', KEYS[1], '-inf', digits(now))
return {'count', call, 'counted', {redis.call('ZCARD', KEYS[1]), overdue}}
