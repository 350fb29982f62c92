-- Requests to redact what relates to an event, also what arrives from other servers for some time after the request.
CREATE TABLE related_redactions (
    room BIGINT NOT NULL,
    -- the id of the event that the others relate to
    target TEXT NOT NULL,
    sender BIGINT NOT NULL,
    -- JSON list of relationship types; "*" is any
    rel_types TEXT NOT NULL,
    reason TEXT,
    requested_ts BIGINT NOT NULL,
    PRIMARY KEY (room, target, sender)
);
CREATE INDEX related_redactions_by_ts ON related_redactions (requested_ts);
