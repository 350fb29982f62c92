-- Each commit writes a number of its own, so that a server whose COMMIT was not answered can find out afterwards
-- whether the batch was stored.

ALTER TABLE journal ADD COLUMN batch BIGINT NOT NULL DEFAULT 0;
