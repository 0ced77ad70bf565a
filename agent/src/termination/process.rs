//! The helper process: whether it runs, and when it is restarted.

use std::time::{Duration, Instant};

use super::Termination;
use crate::helper::{Helper, HelperError, State};

/// If the helper's supervisor took longer than this to answer, the control loop sends it no further command
/// in the same turn: each answer may take 5 seconds, and the minimum `--fail-open-after` is 10 seconds.
const MAX_ANSWER_TIME: Duration = Duration::from_secs(1);

/// The helper process.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Process {
    Up,
    Down {
        restart_at: Instant,
    },
    /// Its supervisor has exited, so it cannot be restarted.
    Lost,
}

impl Termination {
    /// Checks whether the helper runs, and restarts it when its backoff is over.
    pub fn check_helper(&mut self) {
        let Some(helper) = &self.helper else { return };
        let began = Instant::now();
        match self.process {
            // Without the state first: the restart also finds out if the supervisor is lost.
            Process::Down { restart_at } if restart_at <= began => self.restart_helper(),
            Process::Down { .. } => {
                if let State::Lost(how) = helper.state() {
                    self.mark_lost(&how);
                }
            }
            Process::Lost => {}
            Process::Up => match helper.state() {
                State::Silent | State::Running(_) => {}
                State::Lost(how) => self.mark_lost(&how),
                State::Ended(how) => self.set_down(&how, began),
            },
        }
    }

    /// The helper has ended or does not answer: restarts it, with a backoff.
    pub(super) fn helper_ended(&mut self, how: &str) {
        let began = Instant::now();
        match self.helper.as_ref().map(Helper::state) {
            Some(State::Lost(how)) => self.mark_lost(&how),
            Some(State::Ended(how)) => self.set_down(&how, began),
            Some(State::Running(_) | State::Silent) | None => self.set_down(how, began),
        }
    }

    /// The helper has ended: restarts it if its backoff is over and the supervisor, to which a command was
    /// sent at `began`, answered within [`MAX_ANSWER_TIME`]. Otherwise [`Self::check_helper`] restarts it later.
    fn set_down(&mut self, how: &str, began: Instant) {
        self.stats.ended(how);
        let now = Instant::now();
        let restart_at = self.backoff.after_end(now);
        self.process = Process::Down { restart_at };
        if restart_at <= now && now.duration_since(began) <= MAX_ANSWER_TIME {
            self.restart_helper();
        }
    }

    fn restart_helper(&mut self) {
        let Some(helper) = &self.helper else { return };
        let restarted = helper.restart();
        if matches!(restarted, Err(HelperError::NoSupervisor)) {
            // The helper's client has logged that. The next check retries without waiting.
            return;
        }
        self.backoff.tried(Instant::now());
        match restarted {
            Ok(pid) => {
                self.process = Process::Up;
                self.stats.restarted(pid);
                self.schedule(Duration::ZERO);
            }
            Err(error) => {
                self.stats.not_restarted(&format!("{:#}", anyhow::Error::from(error)));
                self.process = Process::Down { restart_at: self.backoff.after_end(Instant::now()) };
            }
        }
    }

    fn mark_lost(&mut self, how: &str) {
        self.process = Process::Lost;
        self.stats.lost(how);
    }
}
