-- The position up to which new events were given to the queues of the pushers.
CREATE TABLE push_progress (
    position BIGINT NOT NULL
);

INSERT INTO push_progress (position) SELECT position FROM journal;

-- The position after which there are events that were not sent through the pusher; NULL if all were sent.
ALTER TABLE pushers ADD COLUMN unsent_after BIGINT;
