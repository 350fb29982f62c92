-- Events that are delivered reliably for a while (MSC4354). A row is removed when the event is no longer sticky.
CREATE TABLE sticky_events (
    event_id TEXT PRIMARY KEY,
    room BIGINT NOT NULL,
    sender BIGINT NOT NULL,
    -- the position in the journal from which on clients are sent it; NULL while it is soft-failed
    shown_at BIGINT,
    -- when it is no longer sticky, in milliseconds since the Unix epoch
    expires_ts BIGINT NOT NULL
);
CREATE INDEX sticky_events_by_room ON sticky_events (room);
CREATE INDEX sticky_events_by_sender ON sticky_events (sender);
CREATE INDEX sticky_events_by_expiry ON sticky_events (expires_ts);

-- how long the event is sticky once it is sent, in milliseconds
ALTER TABLE delayed_events ADD COLUMN sticky_ms BIGINT;
