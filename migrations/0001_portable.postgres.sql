-- SQLite ships json_each(); give PostgreSQL the one overload that the shared SQL uses, so that
-- `IN (SELECT value FROM json_each($1))` is one statement on both.
CREATE FUNCTION json_each(list TEXT) RETURNS TABLE (value TEXT)
LANGUAGE sql IMMUTABLE PARALLEL SAFE
AS $$ SELECT jsonb_array_elements_text(list::jsonb) $$;
