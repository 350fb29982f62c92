//! What other servers send: events and what is said beside them, many at once.
//!
//! [Transactions](https://spec.matrix.org/v1.19/server-server-api/#transactions)

use std::collections::BTreeMap;

use axum::{Router, extract::State, routing::put};
use ruma::{
    OwnedTransactionId,
    api::federation::transactions::{edu::Edu, send_transaction_message::v1 as send_transaction},
    serde::Raw,
};
use serde::Deserialize;
use serde_json::value::RawValue;

use super::signed::Signed;
use crate::{
    api::{App, Outgoing},
    error::Result,
    workflows::{Transaction, Workflows},
};

pub(super) fn routes() -> Router<App> {
    Router::new().route(
        "/_matrix/federation/v1/send/{txn_id}",
        put(send_transaction_message),
    )
}

/// A transaction; there are servers that leave out what is empty, or write `null`.
#[derive(Deserialize)]
struct Sent {
    pdus: Option<Vec<Box<RawValue>>>,
    edus: Option<Vec<Raw<Edu>>>,
}

/// `PUT /_matrix/federation/v1/send/{txnId}`
///
/// [spec]: https://spec.matrix.org/v1.19/server-server-api/#put_matrixfederationv1sendtxnid
async fn send_transaction_message(
    State(workflows): State<Workflows>,
    mut signed: Signed<Sent>,
) -> Result<Outgoing<send_transaction::Response>> {
    let transaction = Transaction {
        id: signed.param::<OwnedTransactionId>()?,
        origin: signed.from,
        pdus: signed.body.pdus.unwrap_or_default(),
        edus: signed.body.edus.unwrap_or_default(),
    };
    let outcomes = workflows.receive_transaction(transaction).await?;
    let outcomes: BTreeMap<_, _> = (*outcomes).clone();
    Ok(Outgoing(send_transaction::Response::new(outcomes)))
}
