-- Describes the database and apalis' tables, if they exist. It needs no permission: `to_regclass` would need that of
-- using the schema.
WITH named AS (
    SELECT nspname, pg_namespace.oid AS schema_id, pg_class.oid, relname
    FROM pg_namespace
    LEFT JOIN pg_class ON relnamespace = pg_namespace.oid
        AND relname IN ('jobs', 'workers', '_sqlx_migrations', 'mx_job_webhook_done')
    WHERE nspname = 'apalis'
)
SELECT current_setting('server_encoding') AS encoding,
    current_setting('server_version_num')::int AS server_version,
    EXISTS (SELECT FROM named WHERE relname = '_sqlx_migrations') AS has_history,
    (
        SELECT string_agg(attname || ' ' || format_type(atttypid, atttypmod), ', ' ORDER BY attnum)
        FROM named JOIN pg_attribute ON attrelid = named.oid
        WHERE relname = 'jobs' AND attnum > 0 AND NOT attisdropped
    ) AS columns,
    (SELECT obj_description(oid, 'pg_class') FROM named WHERE relname = 'mx_job_webhook_done') AS comment,
    coalesce((SELECT bool_and(has_schema_privilege(schema_id, 'USAGE')) FROM named), true) AS may_use_schema,
    coalesce((
        SELECT bool_and(has_table_privilege(oid, privilege))
        FROM named, unnest(ARRAY['SELECT', 'INSERT', 'UPDATE', 'DELETE']) AS privilege
        WHERE relname IN ('jobs', 'workers')
    ), true) AS has_privileges
