//! A Namespace.

use std::sync::Arc;

use super::redirect::Redirect;

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Namespace {
    pub name: Arc<str>,
    /// For the connections of its pods without a label or annotation of their own.
    pub redirect: Redirect,
}
