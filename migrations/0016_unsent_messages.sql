-- Messages to devices of other servers' users do not wait for ever.

-- when it was sent, in milliseconds since the Unix epoch
ALTER TABLE unsent_messages ADD COLUMN created_ts BIGINT NOT NULL DEFAULT 0;
CREATE INDEX unsent_messages_by_age ON unsent_messages (created_ts);
