//! E-mail addresses.

use std::fmt;

use lettre::Address;

use crate::error::{Error, Result};

/// The longest address, in bytes, as [RFC 5321](https://www.rfc-editor.org/rfc/rfc5321#section-4.5.3.1.3) limits it.
const MAX_ADDRESS_BYTES: usize = 254;

/// A valid e-mail address in the form in which it is stored and compared.
///
/// The specification asks for Unicode's case folding. Only ASCII is accepted here, so that this is the same as lower
/// case, and no two addresses that mail servers distinguish can be mistaken for each other. An internationalised domain
/// has a form in ASCII.
///
/// See the [specification](https://spec.matrix.org/v1.19/appendices/#e-mail).
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct EmailAddress(String);

impl EmailAddress {
    /// Parses an address.
    ///
    /// # Errors
    ///
    /// [`Error::InvalidParam`] when it is not an e-mail address.
    pub fn parse(text: &str) -> Result<Self> {
        let is_valid =
            text.len() <= MAX_ADDRESS_BYTES && text.is_ascii() && text.parse::<Address>().is_ok();
        // The text is also a name in links and in files of mail programs.
        if !is_valid || text.contains(['"', '<', '>', '\\', ' ']) {
            return Err(Error::invalid_param("the e-mail address is not valid"));
        }
        Ok(Self(text.to_ascii_lowercase()))
    }

    /// Returns the address as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for EmailAddress {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(&self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_are_compared_in_lower_case() {
        let address = EmailAddress::parse("Alice+Matrix@Example.org").expect("is valid");

        assert_eq!(address.as_str(), "alice+matrix@example.org");
    }

    #[test]
    fn texts_that_are_no_plain_address_are_refused() {
        for text in [
            "",
            "alice",
            "@example.org",
            "alice@",
            "Alice <alice@example.org>",
            "alice@example.org\r\nBcc: bob@example.org",
            "\"a b\"@example.org",
            "alice@example.org,bob@example.org",
            "aliceı@example.org",
        ] {
            assert!(EmailAddress::parse(text).is_err(), "{text}");
        }
        let long = format!("{}@example.org", "a".repeat(300));
        assert!(EmailAddress::parse(&long).is_err());
    }
}
