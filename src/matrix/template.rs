//! Events that another server will sign: what it has to fill in is missing.
//!
//! [Joining rooms](https://spec.matrix.org/v1.19/server-server-api/#joining-rooms)

use std::sync::Arc;

use ruma::{events::StateEventType, state_res::check_pdu_format};
use serde_json::value::RawValue;

use super::{
    Pdu,
    build::{Draft, Site, authorize, select_auth_events, unsigned_object},
    verified::authorize_by_auth_events,
};
use crate::error::{Error, Result};

/// An event without hashes and signatures.
#[derive(Debug)]
pub struct Template {
    /// The event.
    pub event: Box<RawValue>,
}

/// Returns the event that another server may sign, if the rules allow it.
///
/// # Errors
///
/// [`Error::Forbidden`] with the rule that refuses it.
pub fn template(draft: Draft, site: Site<'_>) -> Result<Template> {
    let auth_events = select_auth_events(&draft, site)?;
    let mut object = unsigned_object(draft, site, &auth_events)?;
    check_pdu_format(&object, &site.rules.event_format).map_err(Error::BadJson)?;
    let (pdu, json) = Pdu::from_object(&object, site.rules)?;
    let create = site.state.get(&StateEventType::RoomCreate, "");
    let known: Vec<Arc<Pdu>> = auth_events.iter().chain(create).cloned().collect();
    authorize_by_auth_events(&pdu, site.rules, &known)?;
    authorize(&pdu, site.rules, site.state)?;
    let event = if object.remove("event_id").is_some() {
        serde_json::to_string(&object)?
    } else {
        json
    };
    Ok(Template {
        event: RawValue::from_string(event)?,
    })
}
