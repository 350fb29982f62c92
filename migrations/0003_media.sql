-- Files that users upload. Their bytes lie in the media directory, once for each content, named by its SHA-256.

CREATE TABLE media (
    num {identity},
    -- the server that the media is of, as a number of the table `strings`
    server BIGINT NOT NULL,
    media_id TEXT NOT NULL,
    -- NULL for media of other servers
    uploader BIGINT,
    sha256 {bytes} NOT NULL,
    -- in bytes
    size BIGINT NOT NULL,
    -- as the uploader says
    content_type TEXT NOT NULL,
    file_name TEXT,
    created_ts BIGINT NOT NULL,
    -- when somebody last asked for it, to the hour
    last_access_ts BIGINT NOT NULL,
    UNIQUE (server, media_id)
);

CREATE TABLE thumbnails (
    media BIGINT NOT NULL REFERENCES media (num) ON DELETE CASCADE,
    -- of the box that it was made for, not of the image; 0 by 0 for the whole image
    width BIGINT NOT NULL,
    height BIGINT NOT NULL,
    -- "crop", "scale", "whole"
    method TEXT NOT NULL,
    animated BOOLEAN NOT NULL,
    -- that of the media itself where it serves as it is
    sha256 {bytes} NOT NULL,
    size BIGINT NOT NULL,
    content_type TEXT NOT NULL,
    PRIMARY KEY (media, width, height, method, animated)
);
