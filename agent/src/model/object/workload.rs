//! What a Pod is a part of.

use std::{fmt, sync::Arc};

/// What controls a Pod, such as its Deployment; the Pod itself if nothing does. It is in the Pod's namespace.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Workload {
    /// The `kind` of the Kubernetes API.
    pub kind: Arc<str>,
    pub name: Arc<str>,
}

impl Workload {
    pub fn new(kind: impl Into<Arc<str>>, name: impl Into<Arc<str>>) -> Self {
        Self { kind: kind.into(), name: name.into() }
    }
}

impl fmt::Display for Workload {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.kind, self.name)
    }
}
