//! Parses the `Authorization` header of signed requests, as leniently as older servers require.
//!
//! See the [specification](https://spec.matrix.org/v1.19/server-server-api/#request-authentication).

use axum::http::{HeaderMap, header::AUTHORIZATION};
use ruma::{
    OwnedServerName, OwnedServerSigningKeyId,
    api::federation::authentication::{XMatrix, XMatrixExtractError, XMatrixParseError},
    serde::Base64,
};

use crate::error::{Error, RefusalCode, Result};

/// The parameters of the header as text.
#[derive(Default)]
struct XMatrixParameters {
    origin: Option<String>,
    destination: Option<String>,
    key: Option<String>,
    sig: Option<String>,
}

/// Returns the signature of a request.
///
/// # Errors
///
/// `RefusalCode::Unauthorized` when it is missing or cannot be parsed.
pub(super) fn from_headers(headers: &HeaderMap) -> Result<XMatrix> {
    let strict = match XMatrix::extract_from_http_headers(headers) {
        Ok(signature) => return Ok(signature),
        Err(error) => error,
    };
    let header = headers
        .get(AUTHORIZATION)
        .and_then(|header| header.to_str().ok());
    header.and_then(parse_tolerantly).ok_or_else(|| {
        Error::refused(
            RefusalCode::Unauthorized,
            explain_refusal(&strict).to_owned(),
        )
    })
}

/// Explains the error in a header without quoting the header, which is a secret of its sender.
fn explain_refusal(error: &XMatrixExtractError) -> &'static str {
    match error {
        XMatrixExtractError::MissingAuthorizationHeader => {
            "the request has no `Authorization` header"
        }
        XMatrixExtractError::Parse(XMatrixParseError::NotFound) => {
            "the scheme of the `Authorization` header is not `X-Matrix`"
        }
        XMatrixExtractError::Parse(XMatrixParseError::MissingParameter(_)) => {
            "the `Authorization` header needs the parameters `origin`, `key` and `sig`"
        }
        XMatrixExtractError::Parse(XMatrixParseError::DuplicateParameter(_)) => {
            "the `Authorization` header has a parameter twice"
        }
        _ => "the `Authorization` header cannot be read",
    }
}

/// Parses a header with missing quotes or with additional spaces.
///
/// "For compatibility with older servers, the recipient should allow colons to be included in values without requiring
/// the value to be enclosed in quotes."
fn parse_tolerantly(header: &str) -> Option<XMatrix> {
    let (scheme, rest) = header.trim().split_once([' ', '\t'])?;
    if !scheme.eq_ignore_ascii_case(XMatrix::AUTH_SCHEME) {
        return None;
    }
    let parameters = XMatrixParameters::parse(rest)?;
    let origin = OwnedServerName::try_from(parameters.origin?).ok()?;
    let destination = match parameters.destination {
        Some(destination) => Some(OwnedServerName::try_from(destination).ok()?),
        None => None,
    };
    let key = OwnedServerSigningKeyId::try_from(parameters.key?).ok()?;
    let sig = Base64::parse(parameters.sig?).ok()?;
    let mut signature = XMatrix::new(origin.clone(), origin, key, sig);
    signature.destination = destination;
    Some(signature)
}

impl XMatrixParameters {
    /// Parses `name=value` pairs. Returns `None` if one is invalid or appears twice.
    fn parse(mut rest: &str) -> Option<Self> {
        let mut parameters = Self::default();
        loop {
            rest = rest.trim_start_matches([' ', '\t', ',']);
            if rest.is_empty() {
                return Some(parameters);
            }
            let (name, value) = rest.split_once('=')?;
            let split = split_value(value.trim_start())?;
            rest = split.rest;
            let place = match name.trim().to_ascii_lowercase().as_str() {
                "origin" => &mut parameters.origin,
                "destination" => &mut parameters.destination,
                "key" => &mut parameters.key,
                "sig" => &mut parameters.sig,
                _ => continue,
            };
            if place.replace(split.value).is_some() {
                return None;
            }
        }
    }
}

/// A value and the text after it.
struct SplitValue<'a> {
    value: String,
    rest: &'a str,
}

/// Returns a value and the text after it. The value is quoted or extends to the next comma.
fn split_value(text: &str) -> Option<SplitValue<'_>> {
    let Some(quoted) = text.strip_prefix('"') else {
        let end = text.find(',').unwrap_or(text.len());
        let (value, after) = text.split_at(end);
        return Some(SplitValue {
            value: value.trim().to_owned(),
            rest: after,
        });
    };
    let mut value = String::new();
    let mut characters = quoted.char_indices();
    while let Some((at, character)) = characters.next() {
        match character {
            '"' => {
                let after = quoted.get(at + 1..)?.trim_start();
                let is_over = after.is_empty() || after.starts_with(',');
                return is_over.then_some(SplitValue { value, rest: after });
            }
            '\\' => value.push(characters.next()?.1),
            other => value.push(other),
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use axum::http::HeaderValue;

    use super::*;

    fn read(header: &str) -> Option<(String, Option<String>, String)> {
        let mut headers = HeaderMap::new();
        headers.insert(AUTHORIZATION, HeaderValue::from_str(header).ok()?);
        let signature = from_headers(&headers).ok()?;
        let destination = signature.destination.map(|name| name.to_string());
        Some((
            signature.origin.to_string(),
            destination,
            signature.key.to_string(),
        ))
    }

    #[test]
    fn the_headers_of_older_servers_are_understood() {
        let origin = "there.example:8448".to_owned();
        let key = "ed25519:a_b".to_owned();
        let whole = Some((origin.clone(), Some("here:1".to_owned()), key.clone()));
        let old = Some((origin, None, key));

        for header in [
            r#"X-Matrix origin="there.example:8448",destination="here:1",key="ed25519:a_b",sig="YWJj""#,
            "X-Matrix origin=there.example:8448,destination=here:1,key=ed25519:a_b,sig=YWJj",
            r#"X-Matrix  origin="there.example:8448",destination="here:1",key="ed25519:a_b",sig="YWJj""#,
            "x-matrix \t ORIGIN=there.example:8448 , destination=here:1 ,\tKey=ed25519:a_b, sig=YWJj",
            r#"X-Matrix origin=there.example:8448,destination=here:1,key="ed25519:a\_b",sig="YWJj",extra=a:b"#,
            "X-Matrix ,origin=there.example:8448,,destination=here:1,key=ed25519:a_b,sig=YWJj,",
        ] {
            assert_eq!(read(header), whole, "{header}");
        }
        let header = r#"X-Matrix origin=there.example:8448,key="ed25519:a_b",sig="YWJj""#;
        assert_eq!(read(header), old);
    }

    #[test]
    fn malformed_headers_are_refused() {
        for header in [
            "",
            "X-Matrix",
            "X-Matrix origin",
            "Bearer origin=a:1,key=ed25519:a,sig=YWJj",
            "X-Matrix origin=a:1,key=ed25519:a",
            "X-Matrix origin=a:1,origin=a:1,key=ed25519:a,sig=YWJj",
            r#"X-Matrix origin=a:1,key=ed25519:a,sig="YWJj"#,
            r#"X-Matrix origin="a:1"b,key=ed25519:a,sig=YWJj"#,
            "X-Matrix origin=a b,key=ed25519:a,sig=YWJj",
            "X-Matrix origin=a:1,key=ed25519:a,sig=!!!",
        ] {
            assert_eq!(read(header), None, "{header}");
        }
    }
}
