//! The tables of accounts: tokens, profiles, account data, filters, pushers, the user directory, and
//! those of the OAuth 2.0 API.

pub mod account_data;
pub mod accounts;
pub mod browser_sessions;
pub mod email_addresses;
pub mod email_validations;
pub mod filters;
pub mod identity_bindings;
pub mod oauth_clients;
pub mod oauth_codes;
pub mod oauth_device_codes;
pub mod profile_changes;
pub mod profiles;
pub mod pushers;
pub mod server_notices;
pub mod service_registrations;
pub mod short_lived_tokens;
pub mod tokens;
pub mod unsubscribe_tokens;
pub mod upstream_accounts;
pub mod upstream_sessions;
pub mod user_directory;
pub mod web_push_keys;
