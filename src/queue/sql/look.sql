-- Describes the database and apalis' tables, if they exist. It needs no permission.
SELECT current_setting('server_encoding') AS encoding,
    current_setting('server_version_num')::int AS server_version,
    to_regclass('apalis._sqlx_migrations') IS NOT NULL AS has_history,
    (
        SELECT string_agg(attname || ' ' || format_type(atttypid, atttypmod), ', ' ORDER BY attnum)
        FROM pg_attribute
        WHERE attrelid = to_regclass('apalis.jobs') AND attnum > 0 AND NOT attisdropped
    ) AS columns,
    obj_description(to_regclass('apalis.mx_job_webhook_done'), 'pg_class') AS comment,
    coalesce((
        SELECT bool_and(has_table_privilege(table_name, privilege))
        FROM unnest(ARRAY[to_regclass('apalis.jobs'), to_regclass('apalis.workers')]) AS table_name,
            unnest(ARRAY['SELECT', 'INSERT', 'UPDATE', 'DELETE']) AS privilege
        WHERE table_name IS NOT NULL
    ), true) AS has_privileges
