//! The first process of the virtual machine, and its job.

use std::time::Duration;

pub(super) const SCRIPT: &str = include_str!("init.sh");

/// A job that runs these tests one after the other.
pub(super) fn job(tests: &[String], args: &[String], limit: Duration, patience: u32) -> String {
    let mut job = format!(
        "LIMIT={}\nexport SOCKLINE_BIN=/bin/sockline SOCKLINE_TEST_PATIENCE={patience}\n",
        limit.as_secs()
    );
    let args: String = args.iter().map(|arg| format!(" {}", quoted(arg))).collect();
    for test in tests {
        job += &format!("run {}{args}\n", quoted(test));
    }
    job
}

/// Quoted as one word of the shell.
fn quoted(word: &str) -> String {
    format!("'{}'", word.replace('\'', r"'\''"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn arguments_are_quoted_for_the_shell() {
        let job = job(&["tcp".into()], &["it's $HOME".into()], Duration::from_secs(1), 10);
        assert_eq!(job.lines().last(), Some(r"run 'tcp' 'it'\''s $HOME'"));
    }
}
