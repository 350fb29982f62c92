-- What other servers tell of devices: messages to those of this server, and the lists of those of their own users.

-- Messages that came, so that one that comes twice is passed over.
CREATE TABLE received_messages (
    -- the name of the server that sent it, as a number of the table `strings`
    server BIGINT NOT NULL,
    message_id TEXT NOT NULL,
    received_ts BIGINT NOT NULL,
    PRIMARY KEY (server, message_id)
);
CREATE INDEX received_messages_by_age ON received_messages (received_ts);

-- Users of other servers whose devices are known here, or wanted: all of them share a room with a user of this one.
CREATE TABLE remote_device_lists (
    user_num {key},
    -- what their server calls the list as it is here; NULL where that was not told
    stream_id BIGINT,
    -- whether it is what their server has, as far as anybody here can know
    is_fresh BOOLEAN NOT NULL,
    -- whether clients were told that it changed, and none has asked since
    is_told BOOLEAN NOT NULL
);
CREATE INDEX remote_device_lists_to_ask ON remote_device_lists (user_num) WHERE NOT is_fresh;

-- Those of their devices that encrypt.
CREATE TABLE remote_devices (
    user_num BIGINT NOT NULL REFERENCES remote_device_lists (user_num) ON DELETE CASCADE,
    device_id TEXT NOT NULL,
    -- JSON, signed by the device
    keys TEXT NOT NULL,
    display_name TEXT,
    PRIMARY KEY (user_num, device_id)
);
