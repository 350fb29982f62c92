-- Media that is here when this runs was uploaded before the freeze of unauthenticated media: the deprecated paths go on
-- to serve it to those without an access token, and serve them no later media.

ALTER TABLE media ADD COLUMN before_freeze BOOLEAN NOT NULL DEFAULT FALSE;

UPDATE media SET before_freeze = TRUE;
