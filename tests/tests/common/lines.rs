//! What a process or a socket writes, line by line, with a deadline.

#![allow(dead_code, clippy::allow_attributes, reason = "each test file uses its own part")]

use std::{
    io::{BufRead as _, BufReader, Read},
    process::{Child, ExitStatus},
    sync::mpsc::{Receiver, channel},
    thread,
};

use sockline_testbed::patience;

use super::{DEADLINE, eventually};

/// Lines that a thread reads.
pub struct Lines(Receiver<String>);

impl Lines {
    pub fn of(output: impl Read + Send + 'static) -> Self {
        let (sender, lines) = channel();
        thread::spawn(move || {
            for line in BufReader::new(output).lines().map_while(Result::ok) {
                if sender.send(line).is_err() {
                    return;
                }
            }
        });
        Self(lines)
    }

    /// The next line; fails if none comes in time, or no more.
    #[track_caller]
    pub fn next(&self) -> String {
        match self.0.recv_timeout(patience(DEADLINE)) {
            Ok(line) => line,
            Err(error) => panic!("no further line: {error}"),
        }
    }

    /// The next line with this text.
    #[track_caller]
    pub fn find(&self, text: &str) -> String {
        loop {
            let line = self.next();
            if line.contains(text) {
                return line;
            }
        }
    }
}

/// Waits until a process has ended.
#[track_caller]
pub fn end_of(child: &mut Child) -> ExitStatus {
    eventually("the process to end", || match child.try_wait() {
        Ok(Some(status)) => Ok(status),
        Ok(None) => Err("it runs".to_owned()),
        Err(error) => Err(error.to_string()),
    })
}
