//! The annotation and label that a Service, a Namespace and a Pod can have.

/// `sockline.dev/redirect`: whether Sockline has a hand in connections.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Redirect {
    #[default]
    Enabled,
    Disabled,
}
