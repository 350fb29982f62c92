-- The e-mail addresses of accounts. Their users have shown that they receive messages there.
CREATE TABLE email_addresses (
    -- in lower case
    address TEXT PRIMARY KEY,
    user_num BIGINT NOT NULL,
    validated_ts BIGINT NOT NULL,
    added_ts BIGINT NOT NULL
);
CREATE INDEX email_addresses_by_user ON email_addresses (user_num);

-- Sessions in which somebody shows that they receive messages at an address.
CREATE TABLE email_validations (
    session_id TEXT PRIMARY KEY,
    -- SHA-256 of the secret that the client chose
    client_secret_hash {bytes} NOT NULL,
    address TEXT NOT NULL,
    -- "add", "password", "register"
    purpose TEXT NOT NULL,
    -- SHA-256 of the token in the newest message
    token_hash {bytes} NOT NULL,
    send_attempt BIGINT NOT NULL,
    -- the number of wrong tokens
    failures BIGINT NOT NULL,
    -- the page that the client wants to be opened afterwards
    next_link TEXT,
    -- NULL until the token was presented
    validated_ts BIGINT,
    expires_ts BIGINT NOT NULL
);
CREATE UNIQUE INDEX email_validations_by_secret
    ON email_validations (client_secret_hash, address, purpose);
CREATE INDEX email_validations_by_expiry ON email_validations (expires_ts);

-- E-mail pushers: the time at which the next digest is due, and the time of the last one.
ALTER TABLE pushers ADD COLUMN digest_due_ts BIGINT;
ALTER TABLE pushers ADD COLUMN digest_sent_ts BIGINT;

-- The tokens in digests, with which users remove the pusher.
CREATE TABLE unsubscribe_tokens (
    -- SHA-256 of the token
    hash {bytes} PRIMARY KEY,
    user_num BIGINT NOT NULL,
    app_id TEXT NOT NULL,
    pushkey TEXT NOT NULL,
    expires_ts BIGINT NOT NULL
);
CREATE INDEX unsubscribe_tokens_by_expiry ON unsubscribe_tokens (expires_ts);
