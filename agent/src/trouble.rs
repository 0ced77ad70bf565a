//! What goes wrong again and again is told once.

use std::error::Error;

/// Something that cannot be done at times.
#[derive(Debug)]
pub struct Trouble {
    what: &'static str,
    now: Option<String>,
}

impl Trouble {
    /// `what` begins the line that tells of it: `cannot …`.
    #[must_use]
    pub const fn new(what: &'static str) -> Self {
        Self { what, now: None }
    }

    /// What went wrong the last time.
    #[must_use]
    pub fn now(&self) -> Option<&str> {
        self.now.as_deref()
    }

    /// Takes in how it went, and logs it if that is another than before.
    pub fn is_news(&mut self, result: Result<(), &dyn Error>) -> bool {
        let now = result.err().map(|error| format!("{}: {}", self.what, chain(error)));
        if now == self.now {
            return false;
        }
        match &now {
            Some(trouble) => tracing::error!("{trouble}"),
            None => tracing::info!("solved: {}", self.now.as_deref().unwrap_or_default()),
        }
        self.now = now;
        true
    }
}

/// An error with its causes, in one line.
#[must_use]
pub fn chain(error: &dyn Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        let cause_text = cause.to_string();
        if !text.contains(&cause_text) {
            text.push_str(": ");
            text.push_str(&cause_text);
        }
        source = cause.source();
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_trouble_is_news_when_it_begins_changes_and_ends() {
        let mut trouble = Trouble::new("cannot do it");
        let (full, gone) = (std::io::Error::other("full"), std::io::Error::other("gone"));
        let news: Vec<bool> = [Ok(()), Err(&full), Err(&full), Err(&gone), Ok(()), Ok(())]
            .into_iter()
            .map(|result| trouble.is_news(result.map_err(|error| error as &dyn Error)))
            .collect();
        assert_eq!(news, [false, true, false, true, true, false]);
    }
}
