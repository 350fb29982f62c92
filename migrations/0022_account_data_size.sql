-- How much account data a user has is bounded.

-- the length of the content in bytes, as far as it counts: that of what the server keeps does not
ALTER TABLE account_data ADD COLUMN bytes BIGINT NOT NULL DEFAULT 0;
UPDATE account_data SET bytes = LENGTH(content);
CREATE INDEX account_data_by_size ON account_data (user_num, bytes);
