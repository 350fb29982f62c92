-- What the chat page asks for beside Matrix: people in order, invitations that expire, links to rooms, and rooms that
-- are deleted.

-- The place of an account in the list of people: the name in lower case, then the user id. It is bytes, since each
-- database has its own order of texts. NULL until the next start of the server fills it.
ALTER TABLE accounts ADD COLUMN list_key {bytes};
CREATE INDEX accounts_by_list_key ON accounts (list_key);
-- when the newest of the devices that are gone was last seen; 0: never
ALTER TABLE accounts ADD COLUMN last_seen_ts BIGINT NOT NULL DEFAULT 0;

-- Invitations that stand for a while. A change of the membership removes the row.
CREATE TABLE expiring_invitations (
    room BIGINT NOT NULL,
    -- who is invited
    user_num BIGINT NOT NULL,
    -- the invitation
    event_id TEXT NOT NULL,
    expires_ts BIGINT NOT NULL,
    PRIMARY KEY (room, user_num)
);
CREATE INDEX expiring_invitations_due ON expiring_invitations (expires_ts);

CREATE TABLE invite_links (
    num {identity},
    -- as it is: whoever made the link shall be able to look at it again
    token TEXT NOT NULL UNIQUE,
    room BIGINT NOT NULL,
    creator BIGINT NOT NULL,
    created_ts BIGINT NOT NULL,
    expires_ts BIGINT NOT NULL,
    -- NULL: any number
    max_uses BIGINT,
    uses BIGINT NOT NULL,
    -- what the creator calls it
    label TEXT
);
CREATE INDEX invite_links_by_room ON invite_links (room, creator);
CREATE INDEX invite_links_by_creator ON invite_links (creator);
CREATE INDEX invite_links_due ON invite_links (expires_ts);

-- Who has used a link: each takes one of its uses, however often they come.
CREATE TABLE invite_link_uses (
    link BIGINT NOT NULL REFERENCES invite_links (num) ON DELETE CASCADE,
    user_num BIGINT NOT NULL,
    PRIMARY KEY (link, user_num)
);

-- Rooms that are deleted, or about to be; what they were is gone.
CREATE TABLE deleted_rooms (
    -- the number that the room had
    num {key},
    room_id TEXT NOT NULL,
    -- in whose name its members are removed, and what they are told
    remover TEXT NOT NULL,
    reason TEXT NOT NULL,
    -- 0: members are being removed; 1: what is stored of it is being removed; 2: done
    stage BIGINT NOT NULL
);
CREATE INDEX deleted_rooms_unfinished ON deleted_rooms (num) WHERE stage < 2;

-- What the members of a deleted room are told whose clients do not know yet.
CREATE TABLE removed_members (
    user_num BIGINT NOT NULL,
    room BIGINT NOT NULL,
    -- the journal position at which the user ceased to be a member
    position BIGINT NOT NULL,
    -- the member event that says so, as clients see it; NULL where there is none
    event TEXT,
    PRIMARY KEY (user_num, room)
);
CREATE INDEX removed_members_by_position ON removed_members (user_num, position);
