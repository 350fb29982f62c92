-- What waits to be sent to other servers.

-- Up to which position of the journal it is written down below what each server is to be sent.
CREATE TABLE sender (position BIGINT NOT NULL);
INSERT INTO sender (position) SELECT position FROM journal;

-- The servers that were ever to be sent something.
CREATE TABLE destinations (
    server TEXT PRIMARY KEY,
    -- how often in a row it did not take what it was sent
    failures BIGINT NOT NULL,
    -- since when, in milliseconds since the Unix epoch; 0: it takes what it is sent
    failing_since BIGINT NOT NULL,
    -- when it is tried again
    retry_ts BIGINT NOT NULL
);

-- The rooms of which a server was not sent everything.
CREATE TABLE unsent_rooms (
    server TEXT NOT NULL,
    room BIGINT NOT NULL,
    -- the place in the timeline from which on events were not sent
    since BIGINT NOT NULL,
    PRIMARY KEY (server, room)
);
CREATE INDEX unsent_rooms_by_room ON unsent_rooms (room);

-- Messages to devices of users of other servers, until their servers have them.
CREATE TABLE unsent_messages (
    position {key},
    server TEXT NOT NULL,
    -- the EDU, as JSON
    edu TEXT NOT NULL
);
CREATE INDEX unsent_messages_by_server ON unsent_messages (server, position);

-- When devices last changed of which other servers are told, whether or not they are still there.
CREATE TABLE device_changes (
    user_num BIGINT NOT NULL,
    -- empty: the keys of the user
    device_id TEXT NOT NULL,
    position BIGINT NOT NULL,
    PRIMARY KEY (user_num, device_id)
);
CREATE INDEX device_changes_by_position ON device_changes (user_num, position);

-- What servers were told of the devices of users of this one.
CREATE TABLE told_devices (
    server TEXT NOT NULL,
    user_num BIGINT NOT NULL,
    -- the position of the newest change that it is to be told of
    changed BIGINT NOT NULL,
    -- up to which position it was told of all changes; -1: of nothing yet
    told BIGINT NOT NULL,
    -- the last `stream_id` that it was told; 0: none
    stream_id BIGINT NOT NULL,
    PRIMARY KEY (server, user_num)
);
CREATE INDEX told_devices_to_tell ON told_devices (server) WHERE changed > told;
