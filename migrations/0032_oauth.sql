-- Clients that registered with the OAuth 2.0 API. Registrations with the same metadata share a row.
CREATE TABLE oauth_clients (
    -- derived from the metadata
    client_id TEXT PRIMARY KEY,
    -- a JSON object, as returned to the client
    metadata TEXT NOT NULL,
    -- the time of the latest registration or sign-in
    used_ts BIGINT NOT NULL
);
CREATE INDEX oauth_clients_by_use ON oauth_clients (used_ts);

-- Devices that signed in with the OAuth 2.0 API, and their clients.
CREATE TABLE oauth_devices (
    device BIGINT PRIMARY KEY REFERENCES devices (num) ON DELETE CASCADE,
    client_id TEXT NOT NULL REFERENCES oauth_clients (client_id)
);
CREATE INDEX oauth_devices_by_client ON oauth_devices (client_id);

-- Authorization codes, which clients exchange for tokens.
CREATE TABLE oauth_codes (
    -- SHA-256 of the code
    hash {bytes} PRIMARY KEY,
    client_id TEXT NOT NULL,
    redirect_uri TEXT NOT NULL,
    -- SHA-256 of the client's secret, as the client sent it
    code_challenge TEXT NOT NULL,
    user_num BIGINT NOT NULL,
    -- the id of the device to be signed in
    device_id TEXT NOT NULL,
    expires_ts BIGINT NOT NULL,
    -- whether the code was exchanged
    is_used BOOLEAN NOT NULL DEFAULT FALSE
);
CREATE INDEX oauth_codes_by_expiry ON oauth_codes (expires_ts);
CREATE INDEX oauth_codes_by_user ON oauth_codes (user_num);

-- Devices that wait until their user signs them in on another device.
CREATE TABLE oauth_device_codes (
    -- SHA-256 of the device code
    hash {bytes} PRIMARY KEY,
    -- the code that the user enters
    user_code TEXT NOT NULL UNIQUE,
    client_id TEXT NOT NULL,
    device_id TEXT NOT NULL,
    expires_ts BIGINT NOT NULL,
    -- the time of the client's latest question
    polled_ts BIGINT NOT NULL,
    -- NULL until the user has decided
    is_allowed BOOLEAN,
    -- the user who allowed it
    user_num BIGINT
);
CREATE INDEX oauth_device_codes_by_expiry ON oauth_device_codes (expires_ts);

-- Browsers in which a user is signed in to the pages of the server.
CREATE TABLE browser_sessions (
    -- SHA-256 of the cookie
    hash {bytes} PRIMARY KEY,
    user_num BIGINT NOT NULL,
    created_ts BIGINT NOT NULL,
    expires_ts BIGINT NOT NULL
);
CREATE INDEX browser_sessions_by_user ON browser_sessions (user_num);
CREATE INDEX browser_sessions_by_expiry ON browser_sessions (expires_ts);
