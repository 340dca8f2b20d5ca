-- Returns the server's time in µs.
SELECT 'now', (extract(epoch FROM clock_timestamp()) * 1000000)::bigint
