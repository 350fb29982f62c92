-- How many aliases a user makes is bounded.

CREATE INDEX aliases_by_creator ON aliases (creator);
