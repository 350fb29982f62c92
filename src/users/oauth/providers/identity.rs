//! What an identity provider says about a person.

use serde_json::{Map, Value};

use crate::{config::ProviderSection, mail::EmailAddress};

/// The longest id of an account or a session at a provider, in bytes. "It MUST NOT exceed 255 ASCII characters in
/// length."
///
/// See [OpenID Connect Core](https://openid.net/specs/openid-connect-core-1_0.html#IDToken).
pub(super) const MAX_SUBJECT_BYTES: usize = 255;
/// The longest name that is taken from a claim, in bytes.
const MAX_NAME_BYTES: usize = 255;

/// A person who has signed in with an identity provider.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ProviderIdentity {
    /// The id of the provider in the configuration.
    pub provider: String,
    /// The id of the person at the provider.
    pub(super) subject: String,
    /// The id of the session at the provider.
    pub(super) provider_session: Option<String>,
    /// The user name that is proposed for a new account.
    pub user_name: String,
    pub display_name: Option<String>,
    /// The e-mail address, if the provider has verified it.
    pub(super) email: Option<EmailAddress>,
    /// The name of the account at the provider, for the person.
    pub label: String,
}

impl ProviderIdentity {
    /// Reads the claims about a person. Returns `None` if they do not say who the person is.
    pub(super) fn from_claims(
        claims: &Map<String, Value>,
        settings: &ProviderSection,
    ) -> Option<Self> {
        let text = |claim: &str, max_bytes| short_text(claims.get(claim), max_bytes);
        let subject = text("sub", MAX_SUBJECT_BYTES)?;
        let address = text(&settings.email_claim, MAX_NAME_BYTES);
        let email = address
            .as_deref()
            .filter(|_| is_true(claims.get("email_verified")))
            .and_then(|address| EmailAddress::parse(address).ok());
        let name = text(&settings.user_name_claim, MAX_NAME_BYTES);
        let label = address.or_else(|| name.clone());
        Some(Self {
            provider: settings.id.clone(),
            provider_session: text("sid", MAX_SUBJECT_BYTES),
            user_name: proposed_user_name(name.as_deref().unwrap_or_default()),
            display_name: text(&settings.display_name_claim, MAX_NAME_BYTES),
            email,
            label: label.unwrap_or_else(|| subject.clone()),
            subject,
        })
    }
}

/// Returns whether the claims have everything that a new account can use.
pub(super) fn has_profile(claims: &Map<String, Value>, settings: &ProviderSection) -> bool {
    let wanted = [
        &settings.user_name_claim,
        &settings.display_name_claim,
        &settings.email_claim,
    ];
    wanted
        .iter()
        .all(|claim| claims.contains_key(claim.as_str()))
}

/// Returns a text that is not empty, not too long and has no control characters.
pub(super) fn short_text(value: Option<&Value>, max_bytes: usize) -> Option<String> {
    let text = value?.as_str()?.trim();
    let is_short = (1..=max_bytes).contains(&text.len());
    (is_short && !text.contains(char::is_control)).then(|| text.to_owned())
}

/// Returns whether a claim is true. Some providers send a text.
fn is_true(value: Option<&Value>) -> bool {
    match value {
        Some(Value::Bool(is_true)) => *is_true,
        Some(Value::String(text)) => text == "true",
        _ => false,
    }
}

/// Returns the part of a name that a user name can have. Of an e-mail address, it is the part before the `@`.
fn proposed_user_name(name: &str) -> String {
    let name = name.split('@').next().unwrap_or_default();
    let lower = name.trim().to_lowercase().replace(char::is_whitespace, ".");
    let is_allowed = |c: &char| c.is_ascii_lowercase() || c.is_ascii_digit() || "._-".contains(*c);
    lower.chars().filter(is_allowed).collect()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn identity(claims: &Value) -> Option<ProviderIdentity> {
        let settings = ProviderSection {
            id: "one".to_owned(),
            ..ProviderSection::default()
        };
        ProviderIdentity::from_claims(claims.as_object().unwrap(), &settings)
    }

    #[test]
    fn the_claims_of_a_person_are_read() {
        let claims = json!({
            "sub": "248289761001", "sid": "session", "preferred_username": "Alice B",
            "name": "Alice", "email": "Alice@Example.org", "email_verified": true,
        });

        let alice = identity(&claims).unwrap();

        assert_eq!((&*alice.provider, &*alice.subject), ("one", "248289761001"));
        assert_eq!(alice.provider_session.as_deref(), Some("session"));
        assert_eq!(alice.user_name, "alice.b");
        assert_eq!(alice.display_name.as_deref(), Some("Alice"));
        assert_eq!(alice.email.unwrap().as_str(), "alice@example.org");
        assert_eq!(alice.label, "Alice@Example.org");
    }

    #[test]
    fn an_unverified_email_address_does_not_count() {
        for verified in [json!(false), json!("false"), json!(null), json!(1)] {
            let claims = json!({ "sub": "a", "email": "a@b.c", "email_verified": verified });
            assert_eq!(identity(&claims).unwrap().email, None, "{verified}");
        }
        let claims = json!({ "sub": "a", "email": "a@b.c", "email_verified": "true" });
        assert!(identity(&claims).unwrap().email.is_some());
    }

    #[test]
    fn a_person_without_an_id_is_nobody() {
        for subject in [json!(""), json!(5), json!("a\0"), json!("a".repeat(256))] {
            assert_eq!(identity(&json!({ "sub": subject })), None, "{subject}");
        }
        assert_eq!(identity(&json!({ "sub": "a" })).unwrap().label, "a");
    }

    #[test]
    fn a_proposed_user_name_has_only_allowed_characters() {
        assert_eq!(proposed_user_name("alice@example.org"), "alice");
        assert_eq!(proposed_user_name(" Zoë Müller "), "zo.mller");
        assert_eq!(proposed_user_name("日本"), "");
    }
}
