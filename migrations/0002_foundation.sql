-- Accounts, devices, rooms, events and what users keep about them.
--
-- `position` is the place in the journal's one order of all changes. Columns named `user_num`, `kind`,
-- `state_key` and `sender` hold numbers of the table `strings`. Times are milliseconds since the Unix epoch.

CREATE TABLE journal (position BIGINT NOT NULL);
INSERT INTO journal (position) VALUES (0);

CREATE TABLE strings (
    num {identity},
    text TEXT NOT NULL UNIQUE
);

-- ---------------------------------------------------------------------------------------------------- accounts

CREATE TABLE accounts (
    user_num {key},
    -- argon2id in PHC form; NULL where nobody can log in with a password
    password_hash TEXT,
    admin BOOLEAN NOT NULL,
    guest BOOLEAN NOT NULL,
    deactivated BOOLEAN NOT NULL,
    -- the journal position at which it was deactivated with the wish to be erased: whoever joins a room after it
    -- sees this user's events redacted; NULL for all others
    erased_position BIGINT,
    created_ts BIGINT NOT NULL
);

CREATE TABLE profiles (
    user_num BIGINT NOT NULL,
    -- "displayname", "avatar_url", …
    field TEXT NOT NULL,
    -- JSON
    value TEXT NOT NULL,
    PRIMARY KEY (user_num, field)
);

CREATE TABLE devices (
    num {identity},
    user_num BIGINT NOT NULL,
    device_id TEXT NOT NULL,
    display_name TEXT,
    last_seen_ts BIGINT NOT NULL,
    last_seen_ip TEXT,
    UNIQUE (user_num, device_id)
);

CREATE TABLE access_tokens (
    -- SHA-256 of the token
    hash {bytes} PRIMARY KEY,
    device BIGINT NOT NULL REFERENCES devices (num) ON DELETE CASCADE,
    -- NULL: does not expire
    expires_ts BIGINT
);
CREATE INDEX access_tokens_by_device ON access_tokens (device);

CREATE TABLE refresh_tokens (
    -- SHA-256 of the token
    hash {bytes} PRIMARY KEY,
    device BIGINT NOT NULL REFERENCES devices (num) ON DELETE CASCADE,
    -- the tokens that were given for this one: once one of them is used, this one is void
    next_access {bytes},
    next_refresh {bytes}
);
CREATE INDEX refresh_tokens_by_device ON refresh_tokens (device);

CREATE TABLE registration_tokens (
    token TEXT PRIMARY KEY,
    -- NULL: any number
    uses_allowed BIGINT,
    completed BIGINT NOT NULL,
    -- NULL: never
    expires_ts BIGINT,
    -- whoever registers with it becomes administrator
    makes_admin BOOLEAN NOT NULL
);

CREATE TABLE filters (
    user_num BIGINT NOT NULL,
    id BIGINT NOT NULL,
    -- canonical JSON
    definition TEXT NOT NULL,
    PRIMARY KEY (user_num, id)
);

CREATE TABLE account_data (
    user_num BIGINT NOT NULL,
    -- 0: global
    room BIGINT NOT NULL,
    kind TEXT NOT NULL,
    content TEXT NOT NULL,
    position BIGINT NOT NULL,
    PRIMARY KEY (user_num, room, kind)
);
CREATE INDEX account_data_by_position ON account_data (user_num, position);

CREATE TABLE to_device (
    position {key},
    device BIGINT NOT NULL REFERENCES devices (num) ON DELETE CASCADE,
    -- {"content", "sender", "type"}
    message TEXT NOT NULL
);
CREATE INDEX to_device_by_device ON to_device (device, position);

-- Requests with a transaction id that make no event.
CREATE TABLE transactions (
    device BIGINT NOT NULL REFERENCES devices (num) ON DELETE CASCADE,
    endpoint TEXT NOT NULL,
    txn_id TEXT NOT NULL,
    position BIGINT NOT NULL,
    PRIMARY KEY (device, endpoint, txn_id)
);

-- ------------------------------------------------------------------------------------------------------- rooms

CREATE TABLE rooms (
    num {identity},
    room_id TEXT NOT NULL UNIQUE,
    version TEXT NOT NULL,
    -- JSON list of the event ids that the next event builds on
    forward_extremities TEXT NOT NULL,
    -- the snapshot of the current state
    state BIGINT NOT NULL,
    -- of the newest event in the timeline
    last_position BIGINT NOT NULL,
    -- in the public room directory
    published BOOLEAN NOT NULL,
    -- what the directory shows: copied from the current state
    name TEXT,
    topic TEXT,
    canonical_alias TEXT,
    avatar_url TEXT,
    join_rule TEXT NOT NULL,
    room_type TEXT,
    world_readable BOOLEAN NOT NULL,
    guest_can_join BOOLEAN NOT NULL,
    joined_members BIGINT NOT NULL
);
CREATE INDEX rooms_published ON rooms (joined_members, num) WHERE published;

CREATE TABLE events (
    position {key},
    room BIGINT NOT NULL,
    event_id TEXT NOT NULL UNIQUE,
    -- the place in the room's timeline: the position, or a lower number for history that came later;
    -- NULL for events that are in no timeline (outliers, rejected and soft-failed ones)
    timeline BIGINT,
    kind BIGINT NOT NULL,
    state_key BIGINT,
    sender BIGINT NOT NULL,
    -- the snapshot of the state before it; NULL for outliers
    state BIGINT,
    -- m.room.history_visibility before it: 0 world_readable, 1 shared, 2 invited, 3 joined
    visibility BIGINT NOT NULL,
    -- 0 accepted, 1 soft-failed, 2 rejected
    status BIGINT NOT NULL,
    -- running counters of the room: events that notify by the default rules, and that mention the whole room
    notified BIGINT NOT NULL,
    mentioned BIGINT NOT NULL,
    -- for events sent here: by which device and with which transaction id
    device BIGINT,
    txn_id TEXT,
    -- the redaction that took effect on it; the content is pruned already
    redacted_by TEXT,
    -- canonical JSON, as received or signed
    json TEXT NOT NULL
);
CREATE UNIQUE INDEX events_by_timeline ON events (room, timeline);
CREATE UNIQUE INDEX events_by_txn ON events (device, room, kind, txn_id) WHERE txn_id IS NOT NULL;
CREATE INDEX state_events_by_position ON events (room, position) WHERE state_key IS NOT NULL;

-- State is kept as chains: a snapshot is a moment of a chain, and an entry says what a key holds from that
-- moment on. A change of one key costs one row, however large the room. A fork begins a chain of its own.
CREATE TABLE state_chains (
    id {key},
    -- the snapshot that it branches from; NULL for a chain that is whole in itself
    parent BIGINT,
    -- how many chains lie under it
    depth BIGINT NOT NULL
);

CREATE TABLE state_snapshots (
    id {key},
    chain BIGINT NOT NULL
);

CREATE TABLE state_entries (
    chain BIGINT NOT NULL,
    kind BIGINT NOT NULL,
    state_key BIGINT NOT NULL,
    snapshot BIGINT NOT NULL,
    -- the position of the event; NULL: the key holds nothing
    event BIGINT,
    PRIMARY KEY (chain, kind, state_key, snapshot)
);

CREATE TABLE memberships (
    user_num BIGINT NOT NULL,
    room BIGINT NOT NULL,
    membership TEXT NOT NULL,
    -- the journal position of the change
    position BIGINT NOT NULL,
    -- the membership event, unless it came from outside with the invitation
    event BIGINT,
    -- JSON list of stripped state events for an invitation or a knock
    stripped_state TEXT,
    forgotten BOOLEAN NOT NULL,
    PRIMARY KEY (user_num, room)
);
CREATE INDEX memberships_by_room ON memberships (room, membership);

CREATE TABLE aliases (
    alias TEXT PRIMARY KEY,
    room BIGINT NOT NULL,
    creator BIGINT NOT NULL
);
CREATE INDEX aliases_by_room ON aliases (room);

CREATE TABLE receipts (
    room BIGINT NOT NULL,
    user_num BIGINT NOT NULL,
    -- "m.read", "m.read.private"
    kind TEXT NOT NULL,
    -- "" for unthreaded, "main", or the thread's root
    thread TEXT NOT NULL,
    event_id TEXT NOT NULL,
    -- the timeline place of the event
    event_timeline BIGINT NOT NULL,
    ts BIGINT NOT NULL,
    position BIGINT NOT NULL,
    PRIMARY KEY (room, user_num, kind, thread)
);

CREATE INDEX receipts_by_position ON receipts (room, position);

-- How far a user has read a room, and what the room's counters were there.
CREATE TABLE read_markers (
    user_num BIGINT NOT NULL,
    room BIGINT NOT NULL,
    timeline BIGINT NOT NULL,
    notified BIGINT NOT NULL,
    mentioned BIGINT NOT NULL,
    PRIMARY KEY (user_num, room)
);

-- Where an event counts otherwise for a user than the default rules say: mentions, and rules of their own.
CREATE TABLE unread_exceptions (
    user_num BIGINT NOT NULL,
    room BIGINT NOT NULL,
    timeline BIGINT NOT NULL,
    -- what to add to the number of notifications, and of highlights
    notify BIGINT NOT NULL,
    highlight BIGINT NOT NULL,
    PRIMARY KEY (user_num, room, timeline)
);
