-- Events of other servers that were answered for before they came into their rooms: what they lack is being fetched.
CREATE TABLE arrived_events (
    -- a position of the journal, which nothing else has
    position BIGINT PRIMARY KEY NOT NULL,
    room BIGINT NOT NULL,
    -- the server that sent it
    origin TEXT NOT NULL,
    -- the event as it came
    json TEXT NOT NULL
);
CREATE INDEX arrived_events_by_room ON arrived_events (room);
