//! `sockline.dev/close-on-removal`: when TCP connections to a removed endpoint are closed.

use std::time::Duration;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;

use super::annotations;
use crate::{duration, source::decode::validate::Validator};

/// The annotation.
const KEY: &str = annotations::CLOSE_ON_REMOVAL.name;
/// Maximum. A longer wait is as good as none.
const LONGEST: Duration = Duration::from_secs(24 * 60 * 60);
/// Characters of a wrong value that the message repeats.
const REPEATED: usize = 40;

/// What a Service's annotation says about connections to removed endpoints.
pub(super) fn of_service(validator: &mut Validator, metadata: &ObjectMeta) -> Option<Duration> {
    let value = metadata.annotations.as_ref()?.get(KEY)?;
    let duration = duration::parse(value).ok().filter(|duration| *duration <= LONGEST);
    if duration.is_none() {
        let start: String = value.chars().take(REPEATED).collect();
        validator.error(
            format!("metadata.annotations[{KEY}]"),
            format!("{start:?} is not a duration of 0s to 24h like 30s or 1m30s; it is ignored"),
        );
    }
    duration
}
