-- What an administrator may do to an account, finding people, tokens that last a moment, and promised media.

-- may read and leave, but not write
ALTER TABLE accounts ADD COLUMN suspended BOOLEAN NOT NULL DEFAULT FALSE;
-- may do nothing but log out
ALTER TABLE accounts ADD COLUMN locked BOOLEAN NOT NULL DEFAULT FALSE;

-- What a search for people looks at: the user id and the display name, each in a line of its own and in lower case.
ALTER TABLE accounts ADD COLUMN search_text TEXT NOT NULL DEFAULT '';

UPDATE accounts
SET search_text = (SELECT LOWER(s.text) FROM strings s WHERE s.num = accounts.user_num) || '
' || COALESCE((SELECT REPLACE(LOWER(p.value), '"', '') FROM profiles p
               WHERE p.user_num = accounts.user_num AND p.field = 'displayname'), '');

-- Tokens that serve one purpose for a while: to log another device in, or to tell another service who one is.
CREATE TABLE passing_tokens (
    -- SHA-256 of the token
    hash {bytes} PRIMARY KEY,
    -- "login", "openid"
    purpose TEXT NOT NULL,
    user_num BIGINT NOT NULL,
    expires_ts BIGINT NOT NULL
);
CREATE INDEX passing_tokens_by_user ON passing_tokens (user_num, expires_ts);

-- Ids of media whose bytes have not arrived.
CREATE TABLE promised_media (
    media_id TEXT PRIMARY KEY,
    uploader BIGINT NOT NULL,
    expires_ts BIGINT NOT NULL
);
CREATE INDEX promised_media_by_uploader ON promised_media (uploader, expires_ts);

-- The rooms in which users get notices of the server.
CREATE TABLE server_notice_rooms (
    user_num {key},
    room BIGINT NOT NULL
);
CREATE INDEX server_notice_rooms_by_room ON server_notice_rooms (room);
