-- The latest change of each profile field, also of fields that were removed, so that clients that sync receive it.
CREATE TABLE profile_changes (
    user_num BIGINT NOT NULL,
    field TEXT NOT NULL,
    -- the journal position of the change
    position BIGINT NOT NULL,
    PRIMARY KEY (user_num, field)
);
CREATE INDEX profile_changes_by_position ON profile_changes (position);
