-- A notary goes on telling keys that their server does not list any more.

-- earlier lists of keys by servers: those that list a key which is missing in every later one
CREATE TABLE former_key_documents (
    server BIGINT NOT NULL,
    -- until when the list was valid, in milliseconds since the Unix epoch
    valid_until_ts BIGINT NOT NULL,
    -- the signed JSON
    document TEXT NOT NULL,
    PRIMARY KEY (server, valid_until_ts)
);
