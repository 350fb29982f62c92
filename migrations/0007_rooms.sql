-- What users report to those who run the server, and events that are to be sent later.

CREATE TABLE reports (
    num {identity},
    ts BIGINT NOT NULL,
    reporter BIGINT NOT NULL,
    -- what is reported: an event of a room, a room, or a user; the others are NULL
    room BIGINT,
    event_id TEXT,
    user_num BIGINT,
    reason TEXT NOT NULL
);
CREATE INDEX reports_by_reporter ON reports (reporter, num);

-- Delayed events (MSC4140). What became of them stays for a while, so that their sender can ask.
CREATE TABLE delayed_events (
    num {identity},
    -- secret: whoever knows it may cancel, restart or send the event
    delay_id TEXT NOT NULL UNIQUE,
    user_num BIGINT NOT NULL,
    device BIGINT NOT NULL,
    txn_id TEXT,
    room BIGINT NOT NULL,
    kind TEXT NOT NULL,
    -- NULL: no state event
    state_key TEXT,
    -- JSON
    content TEXT NOT NULL,
    delay_ms BIGINT NOT NULL,
    -- when it was scheduled or restarted
    running_since BIGINT NOT NULL,
    -- running_since + delay_ms; NULL once it was sent, cancelled or refused
    due_ts BIGINT,
    finalised_ts BIGINT,
    -- the event that it became
    event_id TEXT,
    -- JSON: why it was refused
    error TEXT
);
CREATE UNIQUE INDEX delayed_events_by_txn ON delayed_events (device, room, kind, txn_id) WHERE txn_id IS NOT NULL;
CREATE INDEX delayed_events_due ON delayed_events (due_ts) WHERE due_ts IS NOT NULL;
CREATE INDEX delayed_events_by_user ON delayed_events (user_num, num);
CREATE INDEX delayed_state_by_key ON delayed_events (room, kind, state_key) WHERE due_ts IS NOT NULL;
