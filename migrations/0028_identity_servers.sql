-- The addresses that users had an identity server connect with their user id, so that it can be asked to forget them.
CREATE TABLE identity_bindings (
    user_num BIGINT NOT NULL,
    medium TEXT NOT NULL,
    address TEXT NOT NULL,
    id_server TEXT NOT NULL,
    PRIMARY KEY (user_num, medium, address, id_server)
);
