//! Push rules.

use insta::assert_json_snapshot;

use super::server_with_alice;

#[tokio::test]
async fn a_new_user_has_the_default_push_rules() {
    let (_server, alice) = server_with_alice().await;

    let body = alice.body_at("/_matrix/client/v3/pushrules/").await;

    assert_json_snapshot!(body, @r#"
    {
      "global": {
        "content": [
          {
            "actions": [
              "notify",
              {
                "set_tweak": "sound",
                "value": "default"
              },
              {
                "set_tweak": "highlight"
              }
            ],
            "default": true,
            "enabled": true,
            "pattern": "alice",
            "rule_id": ".m.rule.contains_user_name"
          }
        ],
        "override": [
          {
            "actions": [],
            "conditions": [],
            "default": true,
            "enabled": false,
            "rule_id": ".m.rule.master"
          },
          {
            "actions": [
              "notify"
            ],
            "conditions": [
              {
                "key": "type",
                "kind": "event_match",
                "pattern": "m.room.encrypted"
              }
            ],
            "default": true,
            "enabled": true,
            "rule_id": ".org.matrix.msc4028.encrypted_event"
          },
          {
            "actions": [],
            "conditions": [
              {
                "key": "content.msgtype",
                "kind": "event_match",
                "pattern": "m.notice"
              }
            ],
            "default": true,
            "enabled": true,
            "rule_id": ".m.rule.suppress_notices"
          },
          {
            "actions": [
              "notify",
              {
                "set_tweak": "sound",
                "value": "default"
              }
            ],
            "conditions": [
              {
                "key": "type",
                "kind": "event_match",
                "pattern": "m.room.member"
              },
              {
                "key": "content.membership",
                "kind": "event_match",
                "pattern": "invite"
              },
              {
                "key": "state_key",
                "kind": "event_match",
                "pattern": "@alice:localhost"
              }
            ],
            "default": true,
            "enabled": true,
            "rule_id": ".m.rule.invite_for_me"
          },
          {
            "actions": [],
            "conditions": [
              {
                "key": "type",
                "kind": "event_match",
                "pattern": "m.room.member"
              }
            ],
            "default": true,
            "enabled": true,
            "rule_id": ".m.rule.member_event"
          },
          {
            "actions": [
              "notify",
              {
                "set_tweak": "sound",
                "value": "default"
              },
              {
                "set_tweak": "highlight"
              }
            ],
            "conditions": [
              {
                "key": "content.m\\.mentions.user_ids",
                "kind": "event_property_contains",
                "value": "@alice:localhost"
              }
            ],
            "default": true,
            "enabled": true,
            "rule_id": ".m.rule.is_user_mention"
          },
          {
            "actions": [
              "notify",
              {
                "set_tweak": "highlight"
              }
            ],
            "conditions": [
              {
                "key": "content.m\\.mentions.room",
                "kind": "event_property_is",
                "value": true
              },
              {
                "key": "room",
                "kind": "sender_notification_permission"
              }
            ],
            "default": true,
            "enabled": true,
            "rule_id": ".m.rule.is_room_mention"
          },
          {
            "actions": [
              "notify",
              {
                "set_tweak": "highlight"
              }
            ],
            "conditions": [
              {
                "key": "type",
                "kind": "event_match",
                "pattern": "m.room.tombstone"
              },
              {
                "key": "state_key",
                "kind": "event_match",
                "pattern": ""
              }
            ],
            "default": true,
            "enabled": true,
            "rule_id": ".m.rule.tombstone"
          },
          {
            "actions": [],
            "conditions": [
              {
                "key": "type",
                "kind": "event_match",
                "pattern": "m.reaction"
              }
            ],
            "default": true,
            "enabled": true,
            "rule_id": ".m.rule.reaction"
          },
          {
            "actions": [],
            "conditions": [
              {
                "key": "type",
                "kind": "event_match",
                "pattern": "m.room.server_acl"
              },
              {
                "key": "state_key",
                "kind": "event_match",
                "pattern": ""
              }
            ],
            "default": true,
            "enabled": true,
            "rule_id": ".m.rule.room.server_acl"
          },
          {
            "actions": [],
            "conditions": [
              {
                "key": "content.m\\.relates_to.rel_type",
                "kind": "event_property_is",
                "value": "m.replace"
              }
            ],
            "default": true,
            "enabled": true,
            "rule_id": ".m.rule.suppress_edits"
          },
          {
            "actions": [],
            "conditions": [
              {
                "key": "type",
                "kind": "event_match",
                "pattern": "org.matrix.msc3381.poll.response"
              }
            ],
            "default": true,
            "enabled": true,
            "rule_id": ".org.matrix.msc3930.rule.poll_response"
          }
        ],
        "room": [],
        "sender": [],
        "underride": [
          {
            "actions": [
              "notify",
              {
                "set_tweak": "sound",
                "value": "ring"
              }
            ],
            "conditions": [
              {
                "key": "type",
                "kind": "event_match",
                "pattern": "m.call.invite"
              }
            ],
            "default": true,
            "enabled": true,
            "rule_id": ".m.rule.call"
          },
          {
            "actions": [
              "notify",
              {
                "set_tweak": "sound",
                "value": "default"
              }
            ],
            "conditions": [
              {
                "is": "2",
                "kind": "room_member_count"
              },
              {
                "key": "type",
                "kind": "event_match",
                "pattern": "m.room.encrypted"
              }
            ],
            "default": true,
            "enabled": true,
            "rule_id": ".m.rule.encrypted_room_one_to_one"
          },
          {
            "actions": [
              "notify",
              {
                "set_tweak": "sound",
                "value": "default"
              }
            ],
            "conditions": [
              {
                "is": "2",
                "kind": "room_member_count"
              },
              {
                "key": "type",
                "kind": "event_match",
                "pattern": "m.room.message"
              }
            ],
            "default": true,
            "enabled": true,
            "rule_id": ".m.rule.room_one_to_one"
          },
          {
            "actions": [
              "notify"
            ],
            "conditions": [
              {
                "key": "type",
                "kind": "event_match",
                "pattern": "m.room.message"
              }
            ],
            "default": true,
            "enabled": true,
            "rule_id": ".m.rule.message"
          },
          {
            "actions": [
              "notify"
            ],
            "conditions": [
              {
                "key": "type",
                "kind": "event_match",
                "pattern": "m.room.encrypted"
              }
            ],
            "default": true,
            "enabled": true,
            "rule_id": ".m.rule.encrypted"
          },
          {
            "actions": [
              "notify",
              {
                "set_tweak": "sound",
                "value": "default"
              }
            ],
            "conditions": [
              {
                "is": "2",
                "kind": "room_member_count"
              },
              {
                "key": "type",
                "kind": "event_match",
                "pattern": "org.matrix.msc3381.poll.start"
              }
            ],
            "default": true,
            "enabled": true,
            "rule_id": ".org.matrix.msc3930.rule.poll_start_one_to_one"
          },
          {
            "actions": [
              "notify"
            ],
            "conditions": [
              {
                "key": "type",
                "kind": "event_match",
                "pattern": "org.matrix.msc3381.poll.start"
              }
            ],
            "default": true,
            "enabled": true,
            "rule_id": ".org.matrix.msc3930.rule.poll_start"
          },
          {
            "actions": [
              "notify",
              {
                "set_tweak": "sound",
                "value": "default"
              }
            ],
            "conditions": [
              {
                "is": "2",
                "kind": "room_member_count"
              },
              {
                "key": "type",
                "kind": "event_match",
                "pattern": "org.matrix.msc3381.poll.end"
              }
            ],
            "default": true,
            "enabled": true,
            "rule_id": ".org.matrix.msc3930.rule.poll_end_one_to_one"
          },
          {
            "actions": [
              "notify"
            ],
            "conditions": [
              {
                "key": "type",
                "kind": "event_match",
                "pattern": "org.matrix.msc3381.poll.end"
              }
            ],
            "default": true,
            "enabled": true,
            "rule_id": ".org.matrix.msc3930.rule.poll_end"
          }
        ]
      }
    }
    "#);
}
