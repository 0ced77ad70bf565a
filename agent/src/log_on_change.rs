//! Logs a recurring error once, and its recovery.

use std::error::Error;

use crate::error_chain::chain;

/// The latest result of an operation that is repeated.
#[derive(Debug)]
pub struct LogOnChange {
    operation: &'static str,
    error: Option<String>,
}

impl LogOnChange {
    /// `operation` starts the log line: `cannot …`.
    #[must_use]
    pub const fn new(operation: &'static str) -> Self {
        Self { operation, error: None }
    }

    /// The latest error; `None` after a success.
    #[must_use]
    pub fn error(&self) -> Option<&str> {
        self.error.as_deref()
    }

    /// Records the latest result; logs it if it changed. Returns whether it changed.
    pub fn record(&mut self, result: Result<(), &dyn Error>) -> bool {
        let error = result.err().map(|error| format!("{}: {}", self.operation, chain(error)));
        if error == self.error {
            return false;
        }
        match &error {
            Some(error) => tracing::error!("{error}"),
            None => tracing::info!("resolved: {}", self.error.as_deref().unwrap_or_default()),
        }
        self.error = error;
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_result_is_a_change_when_an_error_begins_differs_and_ends() {
        let mut log = LogOnChange::new("cannot do it");
        let (full, gone) = (std::io::Error::other("full"), std::io::Error::other("gone"));
        let changes: Vec<bool> = [Ok(()), Err(&full), Err(&full), Err(&gone), Ok(()), Ok(())]
            .into_iter()
            .map(|result| log.record(result.map_err(|error| error as &dyn Error)))
            .collect();
        assert_eq!(changes, [false, true, false, true, true, false]);
        assert_eq!(log.error(), None);
    }
}
