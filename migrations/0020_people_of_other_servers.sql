-- Users of other servers can be found by their names, too.

-- How the users of other servers are shown in the rooms that this server knows, by their latest member event.
CREATE TABLE remote_people (
    user_num BIGINT PRIMARY KEY,
    -- the journal position of the membership that says so
    position BIGINT NOT NULL,
    -- as JSON, as in profiles
    displayname TEXT,
    avatar_url TEXT,
    -- the user id and the display name, in lower case
    search_text TEXT NOT NULL
);
-- Memberships are looked at in their order.
CREATE INDEX memberships_by_position ON memberships (position);
INSERT INTO fills (name, done, up_to) VALUES ('remote_people', 0, NULL);
