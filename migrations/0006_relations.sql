-- Relations between events, threads, what was read of them, and the text that a search looks at.
--
-- What follows from the events that are stored already is filled in at the next start; see `fills`. Of these, the
-- events in threads go on to count as those of the main timeline: what was unread stays so until it is read.

ALTER TABLE events ADD COLUMN origin_server_ts BIGINT NOT NULL DEFAULT 0;
-- the root of the thread that it is in
ALTER TABLE events ADD COLUMN thread TEXT;
-- running counters of what notifies and mentions in all threads of the room
ALTER TABLE events ADD COLUMN threaded_notified BIGINT NOT NULL DEFAULT 0;
ALTER TABLE events ADD COLUMN threaded_mentioned BIGINT NOT NULL DEFAULT 0;
-- the same, of its own thread
ALTER TABLE events ADD COLUMN thread_notified BIGINT NOT NULL DEFAULT 0;
ALTER TABLE events ADD COLUMN thread_mentioned BIGINT NOT NULL DEFAULT 0;
CREATE INDEX events_by_ts ON events (room, origin_server_ts, timeline);
CREATE INDEX events_by_thread ON events (room, thread, timeline) WHERE thread IS NOT NULL;

-- `m.relates_to`, as long as the event that says so is not redacted.
CREATE TABLE relations (
    -- the position of the event
    child {key},
    room BIGINT NOT NULL,
    -- the id of the event that it relates to
    parent TEXT NOT NULL,
    -- the number of the relationship type
    rel_type BIGINT NOT NULL,
    kind BIGINT NOT NULL,
    sender BIGINT NOT NULL,
    timeline BIGINT NOT NULL,
    -- the key of an annotation
    annotation TEXT,
    -- whether it has the form of a valid replacement
    is_edit BOOLEAN NOT NULL
);
CREATE INDEX relations_by_parent ON relations (room, parent, timeline);
CREATE INDEX relations_by_sender ON relations (room, parent, sender);

CREATE TABLE threads (
    room BIGINT NOT NULL,
    -- the id of the event that it began with
    root TEXT NOT NULL,
    -- how many events say `m.thread`, and the place of the newest of them; NULL when none is left
    replies BIGINT NOT NULL,
    latest BIGINT,
    -- the place of the newest event in it, also of those that relate to a reply
    active BIGINT NOT NULL,
    -- running counters
    notified BIGINT NOT NULL,
    mentioned BIGINT NOT NULL,
    PRIMARY KEY (room, root)
);
CREATE INDEX threads_by_latest ON threads (room, latest);
CREATE INDEX threads_by_active ON threads (room, active);

-- `read_markers` says up to where everything was read. These say more of the main timeline and of threads.
ALTER TABLE read_markers ADD COLUMN threaded_notified BIGINT NOT NULL DEFAULT 0;
ALTER TABLE read_markers ADD COLUMN threaded_mentioned BIGINT NOT NULL DEFAULT 0;
CREATE TABLE thread_markers (
    user_num BIGINT NOT NULL,
    room BIGINT NOT NULL,
    -- "main", or the thread's root
    thread TEXT NOT NULL,
    timeline BIGINT NOT NULL,
    -- the counters of the thread, or of the main timeline, there
    notified BIGINT NOT NULL,
    mentioned BIGINT NOT NULL,
    -- the same at the place up to which everything was read
    base_notified BIGINT NOT NULL,
    base_mentioned BIGINT NOT NULL,
    PRIMARY KEY (user_num, room, thread)
);
-- the thread of the event; NULL in the main timeline
ALTER TABLE unread_exceptions ADD COLUMN thread TEXT;

CREATE TABLE thread_subscriptions (
    user_num BIGINT NOT NULL,
    room BIGINT NOT NULL,
    root TEXT NOT NULL,
    -- FALSE: the user has unsubscribed
    subscribed BOOLEAN NOT NULL,
    automatic BOOLEAN NOT NULL,
    -- the journal position of the change
    position BIGINT NOT NULL,
    PRIMARY KEY (user_num, room, root)
);
CREATE INDEX thread_subscriptions_by_position ON thread_subscriptions (user_num, position);

-- The texts in lower case, by the position of the event (`rowid`): what contains a text is found by its trigrams.
{text_index};

-- Tables that are filled from the stored events: those up to `done` were looked at, those after `up_to` need not be.
CREATE TABLE fills (
    name TEXT PRIMARY KEY,
    done BIGINT NOT NULL,
    -- NULL: this never ends, since new events are looked at later, too
    up_to BIGINT
);
INSERT INTO fills (name, done, up_to) SELECT 'relations', 0, position FROM journal;
INSERT INTO fills (name, done, up_to) VALUES ('search', 0, NULL);
