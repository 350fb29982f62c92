//! The state and the members of rooms, and the directory.

use insta::{assert_json_snapshot, sorted_redaction};
use serde_json::{Value, json};

use super::{
    called, hide_varying_fields, server_with_alice, server_with_alice_and_bob, with_names,
};
use crate::{
    chat::room_path,
    harness::{Server, User},
};

/// A room with a name and two members.
struct TwoMembers {
    _server: Server,
    alice: User,
    room: String,
}

impl TwoMembers {
    async fn new() -> Self {
        let (server, alice, bob) = server_with_alice_and_bob().await;
        let request = json!({ "preset": "public_chat", "name": "Tea" });
        let room = alice.creates(request).await;
        let name = format!("/_matrix/client/v3/profile/{}/displayname", bob.id);
        let set = bob.client.put(&name, json!({ "displayname": "Bob" })).await;
        set.expect_ok();
        bob.joins(&room).await;
        Self {
            _server: server,
            alice,
            room,
        }
    }

    /// Returns the body of a resource of the room, with short names.
    async fn body(&self, what: &str) -> Value {
        let body = self.alice.body_at(&room_path(&self.room, what)).await;
        with_names(&body, &[called(&self.room, "!tea")])
    }
}

#[tokio::test]
async fn the_state_of_a_room_is_a_list_of_events() {
    let (_server, alice) = server_with_alice().await;
    let room = alice.creates(json!({ "name": "Tea" })).await;

    let body = alice.body_at(&room_path(&room, "state")).await;
    let body = with_names(&body, &[called(&room, "!tea")]);

    let _hidden = hide_varying_fields();
    assert_json_snapshot!(body, {
        "." => sorted_redaction(),
    }, @r#"
    [
      {
        "content": {
          "ban": 50,
          "events": {
            "m.room.avatar": 50,
            "m.room.canonical_alias": 50,
            "m.room.encryption": 100,
            "m.room.history_visibility": 100,
            "m.room.name": 50,
            "m.room.power_levels": 100,
            "m.room.server_acl": 100,
            "m.room.tombstone": 150
          },
          "events_default": 0,
          "invite": 0,
          "kick": 50,
          "notifications": {
            "room": 50
          },
          "redact": 50,
          "state_default": 50,
          "users": {},
          "users_default": 0
        },
        "event_id": "[event id]",
        "origin_server_ts": "[time]",
        "room_id": "!tea",
        "sender": "@alice:localhost",
        "state_key": "",
        "type": "m.room.power_levels",
        "unsigned": {
          "age": "[duration]"
        }
      },
      {
        "content": {
          "guest_access": "can_join"
        },
        "event_id": "[event id]",
        "origin_server_ts": "[time]",
        "room_id": "!tea",
        "sender": "@alice:localhost",
        "state_key": "",
        "type": "m.room.guest_access",
        "unsigned": {
          "age": "[duration]"
        }
      },
      {
        "content": {
          "history_visibility": "shared"
        },
        "event_id": "[event id]",
        "origin_server_ts": "[time]",
        "room_id": "!tea",
        "sender": "@alice:localhost",
        "state_key": "",
        "type": "m.room.history_visibility",
        "unsigned": {
          "age": "[duration]"
        }
      },
      {
        "content": {
          "join_rule": "invite"
        },
        "event_id": "[event id]",
        "origin_server_ts": "[time]",
        "room_id": "!tea",
        "sender": "@alice:localhost",
        "state_key": "",
        "type": "m.room.join_rules",
        "unsigned": {
          "age": "[duration]"
        }
      },
      {
        "content": {
          "membership": "join"
        },
        "event_id": "[event id]",
        "origin_server_ts": "[time]",
        "room_id": "!tea",
        "sender": "@alice:localhost",
        "state_key": "@alice:localhost",
        "type": "m.room.member",
        "unsigned": {
          "age": "[duration]"
        }
      },
      {
        "content": {
          "name": "Tea"
        },
        "event_id": "[event id]",
        "origin_server_ts": "[time]",
        "room_id": "!tea",
        "sender": "@alice:localhost",
        "state_key": "",
        "type": "m.room.name",
        "unsigned": {
          "age": "[duration]"
        }
      },
      {
        "content": {
          "room_version": "12"
        },
        "event_id": "[event id]",
        "origin_server_ts": "[time]",
        "room_id": "!tea",
        "sender": "@alice:localhost",
        "state_key": "",
        "type": "m.room.create",
        "unsigned": {
          "age": "[duration]"
        }
      }
    ]
    "#);
}

#[tokio::test]
async fn one_state_event_is_its_content_or_the_whole_event() {
    let members = TwoMembers::new().await;

    let content = members.body("state/m.room.name").await;
    let event = members.body("state/m.room.name/?format=event").await;

    let _hidden = hide_varying_fields();
    assert_json_snapshot!(content, @r#"
    {
      "name": "Tea"
    }
    "#);
    assert_json_snapshot!(event, @r#"
    {
      "content": {
        "name": "Tea"
      },
      "event_id": "[event id]",
      "origin_server_ts": "[time]",
      "room_id": "!tea",
      "sender": "@alice:localhost",
      "state_key": "",
      "type": "m.room.name",
      "unsigned": {
        "age": "[duration]"
      }
    }
    "#);
}

#[tokio::test]
async fn members_are_a_chunk_of_member_events() {
    let members = TwoMembers::new().await;

    let body = members.body("members").await;

    let _hidden = hide_varying_fields();
    assert_json_snapshot!(body, {
        ".chunk" => sorted_redaction(),
    }, @r#"
    {
      "chunk": [
        {
          "content": {
            "displayname": "Bob",
            "membership": "join"
          },
          "event_id": "[event id]",
          "origin_server_ts": "[time]",
          "room_id": "!tea",
          "sender": "@bob:localhost",
          "state_key": "@bob:localhost",
          "type": "m.room.member",
          "unsigned": {
            "age": "[duration]"
          }
        },
        {
          "content": {
            "membership": "join"
          },
          "event_id": "[event id]",
          "origin_server_ts": "[time]",
          "room_id": "!tea",
          "sender": "@alice:localhost",
          "state_key": "@alice:localhost",
          "type": "m.room.member",
          "unsigned": {
            "age": "[duration]"
          }
        }
      ]
    }
    "#);
}

#[tokio::test]
async fn joined_members_are_listed_with_their_profiles() {
    let members = TwoMembers::new().await;

    let body = members.body("joined_members").await;

    assert_json_snapshot!(body, @r#"
    {
      "joined": {
        "@alice:localhost": {
          "avatar_url": null,
          "display_name": null
        },
        "@bob:localhost": {
          "avatar_url": null,
          "display_name": "Bob"
        }
      }
    }
    "#);
}

#[tokio::test]
async fn joined_rooms_are_a_list_of_ids() {
    let members = TwoMembers::new().await;

    let body = members
        .alice
        .body_at("/_matrix/client/v3/joined_rooms")
        .await;

    let body = with_names(&body, &[called(&members.room, "!tea")]);
    assert_json_snapshot!(body, @r#"
    {
      "joined_rooms": [
        "!tea"
      ]
    }
    "#);
}

#[tokio::test]
async fn public_rooms_are_listed_with_their_summaries() {
    let (_server, alice) = server_with_alice().await;
    let request = json!({
        "preset": "public_chat", "visibility": "public", "name": "Tea", "topic": "All about tea",
        "room_alias_name": "tea",
    });
    let room = alice.creates(request).await;

    let body = alice.body_at("/_matrix/client/v3/publicRooms").await;

    let body = with_names(&body, &[called(&room, "!tea")]);
    assert_json_snapshot!(body, @r##"
    {
      "chunk": [
        {
          "canonical_alias": "#tea:localhost",
          "guest_can_join": false,
          "join_rule": "public",
          "name": "Tea",
          "num_joined_members": 1,
          "room_id": "!tea",
          "topic": "All about tea",
          "world_readable": false
        }
      ],
      "total_room_count_estimate": 1
    }
    "##);
}
