//! The first process of the virtual machine, and its job.

use std::time::Duration;

use super::suite::{self, Group};

pub(super) const SCRIPT: &str = include_str!("init.sh");

/// A job that runs these groups of tests one after the other, with the flags among the arguments.
pub(super) fn job(groups: &[&Group], args: &[String], limit: Duration, patience: u32) -> String {
    let mut job = format!(
        "LIMIT={}\nexport SOCKLINE_BIN=/bin/sockline SOCKLINE_TEST_PATIENCE={patience}\n",
        limit.as_secs()
    );
    let flags: Vec<&String> = args.iter().filter(|arg| suite::is_flag(arg)).collect();
    for group in groups {
        job += &format!("run {} {} --exact", quoted(&group.name), quoted(group.binary()));
        for word in group.tests.iter().chain(flags.iter().copied()) {
            job += &format!(" {}", quoted(word));
        }
        job.push('\n');
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
    fn tests_and_flags_are_quoted_for_the_shell() {
        let tests = vec!["tcp::a".to_owned(), "tcp::b".to_owned()];
        let group = Group { name: "translation::tcp".to_owned(), tests };
        let args = ["--skip=it's $HOME".to_owned(), "filter".to_owned()];
        let job = job(&[&group], &args, Duration::from_secs(1), 10);
        let expected = r"run 'translation::tcp' 'translation' --exact 'tcp::a' 'tcp::b' '--skip=it'\''s $HOME'";
        assert_eq!(job.lines().last(), Some(expected));
    }
}
