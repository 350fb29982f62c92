//! The e-mail addresses of accounts: adding and removing them, and showing that one receives messages there.
//!
//! `docs/design/mail.md` explains how. See the
//! [specification](https://spec.matrix.org/v1.19/client-server-api/#adding-account-administrative-contact-information).

mod addresses;
mod messages;
mod new_email;
mod purpose;
mod validation;

pub use self::{
    addresses::EmailAddresses,
    purpose::ValidationPurpose,
    validation::{EmailValidations, PendingValidation, TokenRequest},
};
pub(super) use self::{new_email::NewEmail, validation::ValidatedAddress};
