//! The filter of the log, which can change while the agent runs.

use std::{
    fmt,
    sync::{Arc, Mutex, PoisonError},
};

use tracing_subscriber::{EnvFilter, reload};

/// The longest filter: enough for a level for each module.
const MAX_LENGTH: usize = 4096;

/// Clones change the same log.
#[derive(Clone)]
pub struct LogLevel {
    filter: Arc<Mutex<String>>,
    reload: Arc<dyn Fn(EnvFilter) -> Result<(), reload::Error> + Send + Sync>,
}

impl LogLevel {
    /// `filter` is in effect; `reload` puts another one in its place.
    pub fn new(
        filter: &str,
        reload: impl Fn(EnvFilter) -> Result<(), reload::Error> + Send + Sync + 'static,
    ) -> Self {
        Self { filter: Arc::new(Mutex::new(filter.to_owned())), reload: Arc::new(reload) }
    }

    /// The filter that is in effect.
    #[must_use]
    pub fn filter(&self) -> String {
        self.filter.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Changes the filter.
    ///
    /// # Errors
    /// When it is not a filter; the one in effect stays.
    pub fn set(&self, filter: &str) -> Result<(), String> {
        let parsed = parse(filter)?;
        let mut current = self.filter.lock().unwrap_or_else(PoisonError::into_inner);
        // Before the change: the new filter may leave this line out.
        tracing::info!(filter, "the log level changes");
        (self.reload)(parsed).map_err(|error| error.to_string())?;
        filter.clone_into(&mut current);
        Ok(())
    }
}

impl fmt::Debug for LogLevel {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("LogLevel").field(&self.filter()).finish()
    }
}

/// Reads a filter: a level, or levels by module such as `info,sockline::source=debug`.
///
/// # Errors
/// When it is something else; the message says what.
pub fn parse(filter: &str) -> Result<EnvFilter, String> {
    if filter.len() > MAX_LENGTH {
        return Err(format!("the filter is longer than {MAX_LENGTH} bytes"));
    }
    // Without a check of its own, a word that is no level is taken for the name of a module. Fields in brackets
    // may contain commas.
    let is_level = |directive: &str| {
        let levels = ["off", "error", "warn", "info", "debug", "trace"];
        levels.iter().any(|level| directive.eq_ignore_ascii_case(level))
    };
    let is_filter = filter.contains('[')
        || filter.split(',').all(|directive| directive.contains('=') || is_level(directive));
    if !is_filter {
        return Err(format!(
            "{filter:?} is not a level (off, error, warn, info, debug, trace) or a filter such as \
             info,sockline::source=debug"
        ));
    }
    EnvFilter::try_new(filter).map_err(|error| format!("{filter:?}: {error}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn levels_and_filters_are_read() {
        for filter in ["info", "DEBUG", "off", "info,sockline::source=debug", "sockline=trace"] {
            parse(filter).unwrap();
        }
        let long = "info,".repeat(1000);
        for filter in ["verbose", "", "sockline::source", "sockline=loud", "info,debgu", &long] {
            parse(filter).unwrap_err();
        }
    }

    #[test]
    fn a_wrong_filter_leaves_the_one_in_effect() {
        let level = LogLevel::new("info", |_| Ok(()));
        level.set("nonsense").unwrap_err();
        assert_eq!(level.filter(), "info");
        level.set("debug").unwrap();
        assert_eq!(level.filter(), "debug");
    }
}
