//! Authentication of other servers by the signatures of their requests.
//!
//! See the [specification](https://spec.matrix.org/v1.19/server-server-api/#request-authentication).

use axum::http::{Request, request::Parts};
use ruma::{OwnedServerName, api::federation::authentication::ServerSignatures};

use super::x_matrix;
use crate::{
    api::{App, ClientAddress, RequestAuthenticator, RequestClass},
    error::{Error, RefusalCode, Result},
    matrix::MAX_SERVER_JSON_DEPTH,
};

/// The largest transaction: 50 PDUs and 100 EDUs of the maximum size.
const MAX_TRANSACTION_BYTES: usize = 10 * 1024 * 1024;
/// The path to which other servers send transactions.
const TRANSACTION_PATH: &str = "/_matrix/federation/v1/send/";

impl RequestAuthenticator for ServerSignatures {
    type Identity = OwnedServerName;

    const MAX_BODY_DEPTH: usize = MAX_SERVER_JSON_DEPTH;

    async fn authenticate(app: &App, parts: &Parts, body: &[u8]) -> Result<OwnedServerName> {
        let proof = x_matrix::from_headers(&parts.headers)?;
        let mut request = Request::new(body);
        request.method_mut().clone_from(&parts.method);
        request.uri_mut().clone_from(&parts.uri);
        let admit = || {
            app.limits.check(
                RequestClass::UnknownServer,
                &ClientAddress::from_parts(parts),
            )
        };
        app.federation.authenticate(&proof, &request, admit).await?;
        Ok(proof.origin)
    }

    fn check_head(app: &App, parts: &Parts) -> Result<()> {
        let proof = x_matrix::from_headers(&parts.headers)?;
        // "If this property is included, but the value does not match the receiving server's name, the receiving
        // server must deny the request with an HTTP status code `401 Unauthorized`."
        let destination = proof.destination.as_ref();
        if destination.is_some_and(|destination| !app.federation.is_own(destination)) {
            let text = "the request is for another server";
            return Err(Error::refused(RefusalCode::Unauthorized, text.to_owned()));
        }
        Ok(())
    }

    fn max_body_bytes(app: &App, parts: &Parts) -> usize {
        let usual = app.config.limits.max_request_bytes;
        if parts.uri.path().starts_with(TRANSACTION_PATH) {
            usual.max(MAX_TRANSACTION_BYTES)
        } else {
            usual
        }
    }
}
