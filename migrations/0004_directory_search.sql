-- What a search of the public directory looks at: the name, topic and canonical alias of a room, each in a line
-- of its own and in lower case. The databases themselves differ in which letters they know to lower.
ALTER TABLE rooms ADD COLUMN search_text TEXT NOT NULL DEFAULT '';

UPDATE rooms
SET search_text = LOWER(COALESCE(name, '')) || '
' || LOWER(COALESCE(topic, '')) || '
' || LOWER(COALESCE(canonical_alias, ''));
