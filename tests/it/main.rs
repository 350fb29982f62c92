//! The integration tests: one binary, with one file for each feature. They start the real server in this
//! process, on a free port with its own data directory, and send HTTP requests to it.

#![expect(
    clippy::disallowed_types,
    clippy::expect_used,
    clippy::indexing_slicing,
    reason = "a test fails by panicking, and the servers that it plays need no standard errors"
)]

mod account;
mod account_data;
mod administration;
mod application_services;
mod auth_pages;
mod browser;
mod chat;
mod connections;
mod crash;
mod cross_signing;
mod database;
mod delayed_events;
mod device_list_tracking;
mod device_lists;
mod devices;
mod directory;
mod discovery;
mod echo;
mod empty_fields;
mod endpoints;
mod equal_requests;
mod errors;
mod federation;
mod filters;
mod garbage;
mod guests;
mod harness;
mod identity_servers;
mod ignoring;
mod incremental_sync;
mod key_backup;
mod keys;
mod knock;
mod login;
mod login_token;
mod lookup_limits;
mod mail;
mod mail_pushers;
mod mail_tls;
mod media;
mod membership;
mod messages;
mod model;
mod nested_json;
mod notifications;
mod oauth;
mod openid;
mod operator;
mod parlour_invitations;
mod parlour_invite_links;
mod parlour_people;
mod parlour_room_deletion;
mod parlour_room_purge;
mod peeking;
mod portable_sql;
mod presence;
mod profile;
mod program;
mod push;
mod push_gateway;
mod push_kills;
mod push_rules;
mod receipts;
mod register;
mod related_redactions;
mod relations;
mod reporting;
mod response_bodies;
mod rooms;
mod search;
mod send;
mod server_notices;
mod shutdown;
mod sliding;
mod sliding_sync;
mod sliding_sync_client;
mod sliding_sync_extensions;
mod sliding_sync_lists;
mod sliding_sync_rooms;
mod smtp_server;
mod spaces;
mod state_after;
mod stored_rows;
mod sync;
mod sync_rooms;
mod texts_with_nul;
mod third_party;
mod threads;
mod tls;
mod to_device;
mod typing;
mod upgrade;
mod url_previews;
mod user_directory;
mod visibility;
mod web_page;
mod web_push;
mod websocket;
