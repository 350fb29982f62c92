-- The events that notified one user by mentions or by rules of the user's own, also after the user has read them. The
-- events that notify all members of a room are found by the running counters in `events`.
CREATE TABLE personal_notifications (
    user_num BIGINT NOT NULL,
    -- the place of the event in the timeline of its room
    timeline BIGINT NOT NULL,
    room BIGINT NOT NULL,
    highlight BOOLEAN NOT NULL,
    PRIMARY KEY (user_num, timeline, room)
);

-- The position after which these notifications are stored: push rules were not evaluated for older events.
CREATE TABLE personal_notification_start (
    position BIGINT NOT NULL
);

INSERT INTO personal_notification_start (position) SELECT position FROM journal;
