-- How far each application service was sent what happened here.
CREATE TABLE application_services (
    id TEXT PRIMARY KEY,
    -- the journal position up to which changes were put into transactions
    sent_up_to BIGINT NOT NULL,
    -- the number of the last transaction
    last_transaction BIGINT NOT NULL,
    -- the body of the last transaction, until the service acknowledges it
    unacknowledged TEXT
);

-- The rooms that application services list in the directories of their networks.
CREATE TABLE application_service_rooms (
    service TEXT NOT NULL,
    network TEXT NOT NULL,
    room BIGINT NOT NULL,
    PRIMARY KEY (service, network, room)
);
CREATE INDEX application_service_rooms_by_room ON application_service_rooms (room);

-- Requests of application services have transaction ids, too, but need not name a device. So a device number here may be
-- one that no device has.
CREATE TABLE new_transactions (
    device BIGINT NOT NULL,
    endpoint TEXT NOT NULL,
    txn_id TEXT NOT NULL,
    position BIGINT NOT NULL,
    PRIMARY KEY (device, endpoint, txn_id)
);
INSERT INTO new_transactions (device, endpoint, txn_id, position)
    SELECT device, endpoint, txn_id, position FROM transactions;
DROP TABLE transactions;
ALTER TABLE new_transactions RENAME TO transactions;
