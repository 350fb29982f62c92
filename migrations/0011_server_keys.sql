-- The keys with which other servers sign.

CREATE TABLE server_keys (
    -- the name of the server, as a number of the table `strings`
    server BIGINT NOT NULL,
    -- with its algorithm: "ed25519:…"
    key_id TEXT NOT NULL,
    -- unpadded base64
    public_key TEXT NOT NULL,
    -- until when what it signs is believed
    valid_until_ts BIGINT NOT NULL,
    PRIMARY KEY (server, key_id)
);

-- What each server last published, for those who ask this server as a notary.
CREATE TABLE server_key_documents (
    server {key},
    -- JSON, signed by the server
    document TEXT NOT NULL,
    valid_until_ts BIGINT NOT NULL
);
