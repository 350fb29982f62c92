//! Transactions of other servers: PDUs and EDUs.
//!
//! See [Transactions](https://spec.matrix.org/v1.19/server-server-api/#transactions).

use std::collections::BTreeMap;

use axum::{Router, extract::State, routing::put};
use ruma::{
    OwnedTransactionId,
    api::federation::transactions::{edu::Edu, send_transaction_message::v1 as send_transaction},
    serde::Raw,
};
use serde::Deserialize;
use serde_json::value::RawValue;

use super::signed_request::{SignedBody, SignedRequest};
use crate::{
    api::{App, MatrixResponse},
    error::{Error, RefusalCode, Result},
    workflows::{ReceivedTransaction, Workflows},
};

pub(super) fn routes() -> Router<App> {
    Router::new().route(
        "/_matrix/federation/v1/send/{txn_id}",
        put(send_transaction_message),
    )
}

/// The body of a transaction. Some servers omit empty lists or write `null`.
#[derive(Deserialize)]
struct TransactionBody {
    pdus: Option<Vec<Box<RawValue>>>,
    edus: Option<Vec<Raw<Edu>>>,
}

/// One invalid event or EDU does not spoil the others: each is checked separately.
impl SignedBody for TransactionBody {
    fn read(body: &[u8]) -> Result<Self> {
        let first = body.iter().find(|byte| !byte.is_ascii_whitespace());
        // serde would also read a list as a struct.
        if first.is_some_and(|first| *first != b'{') {
            return Err(Error::BadJson("expected a JSON object".to_owned()));
        }
        serde_json::from_slice(body).map_err(|error| {
            if error.is_data() {
                Error::BadJson(error.to_string())
            } else {
                Error::refused(RefusalCode::NotJson, error.to_string())
            }
        })
    }
}

/// `PUT /_matrix/federation/v1/send/{txnId}`
///
/// See the [specification](https://spec.matrix.org/v1.19/server-server-api/#put_matrixfederationv1sendtxnid).
async fn send_transaction_message(
    State(workflows): State<Workflows>,
    mut signed: SignedRequest<TransactionBody>,
) -> Result<MatrixResponse<send_transaction::Response>> {
    let transaction = ReceivedTransaction {
        id: signed.next_param::<OwnedTransactionId>()?,
        origin: signed.from,
        pdus: signed.body.pdus.unwrap_or_default(),
        edus: signed.body.edus.unwrap_or_default(),
    };
    let outcomes = workflows.inbox.receive_transaction(transaction).await?;
    let outcomes: BTreeMap<_, _> = (*outcomes).clone();
    Ok(MatrixResponse(send_transaction::Response::new(outcomes)))
}
