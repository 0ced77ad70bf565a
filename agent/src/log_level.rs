//! The filter of the log, which can change while the agent runs.

use std::sync::{Arc, Mutex, PoisonError};

use sockline_ebpf::debug_log::TARGET;
use tracing::{Level, Metadata};
use tracing_subscriber::{
    EnvFilter, Registry,
    filter::{FilterExt as _, FilterFn, combinator::Or},
    reload,
};

/// The longest filter: enough for a level for each module.
const MAX_LENGTH: usize = 4096;

/// What is logged: the events of the filter, what the kernel programs log while an operator asks for it, and every
/// error span. Code opens an error span for what all its log
/// lines must name, such as the kind of a watch, and keeps it for as long as it runs. A span that the filter skipped
/// when it was opened would be missing in all lines after a change of the filter.
type Filter = Or<EnvFilter, FilterFn, Registry>;

/// The layer that filters the log.
pub type FilterLayer = reload::Layer<Filter, Registry>;

/// Clones change the same log.
#[derive(Debug, Clone)]
pub struct LogLevel {
    filter: Arc<Mutex<String>>,
    handle: reload::Handle<Filter, Registry>,
}

impl LogLevel {
    /// Also returns the layer, with this filter in effect.
    ///
    /// # Errors
    /// When it is not a filter; the message says what.
    pub fn new(filter: &str) -> Result<(Self, FilterLayer), String> {
        let (layer, handle) = reload::Layer::new(with_what_is_always_logged(parse(filter)?));
        Ok((Self { filter: Arc::new(Mutex::new(filter.to_owned())), handle }, layer))
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
        self.handle
            .reload(with_what_is_always_logged(parsed))
            .map_err(|error| error.to_string())?;
        filter.clone_into(&mut current);
        Ok(())
    }
}

fn with_what_is_always_logged(filter: EnvFilter) -> Filter {
    let is_always_logged = |item: &Metadata<'_>| {
        (item.is_span() && *item.level() == Level::ERROR) || item.target() == TARGET
    };
    filter.or(FilterFn::new(is_always_logged as fn(&Metadata<'_>) -> bool))
}

/// Reads a filter: a level, or levels by module such as `info,sockline::source=debug`.
///
/// # Errors
/// When it is something else; the message says what.
fn parse(filter: &str) -> Result<EnvFilter, String> {
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
    use std::io;

    use tracing::subscriber::set_default;
    use tracing_subscriber::{Layer as _, layer::SubscriberExt as _};

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
        let (level, _layer) = LogLevel::new("info").unwrap();
        level.set("nonsense").unwrap_err();
        assert_eq!(level.filter(), "info");
        level.set("debug").unwrap();
        assert_eq!(level.filter(), "debug");
    }

    /// What is logged in a test.
    #[derive(Clone, Default)]
    struct Log(Arc<Mutex<Vec<u8>>>);

    impl io::Write for Log {
        fn write(&mut self, text: &[u8]) -> io::Result<usize> {
            self.0.lock().unwrap().write(text)
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    #[test]
    fn a_span_that_was_opened_while_nothing_was_logged_is_in_the_lines_after_a_change() {
        let (level, layer) = LogLevel::new("off").unwrap();
        let log = Log::default();
        let writer = log.clone();
        let lines = tracing_subscriber::fmt::layer().with_writer(move || writer.clone());
        let _guard = set_default(tracing_subscriber::registry().with(lines.with_filter(layer)));
        let _span = tracing::error_span!("watch", kind = "Service").entered();
        tracing::error!("before");
        level.set("info").unwrap();
        tracing::info!("after");
        tracing::debug!("not at this level");
        tracing::debug!(target: TARGET, "of programs");
        let text = String::from_utf8(log.0.lock().unwrap().clone()).unwrap();
        assert_eq!(text.lines().count(), 2, "{text}");
        assert!(text.contains("of programs"), "{text}");
        assert!(text.contains("after") && text.contains("Service"), "{text}");
    }
}
