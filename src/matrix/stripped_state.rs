//! The state of a room as another server sends it with an invite, or in response to a knock.
//!
//! See the [specification](https://spec.matrix.org/v1.19/client-server-api/#stripped-state).

use serde::{Deserialize, Deserializer};
use serde_json::value::RawValue;

use super::canonical_object;

/// State events, complete or stripped. Malformed entries are left out, and the list may be missing: neither is a reason
/// to refuse the invite.
#[derive(Debug, Default)]
pub struct StrippedState(pub Vec<Box<RawValue>>);

impl<'de> Deserialize<'de> for StrippedState {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let list = Box::<RawValue>::deserialize(deserializer)?;
        let entries: Vec<&RawValue> = serde_json::from_str(list.get()).unwrap_or_default();
        Ok(Self(
            entries.into_iter().filter_map(canonical_object).collect(),
        ))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn malformed_entries_of_stripped_state_are_left_out() {
        #[derive(Deserialize)]
        struct StrippedStateBody {
            #[serde(default)]
            state: StrippedState,
        }
        for (text, expected) in [
            (r"{}", "[]"),
            (r#"{"state":null}"#, "[]"),
            (r#"{"state":{}}"#, "[]"),
            (
                r#"{"state":[5,{"b":1,"a":2},[],null]}"#,
                r#"[{"a":2,"b":1}]"#,
            ),
        ] {
            let body: StrippedStateBody = serde_json::from_str(text).unwrap();
            assert_eq!(serde_json::to_string(&body.state.0).unwrap(), expected);
        }
    }
}
