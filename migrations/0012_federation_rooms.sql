-- What rooms need that other servers take part in: a graph that forks, history that comes later, and gaps in it.

-- the snapshot of the state after it, where it is neither `position` (as on the chain of the room's own state) nor
-- `state` (for what is no state event, or was rejected)
ALTER TABLE events ADD COLUMN state_after BIGINT;
-- whether it came into the timeline as history, when events that follow it stood there already
ALTER TABLE events ADD COLUMN backfilled BOOLEAN NOT NULL DEFAULT FALSE;
-- whether this server sends it to others: it was made here, or signed for this server to send it on
ALTER TABLE events ADD COLUMN goes_out BOOLEAN NOT NULL DEFAULT FALSE;

-- What changed in a span of time is read from the chain of the room's own state.
DROP INDEX state_events_by_position;
CREATE INDEX state_entries_by_snapshot ON state_entries (chain, snapshot);
CREATE INDEX state_snapshots_by_chain ON state_snapshots (chain, id);

-- Events that others follow and that this server does not have.
CREATE TABLE gaps (
    room BIGINT NOT NULL,
    -- the id of the event that is missing
    event_id TEXT NOT NULL,
    -- the place in the timeline of the oldest event that follows it
    timeline BIGINT NOT NULL,
    PRIMARY KEY (room, event_id)
);
CREATE INDEX gaps_by_place ON gaps (room, timeline);

-- Redactions that came before the event that they redact.
CREATE TABLE waiting_redactions (
    room BIGINT NOT NULL,
    -- the event that they redact
    target TEXT NOT NULL,
    -- the redaction
    event_id TEXT NOT NULL,
    PRIMARY KEY (room, target, event_id)
);
