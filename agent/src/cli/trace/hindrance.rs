//! Why the programs leave a call of this command unchanged, whatever the maps say of its address.

use std::{fmt, path::PathBuf, time::Duration};

use crate::{
    check,
    dataplane::{AgentRecord, Attachment, Deadline, FeatureSet, Snapshot},
    duration,
    model::object::{Family, Protocol},
};

/// The first that applies, in this order.
#[derive(Debug, PartialEq, Eq)]
pub enum Hindrance {
    /// This command is not in the cgroup that the programs are attached to.
    OtherCgroup(PathBuf),
    /// The agent has been away for too long, so all calls are bypassed, for this long already.
    FailOpen(Duration),
    /// The program of this hook is not attached to the agent's cgroup.
    Detached(&'static str),
    /// The call may be translated, but its record cannot be read.
    NoRecord,
}

/// Whether this command is in the cgroup that the programs are attached to, or below it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum CallerCgroup {
    Inside,
    Outside,
}

impl Hindrance {
    /// Of a connect that was just made.
    ///
    /// # Errors
    /// When the kernel's state cannot be read.
    pub fn find(
        snapshot: &Snapshot,
        record: &AgentRecord,
        family: Family,
        protocol: Protocol,
    ) -> anyhow::Result<Option<Self>> {
        let place = if check::is_below(&record.cgroup) {
            CallerCgroup::Inside
        } else {
            CallerCgroup::Outside
        };
        let attachments = snapshot.attachments()?;
        Ok(Self::first(record, place, snapshot.deadline()?, &attachments, (family, protocol)))
    }

    fn first(
        record: &AgentRecord,
        place: CallerCgroup,
        deadline: Deadline,
        attachments: &[(&'static str, Attachment)],
        (family, protocol): (Family, Protocol),
    ) -> Option<Self> {
        let wanted = match family {
            Family::IPv4 => "connect4",
            Family::IPv6 => "connect6",
        };
        let detached = attachments
            .iter()
            .find(|(hook, attachment)| *hook == wanted && *attachment != Attachment::Attached);
        if place == CallerCgroup::Outside {
            Some(Self::OtherCgroup(record.cgroup.clone()))
        } else if let Some(time) = deadline.bypassed_for() {
            Some(Self::FailOpen(time))
        } else if let Some((hook, _)) = detached {
            Some(Self::Detached(hook))
        } else if protocol == Protocol::Tcp && !record.features.contains(FeatureSet::KERNEL_SOCKETS)
        {
            Some(Self::NoRecord)
        } else {
            None
        }
    }

    /// Whether the programs cannot have translated or refused the call.
    pub const fn excludes_the_programs(&self) -> bool {
        !matches!(self, Self::NoRecord)
    }
}

impl fmt::Display for Hindrance {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::OtherCgroup(cgroup) => write!(
                f,
                "this command is not in the cgroup that the programs are attached to, {}, or below it",
                cgroup.display()
            ),
            Self::FailOpen(time) => {
                let time = duration::format(Duration::from_secs(time.as_secs()));
                write!(
                    f,
                    "the agent has been away for too long, and all calls have been bypassed for {time}"
                )
            }
            Self::Detached(hook) => {
                write!(f, "the program for {hook} is not attached: `sockline check` has the links")
            }
            Self::NoRecord => f.write_str(
                "without the feature kernel-sockets the records of TCP sockets cannot be read",
            ),
        }
    }
}
