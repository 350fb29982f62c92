//! The content of `m.receipt` events.

use std::{collections::BTreeMap, sync::Arc};

use ruma::events::receipt::ReceiptThread;
use serde_json::{Value, json};

use crate::storage::Receipt;

/// Returns the content of `m.receipt` with these receipts, or `None` if there are none.
///
/// See the [specification](https://spec.matrix.org/v1.19/client-server-api/#mreceipt).
pub fn receipt_content<'a>(receipts: impl Iterator<Item = &'a Arc<Receipt>>) -> Option<Value> {
    let mut content: BTreeMap<String, BTreeMap<String, BTreeMap<String, Value>>> = BTreeMap::new();
    for receipt in receipts {
        let mut data = json!({ "ts": receipt.ts });
        if let (Some(fields), Some(thread)) = (data.as_object_mut(), thread_id(&receipt.thread)) {
            fields.insert("thread_id".to_owned(), thread.into());
        }
        let by_kind = content.entry(receipt.event_id.to_string()).or_default();
        let by_user = by_kind.entry(receipt.kind.clone()).or_default();
        // An event has only one receipt of a user; an unthreaded one has precedence: MSC4102.
        let known = by_user.get(receipt.user_id.as_str());
        if known.is_none_or(|known| known.get("thread_id").is_some()) {
            by_user.insert(receipt.user_id.to_string(), data);
        }
    }
    (!content.is_empty()).then(|| json!(content))
}

fn thread_id(thread: &str) -> Option<String> {
    let thread = match thread {
        "" => ReceiptThread::Unthreaded,
        other => ReceiptThread::try_from(Some(other)).ok()?,
    };
    thread.as_str().map(ToOwned::to_owned)
}
