-- Accounts at identity providers, with which users of this server sign in.
CREATE TABLE oauth_upstream_accounts (
    -- the id of the provider in the configuration
    provider TEXT NOT NULL,
    -- the id of the account, which the provider never gives to another one
    subject TEXT NOT NULL,
    user_num BIGINT NOT NULL,
    -- the name of the account, for the user
    label TEXT NOT NULL,
    linked_ts BIGINT NOT NULL,
    PRIMARY KEY (provider, subject)
);
CREATE UNIQUE INDEX oauth_upstream_accounts_by_user ON oauth_upstream_accounts (user_num, provider);

-- Sign-ins with an identity provider. What such a sign-in began ends with it.
CREATE TABLE oauth_upstream_sessions (
    num {identity},
    provider TEXT NOT NULL,
    subject TEXT NOT NULL,
    -- the id of the session at the provider (sid), if the provider has named one
    provider_session TEXT,
    user_num BIGINT NOT NULL,
    started_ts BIGINT NOT NULL
);
CREATE INDEX oauth_upstream_sessions_by_subject ON oauth_upstream_sessions (provider, subject);
CREATE INDEX oauth_upstream_sessions_by_session ON oauth_upstream_sessions (provider, provider_session);
CREATE INDEX oauth_upstream_sessions_by_user ON oauth_upstream_sessions (user_num);
CREATE INDEX oauth_upstream_sessions_by_start ON oauth_upstream_sessions (started_ts);

-- Devices that were signed in by a user who had signed in with an identity provider.
CREATE TABLE oauth_upstream_devices (
    device BIGINT PRIMARY KEY REFERENCES devices (num) ON DELETE CASCADE,
    upstream_session BIGINT NOT NULL REFERENCES oauth_upstream_sessions (num) ON DELETE CASCADE
);
CREATE INDEX oauth_upstream_devices_by_session ON oauth_upstream_devices (upstream_session);

ALTER TABLE browser_sessions ADD COLUMN upstream_session BIGINT
    REFERENCES oauth_upstream_sessions (num) ON DELETE CASCADE;
CREATE INDEX browser_sessions_by_upstream_session ON browser_sessions (upstream_session);
ALTER TABLE oauth_codes ADD COLUMN upstream_session BIGINT
    REFERENCES oauth_upstream_sessions (num) ON DELETE CASCADE;
CREATE INDEX oauth_codes_by_upstream_session ON oauth_codes (upstream_session);
ALTER TABLE oauth_device_codes ADD COLUMN upstream_session BIGINT
    REFERENCES oauth_upstream_sessions (num) ON DELETE CASCADE;
CREATE INDEX oauth_device_codes_by_upstream_session ON oauth_device_codes (upstream_session);
ALTER TABLE passing_tokens ADD COLUMN upstream_session BIGINT
    REFERENCES oauth_upstream_sessions (num) ON DELETE CASCADE;
CREATE INDEX passing_tokens_by_upstream_session ON passing_tokens (upstream_session);
