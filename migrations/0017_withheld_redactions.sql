-- Clients see a redaction only once it has taken effect.

-- whether the event is a redaction that has not taken effect: its target is unknown, or its sender may not redact it
ALTER TABLE events ADD COLUMN withheld BOOLEAN NOT NULL DEFAULT FALSE;
