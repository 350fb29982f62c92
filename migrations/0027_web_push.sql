-- Whether notifications are sent through the pusher. Users switch it from any of their devices.
ALTER TABLE pushers ADD COLUMN is_enabled BOOLEAN NOT NULL DEFAULT TRUE;

-- Web Push: the token with which the client shows that notifications reach it, and the time at which the token expires.
-- NULL once the client has sent it back, and for other kinds of pushers.
ALTER TABLE pushers ADD COLUMN activation_token TEXT;
ALTER TABLE pushers ADD COLUMN activation_expires_ts BIGINT;

-- The private key with which the server signs its requests to push services (VAPID): at most one row.
CREATE TABLE web_push_keys (
    id BIGINT PRIMARY KEY,
    private_key {bytes} NOT NULL
);
