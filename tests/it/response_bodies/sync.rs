//! `/sync`.

use insta::assert_json_snapshot;
use serde_json::json;

use super::{
    called, hide_varying_fields, server_with_alice, server_with_alice_and_bob, with_names,
};

#[tokio::test]
async fn an_initial_sync_has_the_rooms_and_the_account() {
    let (_server, alice) = server_with_alice().await;
    let room = alice.creates(json!({ "name": "Tea" })).await;
    let hello = alice.says(&room, "hello").await;

    let body = alice.syncs().await;

    let names = [called(&room, "!tea"), called(&hello, "$hello")];
    let body = with_names(&body, &names);
    let _hidden = hide_varying_fields();
    assert_json_snapshot!(body, {
        ".account_data.events[].content.global" => "[push rules]",
    }, @r#"
    {
      "account_data": {
        "events": [
          {
            "content": {
              "global": "[push rules]"
            },
            "type": "m.push_rules"
          }
        ]
      },
      "device_one_time_keys_count": {
        "signed_curve25519": 0
      },
      "device_unused_fallback_key_types": [],
      "next_batch": "[token]",
      "presence": {
        "events": [
          {
            "content": {
              "currently_active": true,
              "last_active_ago": "[duration]",
              "presence": "online"
            },
            "sender": "@alice:localhost",
            "type": "m.presence"
          }
        ]
      },
      "rooms": {
        "join": {
          "!tea": {
            "account_data": {
              "events": []
            },
            "ephemeral": {
              "events": []
            },
            "state": {
              "events": []
            },
            "summary": {
              "m.invited_member_count": 0,
              "m.joined_member_count": 1
            },
            "timeline": {
              "events": [
                {
                  "content": {
                    "room_version": "12"
                  },
                  "event_id": "[event id]",
                  "origin_server_ts": "[time]",
                  "sender": "@alice:localhost",
                  "state_key": "",
                  "type": "m.room.create",
                  "unsigned": {
                    "age": "[duration]",
                    "membership": "leave"
                  }
                },
                {
                  "content": {
                    "membership": "join"
                  },
                  "event_id": "[event id]",
                  "origin_server_ts": "[time]",
                  "sender": "@alice:localhost",
                  "state_key": "@alice:localhost",
                  "type": "m.room.member",
                  "unsigned": {
                    "age": "[duration]",
                    "membership": "join"
                  }
                },
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
                  "sender": "@alice:localhost",
                  "state_key": "",
                  "type": "m.room.power_levels",
                  "unsigned": {
                    "age": "[duration]",
                    "membership": "join"
                  }
                },
                {
                  "content": {
                    "join_rule": "invite"
                  },
                  "event_id": "[event id]",
                  "origin_server_ts": "[time]",
                  "sender": "@alice:localhost",
                  "state_key": "",
                  "type": "m.room.join_rules",
                  "unsigned": {
                    "age": "[duration]",
                    "membership": "join"
                  }
                },
                {
                  "content": {
                    "history_visibility": "shared"
                  },
                  "event_id": "[event id]",
                  "origin_server_ts": "[time]",
                  "sender": "@alice:localhost",
                  "state_key": "",
                  "type": "m.room.history_visibility",
                  "unsigned": {
                    "age": "[duration]",
                    "membership": "join"
                  }
                },
                {
                  "content": {
                    "guest_access": "can_join"
                  },
                  "event_id": "[event id]",
                  "origin_server_ts": "[time]",
                  "sender": "@alice:localhost",
                  "state_key": "",
                  "type": "m.room.guest_access",
                  "unsigned": {
                    "age": "[duration]",
                    "membership": "join"
                  }
                },
                {
                  "content": {
                    "name": "Tea"
                  },
                  "event_id": "[event id]",
                  "origin_server_ts": "[time]",
                  "sender": "@alice:localhost",
                  "state_key": "",
                  "type": "m.room.name",
                  "unsigned": {
                    "age": "[duration]",
                    "membership": "join"
                  }
                },
                {
                  "content": {
                    "body": "hello",
                    "msgtype": "m.text"
                  },
                  "event_id": "$hello",
                  "origin_server_ts": "[time]",
                  "sender": "@alice:localhost",
                  "type": "m.room.message",
                  "unsigned": {
                    "age": "[duration]",
                    "membership": "join",
                    "transaction_id": "[transaction id]"
                  }
                }
              ],
              "limited": false,
              "prev_batch": "[token]"
            },
            "unread_notifications": {
              "highlight_count": 0,
              "notification_count": 0
            }
          }
        }
      }
    }
    "#);
}

#[tokio::test]
async fn an_incremental_sync_has_the_changes() {
    let (_server, alice, bob) = server_with_alice_and_bob().await;
    let room = alice.creates_open_room().await;
    bob.joins(&room).await;
    let before = alice.syncs().await;
    let hello = bob.says(&room, "hello").await;
    bob.starts_typing(&room).await;
    bob.sends_read_receipt(&room, &hello).await;

    let body = alice.syncs_after(&before).await;

    let names = [called(&room, "!tea"), called(&hello, "$hello")];
    let body = with_names(&body, &names);
    let _hidden = hide_varying_fields();
    assert_json_snapshot!(body, @r#"
    {
      "device_one_time_keys_count": {
        "signed_curve25519": 0
      },
      "device_unused_fallback_key_types": [],
      "next_batch": "[token]",
      "rooms": {
        "join": {
          "!tea": {
            "account_data": {
              "events": []
            },
            "ephemeral": {
              "events": [
                {
                  "content": {
                    "user_ids": [
                      "@bob:localhost"
                    ]
                  },
                  "type": "m.typing"
                },
                {
                  "content": {
                    "$hello": {
                      "m.read": {
                        "@bob:localhost": {
                          "ts": "[time]"
                        }
                      }
                    }
                  },
                  "type": "m.receipt"
                }
              ]
            },
            "state": {
              "events": []
            },
            "timeline": {
              "events": [
                {
                  "content": {
                    "body": "hello",
                    "msgtype": "m.text"
                  },
                  "event_id": "$hello",
                  "origin_server_ts": "[time]",
                  "sender": "@bob:localhost",
                  "type": "m.room.message",
                  "unsigned": {
                    "age": "[duration]",
                    "membership": "join"
                  }
                }
              ],
              "limited": false,
              "prev_batch": "[token]"
            },
            "unread_notifications": {
              "highlight_count": 0,
              "notification_count": 1
            }
          }
        }
      }
    }
    "#);
}

#[tokio::test]
async fn a_sync_shows_an_invite_with_stripped_state() {
    let (_server, alice, bob) = server_with_alice_and_bob().await;
    let before = bob.syncs().await;
    let room = alice.creates(json!({ "name": "Tea" })).await;
    alice.invites(&room, &bob).await;

    let body = bob.syncs_after(&before).await;

    let body = with_names(&body, &[called(&room, "!tea")]);
    let _hidden = hide_varying_fields();
    assert_json_snapshot!(body, @r#"
    {
      "device_one_time_keys_count": {
        "signed_curve25519": 0
      },
      "device_unused_fallback_key_types": [],
      "next_batch": "[token]",
      "rooms": {
        "invite": {
          "!tea": {
            "invite_state": {
              "events": [
                {
                  "content": {
                    "room_version": "12"
                  },
                  "event_id": "[event id]",
                  "origin_server_ts": "[time]",
                  "sender": "@alice:localhost",
                  "state_key": "",
                  "type": "m.room.create"
                },
                {
                  "content": {
                    "name": "Tea"
                  },
                  "sender": "@alice:localhost",
                  "state_key": "",
                  "type": "m.room.name"
                },
                {
                  "content": {
                    "join_rule": "invite"
                  },
                  "sender": "@alice:localhost",
                  "state_key": "",
                  "type": "m.room.join_rules"
                },
                {
                  "content": {
                    "membership": "join"
                  },
                  "event_id": "[event id]",
                  "origin_server_ts": "[time]",
                  "sender": "@alice:localhost",
                  "state_key": "@alice:localhost",
                  "type": "m.room.member"
                },
                {
                  "content": {
                    "membership": "invite"
                  },
                  "event_id": "[event id]",
                  "origin_server_ts": "[time]",
                  "sender": "@alice:localhost",
                  "state_key": "@bob:localhost",
                  "type": "m.room.member"
                }
              ]
            }
          }
        }
      }
    }
    "#);
}

#[tokio::test]
async fn a_sync_shows_that_the_user_left() {
    let (_server, alice, bob) = server_with_alice_and_bob().await;
    let room = alice.creates_open_room().await;
    bob.joins(&room).await;
    let before = bob.syncs().await;
    bob.leaves(&room).await;

    let body = bob.syncs_after(&before).await;

    let body = with_names(&body, &[called(&room, "!tea")]);
    let _hidden = hide_varying_fields();
    assert_json_snapshot!(body, @r#"
    {
      "device_lists": {
        "changed": [],
        "left": [
          "@alice:localhost"
        ]
      },
      "device_one_time_keys_count": {
        "signed_curve25519": 0
      },
      "device_unused_fallback_key_types": [],
      "next_batch": "[token]",
      "rooms": {
        "leave": {
          "!tea": {
            "account_data": {
              "events": []
            },
            "state": {
              "events": []
            },
            "timeline": {
              "events": [
                {
                  "content": {
                    "membership": "leave"
                  },
                  "event_id": "[event id]",
                  "origin_server_ts": "[time]",
                  "sender": "@bob:localhost",
                  "state_key": "@bob:localhost",
                  "type": "m.room.member",
                  "unsigned": {
                    "age": "[duration]",
                    "membership": "leave",
                    "prev_content": {
                      "membership": "join"
                    },
                    "prev_sender": "@bob:localhost",
                    "replaces_state": "[event id]"
                  }
                }
              ],
              "limited": false,
              "prev_batch": "[token]"
            }
          }
        }
      }
    }
    "#);
}

#[tokio::test]
async fn a_sync_without_changes_is_small() {
    let (_server, alice) = server_with_alice().await;
    alice.creates(json!({})).await;
    let before = alice.syncs().await;

    let body = alice.syncs_after(&before).await;

    let _hidden = hide_varying_fields();
    assert_json_snapshot!(body, @r#"
    {
      "device_one_time_keys_count": {
        "signed_curve25519": 0
      },
      "device_unused_fallback_key_types": [],
      "next_batch": "[token]"
    }
    "#);
}
