-- Describes the database, and the table TABLE that the search path finds, if there is one.
SELECT current_setting('server_encoding') AS encoding,
    (
        SELECT string_agg(attname || ' ' || format_type(atttypid, atttypmod), ', ' ORDER BY attnum)
        FROM pg_attribute
        WHERE attrelid = found.oid AND attnum > 0 AND NOT attisdropped
    ) AS columns,
    obj_description(found.oid, 'pg_class') AS comment,
    coalesce((
        SELECT bool_and(has_table_privilege(found.oid, privilege))
        FROM unnest(ARRAY['SELECT', 'INSERT', 'UPDATE', 'DELETE']) AS privilege
    ), true) AS has_privileges
FROM (SELECT to_regclass('TABLE')::oid AS oid) AS found
