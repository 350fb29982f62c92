-- End-to-end encryption: keys of devices and users, who is told when they change, and backups; and pushers.
--
-- Keys are kept as JSON, as their owner uploaded them: they are signed.

CREATE TABLE device_keys (
    device BIGINT PRIMARY KEY REFERENCES devices (num) ON DELETE CASCADE,
    user_num BIGINT NOT NULL,
    keys TEXT NOT NULL
);
CREATE INDEX device_keys_by_user ON device_keys (user_num);

CREATE TABLE one_time_keys (
    -- the order of upload, in which they are given out
    position {key},
    device BIGINT NOT NULL REFERENCES devices (num) ON DELETE CASCADE,
    algorithm TEXT NOT NULL,
    -- without the algorithm
    key_id TEXT NOT NULL,
    key TEXT NOT NULL,
    -- given out; the latest of these are kept, so that an upload that comes twice brings none of them back
    claimed BOOLEAN NOT NULL,
    UNIQUE (device, algorithm, key_id)
);
CREATE INDEX one_time_keys_in_order ON one_time_keys (device, claimed, algorithm, position);

CREATE TABLE fallback_keys (
    device BIGINT NOT NULL REFERENCES devices (num) ON DELETE CASCADE,
    algorithm TEXT NOT NULL,
    key_id TEXT NOT NULL,
    key TEXT NOT NULL,
    used BOOLEAN NOT NULL,
    PRIMARY KEY (device, algorithm)
);

CREATE TABLE cross_signing_keys (
    user_num BIGINT NOT NULL,
    -- "master", "self_signing", "user_signing"
    usage TEXT NOT NULL,
    -- unpadded base64
    public_key TEXT NOT NULL,
    key TEXT NOT NULL,
    PRIMARY KEY (user_num, usage)
);

-- Signatures that came after the keys that they sign.
CREATE TABLE key_signatures (
    -- whose key is signed
    user_num BIGINT NOT NULL,
    -- which one: a device id, or the public key of a master key
    target TEXT NOT NULL,
    signer BIGINT NOT NULL,
    -- with which key: "ed25519:…"
    key_id TEXT NOT NULL,
    signature TEXT NOT NULL,
    PRIMARY KEY (user_num, target, signer, key_id)
);
CREATE INDEX key_signatures_by_signer ON key_signatures (signer, key_id);

-- When the keys of a user's devices, or the user's own, last changed.
CREATE TABLE device_list_changes (
    user_num BIGINT NOT NULL,
    -- who alone is told of it: one who signed the user's key; 0: everyone who shares a room with the user
    watcher BIGINT NOT NULL,
    position BIGINT NOT NULL,
    PRIMARY KEY (user_num, watcher)
);
CREATE INDEX device_list_changes_by_position ON device_list_changes (watcher, position);

CREATE TABLE key_backups (
    user_num BIGINT NOT NULL,
    version BIGINT NOT NULL,
    algorithm TEXT NOT NULL,
    -- JSON
    auth_data TEXT NOT NULL,
    -- how often its keys changed
    etag BIGINT NOT NULL,
    key_count BIGINT NOT NULL,
    -- kept for a while, since deleting it again has to succeed
    deleted BOOLEAN NOT NULL,
    PRIMARY KEY (user_num, version)
);

CREATE TABLE backup_keys (
    user_num BIGINT NOT NULL,
    version BIGINT NOT NULL,
    room_id TEXT NOT NULL,
    session_id TEXT NOT NULL,
    first_message_index BIGINT NOT NULL,
    forwarded_count BIGINT NOT NULL,
    is_verified BOOLEAN NOT NULL,
    -- JSON
    session_data TEXT NOT NULL,
    PRIMARY KEY (user_num, version, room_id, session_id)
);

CREATE TABLE pushers (
    user_num BIGINT NOT NULL,
    app_id TEXT NOT NULL,
    pushkey TEXT NOT NULL,
    -- the device that set it, with which it goes
    device BIGINT NOT NULL REFERENCES devices (num) ON DELETE CASCADE,
    -- JSON, as clients see it
    pusher TEXT NOT NULL,
    PRIMARY KEY (user_num, app_id, pushkey)
);
CREATE INDEX pushers_by_key ON pushers (app_id, pushkey);
CREATE INDEX pushers_by_device ON pushers (device);
