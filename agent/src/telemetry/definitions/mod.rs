//! The families of metrics: what each is named, which labels it has, and which values they take.
//!
//! `cargo xtask docs` generates `deploy/docs/metrics.md` from this folder. Used by `metrics.rs`, which counts, and by
//! files like `kernel.rs`, which read at each scrape; built with the macros of [`super::family`] and [`super::labels`].
//!
//! - `families.rs`: [`Families`], the table: type, labels, name and help of each. A new metric starts here.
//! - `label_sets.rs`: the labels that families have.
//! - `label_values.rs`: the values of labels with a fixed set of them. Where the model or the data plane has the
//!   enum, it stays the only one, and its names are in the documentation as they are there.
//!
//! Invariants, each with a test in `tests.rs`: names follow Prometheus' rules, and values are kebab-case or words of
//! Kubernetes. No label has a pod or an address, because series live as long as the agent; but a pod
//! that nothing owns is a client workload, in series that are limited and disappear.

mod families;
mod label_sets;
mod label_values;
#[cfg(test)]
mod tests;

pub use self::{
    families::{ALL, Families, LIFETIME_BOUNDS, ROUND_TRIP_BOUNDS},
    label_sets::{
        BuildLabels, BypassLabels, ClassLabels, ClosedLabels, DriftLabels, EndLabels, EventLabels,
        FailureLabels, FaultLabels, IstioLabels, KindLabels, LossLabels, MapLabels, ProgramLabels,
        ProgrammingLabels, RefusalLabels, ServicePortLabels, SourceLabels, SyncLabels,
    },
    label_values::{
        BypassReason, CloseReason, EventType, FailureReason, How, LossReason, RefusalReason, Since,
        SyncScope,
    },
};
