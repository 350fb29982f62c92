//! Events, pages of events, relations, threads and search.

use insta::assert_json_snapshot;
use serde_json::{Value, json};

use super::{called, hide_varying_fields, server_with_alice, with_names};
use crate::{
    chat::room_path,
    harness::{Server, User},
};

/// A room in which Alice started a thread, to which she replied.
struct Thread {
    _server: Server,
    alice: User,
    room: String,
    root: String,
    reply: String,
}

impl Thread {
    async fn new() -> Self {
        let (server, alice) = server_with_alice().await;
        let room = alice.creates(json!({})).await;
        let thread_root = alice.says(&room, "question").await;
        let content = json!({
            "msgtype": "m.text", "body": "answer",
            "m.relates_to": { "rel_type": "m.thread", "event_id": thread_root },
        });
        let sent = alice.tries_to_send(&room, "m.room.message", content).await;
        let reply = sent.expect_ok()["event_id"]
            .as_str()
            .expect("an id")
            .to_owned();
        Self {
            _server: server,
            alice,
            room,
            root: thread_root,
            reply,
        }
    }

    fn with_names(&self, body: &Value) -> Value {
        let names = [
            called(&self.room, "!tea"),
            called(&self.root, "$question"),
            called(&self.reply, "$answer"),
        ];
        with_names(body, &names)
    }

    /// Returns the body of a resource of the room, with short names.
    async fn body(&self, what: &str) -> Value {
        let body = self.alice.body_at(&room_path(&self.room, what)).await;
        self.with_names(&body)
    }

    /// Returns the body of an endpoint of version 1, with short names.
    async fn body_v1(&self, what: &str) -> Value {
        let path = format!("/_matrix/client/v1/rooms/{}/{what}", self.room);
        self.with_names(&self.alice.body_at(&path).await)
    }
}

#[tokio::test]
async fn an_event_has_its_transaction_id_and_aggregations() {
    let thread = Thread::new().await;

    let body = thread.body(&format!("event/{}", thread.root)).await;

    let _hidden = hide_varying_fields();
    assert_json_snapshot!(body, @r#"
    {
      "content": {
        "body": "question",
        "msgtype": "m.text"
      },
      "event_id": "$question",
      "origin_server_ts": "[time]",
      "room_id": "!tea",
      "sender": "@alice:localhost",
      "type": "m.room.message",
      "unsigned": {
        "age": "[duration]",
        "m.relations": {
          "m.thread": {
            "count": 1,
            "current_user_participated": true,
            "latest_event": {
              "content": {
                "body": "answer",
                "m.relates_to": {
                  "event_id": "$question",
                  "rel_type": "m.thread"
                },
                "msgtype": "m.text"
              },
              "event_id": "$answer",
              "origin_server_ts": "[time]",
              "room_id": "!tea",
              "sender": "@alice:localhost",
              "type": "m.room.message",
              "unsigned": {
                "age": "[duration]",
                "membership": "join",
                "transaction_id": "[transaction id]"
              }
            }
          }
        },
        "membership": "join",
        "transaction_id": "[transaction id]"
      }
    }
    "#);
}

#[tokio::test]
async fn messages_are_a_chunk_between_two_tokens() {
    let thread = Thread::new().await;

    let body = thread.body("messages?dir=b&limit=2").await;

    let _hidden = hide_varying_fields();
    assert_json_snapshot!(body, @r#"
    {
      "chunk": [
        {
          "content": {
            "body": "answer",
            "m.relates_to": {
              "event_id": "$question",
              "rel_type": "m.thread"
            },
            "msgtype": "m.text"
          },
          "event_id": "$answer",
          "origin_server_ts": "[time]",
          "room_id": "!tea",
          "sender": "@alice:localhost",
          "type": "m.room.message",
          "unsigned": {
            "age": "[duration]",
            "membership": "join",
            "transaction_id": "[transaction id]"
          }
        },
        {
          "content": {
            "body": "question",
            "msgtype": "m.text"
          },
          "event_id": "$question",
          "origin_server_ts": "[time]",
          "room_id": "!tea",
          "sender": "@alice:localhost",
          "type": "m.room.message",
          "unsigned": {
            "age": "[duration]",
            "m.relations": {
              "m.thread": {
                "count": 1,
                "current_user_participated": true,
                "latest_event": {
                  "content": {
                    "body": "answer",
                    "m.relates_to": {
                      "event_id": "$question",
                      "rel_type": "m.thread"
                    },
                    "msgtype": "m.text"
                  },
                  "event_id": "$answer",
                  "origin_server_ts": "[time]",
                  "room_id": "!tea",
                  "sender": "@alice:localhost",
                  "type": "m.room.message",
                  "unsigned": {
                    "age": "[duration]",
                    "membership": "join",
                    "transaction_id": "[transaction id]"
                  }
                }
              }
            },
            "membership": "join",
            "transaction_id": "[transaction id]"
          }
        }
      ],
      "end": "[token]",
      "start": "[token]",
      "state": []
    }
    "#);
}

#[tokio::test]
async fn a_page_that_a_filter_shortened_has_an_end() {
    let thread = Thread::new().await;

    let filter = "%7B%22types%22:%5B%22m.room.create%22%5D%7D";
    let path = format!("messages?dir=b&limit=50&filter={filter}");
    let body = thread.body(&path).await;

    let _hidden = hide_varying_fields();
    assert_json_snapshot!(body, @r#"
    {
      "chunk": [
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
            "age": "[duration]",
            "membership": "leave"
          }
        }
      ],
      "end": "[token]",
      "start": "[token]",
      "state": []
    }
    "#);
}

#[tokio::test]
async fn a_context_has_the_events_around_one() {
    let thread = Thread::new().await;

    let filter = "%7B%22lazy_load_members%22:true%7D";
    let path = format!("context/{}?limit=2&filter={filter}", thread.root);
    let body = thread.body(&path).await;

    let _hidden = hide_varying_fields();
    assert_json_snapshot!(body, {
        ".state" => "[state events]",
    }, @r#"
    {
      "end": "[token]",
      "event": {
        "content": {
          "body": "question",
          "msgtype": "m.text"
        },
        "event_id": "$question",
        "origin_server_ts": "[time]",
        "room_id": "!tea",
        "sender": "@alice:localhost",
        "type": "m.room.message",
        "unsigned": {
          "age": "[duration]",
          "m.relations": {
            "m.thread": {
              "count": 1,
              "current_user_participated": true,
              "latest_event": {
                "content": {
                  "body": "answer",
                  "m.relates_to": {
                    "event_id": "$question",
                    "rel_type": "m.thread"
                  },
                  "msgtype": "m.text"
                },
                "event_id": "$answer",
                "origin_server_ts": "[time]",
                "room_id": "!tea",
                "sender": "@alice:localhost",
                "type": "m.room.message",
                "unsigned": {
                  "age": "[duration]",
                  "membership": "join",
                  "transaction_id": "[transaction id]"
                }
              }
            }
          },
          "membership": "join",
          "transaction_id": "[transaction id]"
        }
      },
      "events_after": [
        {
          "content": {
            "body": "answer",
            "m.relates_to": {
              "event_id": "$question",
              "rel_type": "m.thread"
            },
            "msgtype": "m.text"
          },
          "event_id": "$answer",
          "origin_server_ts": "[time]",
          "room_id": "!tea",
          "sender": "@alice:localhost",
          "type": "m.room.message",
          "unsigned": {
            "age": "[duration]",
            "membership": "join",
            "transaction_id": "[transaction id]"
          }
        }
      ],
      "events_before": [
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
            "age": "[duration]",
            "membership": "join"
          }
        }
      ],
      "start": "[token]",
      "state": "[state events]"
    }
    "#);
}

#[tokio::test]
async fn relations_are_a_chunk_of_events() {
    let thread = Thread::new().await;

    let body = thread.body_v1(&format!("relations/{}", thread.root)).await;

    let _hidden = hide_varying_fields();
    assert_json_snapshot!(body, @r#"
    {
      "chunk": [
        {
          "content": {
            "body": "answer",
            "m.relates_to": {
              "event_id": "$question",
              "rel_type": "m.thread"
            },
            "msgtype": "m.text"
          },
          "event_id": "$answer",
          "origin_server_ts": "[time]",
          "room_id": "!tea",
          "sender": "@alice:localhost",
          "type": "m.room.message",
          "unsigned": {
            "age": "[duration]",
            "membership": "join",
            "transaction_id": "[transaction id]"
          }
        }
      ]
    }
    "#);
}

#[tokio::test]
async fn threads_are_a_chunk_of_roots() {
    let thread = Thread::new().await;

    let body = thread.body_v1("threads").await;

    let _hidden = hide_varying_fields();
    assert_json_snapshot!(body, @r#"
    {
      "chunk": [
        {
          "content": {
            "body": "question",
            "msgtype": "m.text"
          },
          "event_id": "$question",
          "origin_server_ts": "[time]",
          "room_id": "!tea",
          "sender": "@alice:localhost",
          "type": "m.room.message",
          "unsigned": {
            "age": "[duration]",
            "m.relations": {
              "m.thread": {
                "count": 1,
                "current_user_participated": true,
                "latest_event": {
                  "content": {
                    "body": "answer",
                    "m.relates_to": {
                      "event_id": "$question",
                      "rel_type": "m.thread"
                    },
                    "msgtype": "m.text"
                  },
                  "event_id": "$answer",
                  "origin_server_ts": "[time]",
                  "room_id": "!tea",
                  "sender": "@alice:localhost",
                  "type": "m.room.message",
                  "unsigned": {
                    "age": "[duration]",
                    "membership": "join",
                    "transaction_id": "[transaction id]"
                  }
                }
              }
            },
            "membership": "join",
            "transaction_id": "[transaction id]"
          }
        }
      ]
    }
    "#);
}

#[tokio::test]
async fn a_search_returns_results_with_their_contexts() {
    let thread = Thread::new().await;
    let criteria = json!({
        "search_term": "answer", "order_by": "recent",
        "event_context": { "before_limit": 1, "after_limit": 1, "include_profile": true },
    });

    let request = json!({ "search_categories": { "room_events": criteria } });
    let answer = thread
        .alice
        .client
        .post("/_matrix/client/v3/search", request)
        .await;

    let body = thread.with_names(&answer.expect_ok());
    let _hidden = hide_varying_fields();
    assert_json_snapshot!(body, @r#"
    {
      "search_categories": {
        "room_events": {
          "count": 1,
          "highlights": [
            "answer"
          ],
          "results": [
            {
              "context": {
                "end": "[token]",
                "events_after": [],
                "events_before": [
                  {
                    "content": {
                      "body": "question",
                      "msgtype": "m.text"
                    },
                    "event_id": "$question",
                    "origin_server_ts": "[time]",
                    "room_id": "!tea",
                    "sender": "@alice:localhost",
                    "type": "m.room.message",
                    "unsigned": {
                      "age": "[duration]",
                      "membership": "join",
                      "transaction_id": "[transaction id]"
                    }
                  }
                ],
                "profile_info": {
                  "@alice:localhost": {}
                },
                "start": "[token]"
              },
              "rank": "[number]",
              "result": {
                "content": {
                  "body": "answer",
                  "m.relates_to": {
                    "event_id": "$question",
                    "rel_type": "m.thread"
                  },
                  "msgtype": "m.text"
                },
                "event_id": "$answer",
                "origin_server_ts": "[time]",
                "room_id": "!tea",
                "sender": "@alice:localhost",
                "type": "m.room.message",
                "unsigned": {
                  "age": "[duration]",
                  "membership": "join",
                  "transaction_id": "[transaction id]"
                }
              }
            }
          ]
        }
      }
    }
    "#);
}
