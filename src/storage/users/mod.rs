//! The tables of accounts: tokens, profiles, account data, filters, pushers and the user directory.

pub mod account_data;
pub mod accounts;
pub mod email_addresses;
pub mod email_validations;
pub mod filters;
pub mod identity_bindings;
pub mod profiles;
pub mod pushers;
pub mod server_notices;
pub mod service_registrations;
pub mod short_lived_tokens;
pub mod tokens;
pub mod unsubscribe_tokens;
pub mod user_directory;
pub mod web_push_keys;
