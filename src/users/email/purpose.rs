//! The purposes for which e-mail addresses are validated.

/// The purpose for which an address is validated.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ValidationPurpose {
    /// To add the address to an account.
    Add,
    /// To set another password.
    Password,
    /// To register an account.
    Register,
}

impl ValidationPurpose {
    /// Returns the name under which the purpose is stored.
    pub(in crate::users) fn as_str(self) -> &'static str {
        match self {
            Self::Add => "add",
            Self::Password => "password",
            Self::Register => "register",
        }
    }

    /// Returns the purpose with a stored name.
    pub(super) fn from_name(name: &str) -> Option<Self> {
        let mut purposes = [Self::Add, Self::Password, Self::Register].into_iter();
        purposes.find(|purpose| purpose.as_str() == name)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_purpose_is_found_by_its_name() {
        for purpose in [
            ValidationPurpose::Add,
            ValidationPurpose::Password,
            ValidationPurpose::Register,
        ] {
            let found = ValidationPurpose::from_name(purpose.as_str());
            assert_eq!(found, Some(purpose));
        }
    }
}
