//! The server ACL of a room, which says which servers may take part in it.

use ruma::{
    ServerName,
    events::{StateEventType, room::server_acl::RoomServerAclEventContent},
};
use serde_json::{Map, Value};

use crate::{
    error::{Error, Result},
    matrix::StateMap,
};

/// Checks that the server ACL of a room does not deny a server.
///
/// [Server ACLs](https://spec.matrix.org/v1.19/server-server-api/#server-access-control-lists-acls)
pub(crate) fn check_server_allowed(state: &StateMap, server: &ServerName) -> Result<()> {
    if server_acl(state).is_none_or(|acl| acl.is_allowed(server)) {
        return Ok(());
    }
    Err(Error::forbidden(format!(
        "the room does not allow the server {server}"
    )))
}

/// Returns the server ACL of a room. If it is malformed, each valid field and entry still counts: a
/// room that denies servers must not let them in because of a mistake elsewhere in the ACL.
fn server_acl(state: &StateMap) -> Option<RoomServerAclEventContent> {
    let content: Map<String, Value> = state.content(&StateEventType::RoomServerAcl)?;
    let list = |name: &str| -> Vec<String> {
        let entries = content.get(name).and_then(Value::as_array);
        let texts = entries.into_iter().flatten().filter_map(Value::as_str);
        texts.map(ToOwned::to_owned).collect()
    };
    let allows_ip_literals = content
        .get("allow_ip_literals")
        .and_then(Value::as_bool)
        .unwrap_or(true);
    Some(RoomServerAclEventContent::new(
        allows_ip_literals,
        list("allow"),
        list("deny"),
    ))
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use ruma::OwnedEventId;
    use serde_json::json;

    use super::*;
    use crate::matrix::Pdu;

    fn state_with_acl(acl: &Value) -> StateMap {
        let event = json!({
            "type": "m.room.server_acl", "state_key": "", "sender": "@a:x", "room_id": "!r:x",
            "content": acl, "depth": 1, "origin_server_ts": 1, "prev_events": [],
            "auth_events": [],
        });
        let id = OwnedEventId::try_from("$acl").unwrap();
        let mut state = StateMap::default();
        state.insert(Arc::new(Pdu::parse(id, &event.to_string()).unwrap()));
        state
    }

    #[test]
    fn a_malformed_server_acl_still_denies_named_servers() {
        for acl in [
            json!({ "allow": ["*", 5], "deny": ["bad.example"] }),
            json!({ "allow": ["*"], "deny": [5, "bad.example", null] }),
            json!({ "allow": ["*"], "deny": ["bad.example"], "allow_ip_literals": "x" }),
        ] {
            let state = state_with_acl(&acl);
            let check =
                |server: &str| check_server_allowed(&state, &ServerName::parse(server).unwrap());
            assert!(check("bad.example").is_err(), "{acl}");
            assert!(check("good.example").is_ok(), "{acl}");
            assert!(check("1.2.3.4").is_ok(), "{acl}");
        }
        for acl in [json!({ "allow": "*" }), json!({ "allow": null }), json!({})] {
            let state = state_with_acl(&acl);
            let server = ServerName::parse("good.example").unwrap();
            assert!(check_server_allowed(&state, &server).is_err(), "{acl}");
        }
        let no_acl = StateMap::default();
        check_server_allowed(&no_acl, &ServerName::parse("good.example").unwrap()).unwrap();
    }
}
