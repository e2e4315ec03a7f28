//! An edited failure: the FAILURE entry keeps the original bytes, and what a person put in their place stands, as `edited`, in the JSON that
//! is stored with the record beside its facts. So the original cannot be lost, and the format of the log knows nothing of it.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use postrider_core::carriage::Raw;
use postrider_core::code::Code;
use postrider_core::failure::{FailureId, Original, Reason};
use postrider_core::fault::{Advice, Fault, FaultKind};
use postrider_core::name::SubscriptionId;
use postrider_log::{self as log, FailureIn, FailureOp, Log, SubId, Tx};
use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::{EmbeddedFailures, Noted, unknown_record};
use crate::convert;
use crate::error::fault;

/// The field beside the facts.
const EDITED: &str = "edited";
/// Headers and body of an edited message, in bytes: in base64 they fit beside the facts.
const EDIT_BYTES_MAX: usize = 640 << 10;

/// What stands in place of headers and body.
#[derive(Serialize, Deserialize)]
pub(super) struct Edited {
    /// Names and values in base64: both are any bytes.
    headers: Vec<(String, String)>,
    body: String,
    reason: Reason,
}

impl Edited {
    fn new(headers: &[(Bytes, Bytes)], body: &Bytes, reason: Reason) -> Self {
        let headers = headers
            .iter()
            .map(|(name, value)| (STANDARD.encode(name), STANDARD.encode(value)));
        Self {
            headers: headers.collect(),
            body: STANDARD.encode(body),
            reason,
        }
    }

    /// The message as it was edited. What cannot be read back is as it came.
    pub(super) fn apply(&self, original: &Raw) -> Raw {
        let bytes = |text: &str| STANDARD.decode(text).map(Bytes::from);
        let headers = self
            .headers
            .iter()
            .map(|(name, value)| Ok((bytes(name)?, bytes(value)?)));
        let headers: Result<Vec<_>, base64::DecodeError> = headers.collect();
        match (headers, bytes(&self.body)) {
            (Ok(headers), Ok(body)) => Raw {
                key: original.key.clone(),
                headers,
                body,
            },
            _ => original.clone(),
        }
    }
}

/// What was edited, if anything was.
pub(super) fn read(meta: &[u8]) -> Option<Edited> {
    #[derive(Deserialize)]
    struct Beside {
        edited: Option<Edited>,
    }
    serde_json::from_slice::<Beside>(meta).ok()?.edited
}

/// The facts of a record with what was edited, as they are stored.
fn with_edited(facts: &[u8], edited: &Edited) -> Option<Bytes> {
    let mut fields: Value = serde_json::from_slice(facts).ok()?;
    let edited = serde_json::to_value(edited).ok()?;
    fields.as_object_mut()?.insert(EDITED.to_owned(), edited);
    serde_json::to_vec(&fields).ok().map(Bytes::from)
}

/// The new facts of a record that failed again, with what was edited before.
pub(super) fn carried(
    log: &Log,
    sub: SubId,
    id: log::FailureId,
    failure: FailureIn,
) -> Result<FailureIn, log::Error> {
    let Some(edited) = read(&log.failure(sub, id)?.meta) else {
        return Ok(failure);
    };
    let meta = with_edited(&failure.meta, &edited);
    Ok(FailureIn {
        meta: meta.unwrap_or_else(|| failure.meta.clone()),
        ..failure
    })
}

impl EmbeddedFailures {
    pub(super) async fn replace(
        &self,
        subscription: &SubscriptionId,
        id: FailureId,
        headers: Vec<(Bytes, Bytes)>,
        body: Bytes,
        reason: Reason,
    ) -> Result<(), Fault> {
        let bytes: usize = headers
            .iter()
            .map(|(n, v)| n.len() + v.len())
            .sum::<usize>()
            + body.len();
        if bytes > EDIT_BYTES_MAX {
            let text = format!(
                "the edited message has {bytes} bytes, at most {EDIT_BYTES_MAX} can be kept beside the original: publish it anew and discard the failure"
            );
            return Err(Fault::new(FaultKind::TooLarge, Advice::FixMessage, text)
                .code(Code::PUBLISH_TOO_LARGE));
        }
        let edited = Edited::new(&headers, &body, reason.clone());
        let done = self.shared.stage(|log, now| -> Result<log::Lsn, Fault> {
            let said = |error: log::Error| fault(&error);
            let sub = crate::names::find_home(log, subscription)
                .ok_or_else(|| super::unknown(subscription))?;
            let number = log::FailureId(id.0);
            let info = log.failure_info(sub, number).map_err(said)?;
            let info = info.ok_or_else(|| unknown_record(subscription, id))?;
            if info.state != log::FailureState::Open {
                return Err(on_its_way(subscription, id));
            }
            let before = log.failure(sub, number).map_err(said)?;
            let facts = super::facts_of(&info, &before.meta);
            let meta = with_edited(&crate::settle::facts_to_meta(&facts)?, &edited);
            let failure = FailureIn {
                group: info.group,
                meta: meta.unwrap_or(before.meta),
                ..FailureIn::default()
            };
            let op = FailureOp::Reopen {
                sub,
                id: number,
                failure,
            };
            let tx = Tx {
                failures: vec![op],
                ..Tx::default()
            };
            log.commit(tx, now).map_err(said)?;
            let note = Noted::text(&reason, Some("edit"), Some(1));
            let offset = info.source.unwrap_or(0);
            log.note(sub, offset, &note, now).map_err(said)
        });
        let lsn = done.map_err(|ended| ended.fault())??;
        let safe = self.shared.safe(lsn, log::Level::Fsync).await;
        safe.map_err(|ended| ended.fault().unknown_effect())
    }

    pub(super) fn before_edit(
        &self,
        subscription: &SubscriptionId,
        id: FailureId,
    ) -> Result<Option<Original>, Fault> {
        let failure = self.with(subscription, |log, sub, _| {
            let number = log::FailureId(id.0);
            match log.failure_info(sub, number)? {
                Some(_) => log.failure(sub, number).map(Some),
                None => Ok(None),
            }
        })?;
        let failure = failure.ok_or_else(|| unknown_record(subscription, id))?;
        Ok(read(&failure.meta).map(|edited| Original {
            raw: convert::raw_of(&failure.record),
            reason: edited.reason,
        }))
    }
}

fn on_its_way(subscription: &SubscriptionId, id: FailureId) -> Fault {
    let text = format!(
        "failure {} of {subscription} is on its way back to the handler: edit it when it has failed again",
        id.0
    );
    Fault::new(FaultKind::Conflict, Advice::FixMessage, text).code(Code::CLI_CONFLICT)
}
