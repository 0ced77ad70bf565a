//! Labels of metrics as types: a family's labels are the fields of a struct, so that a wrong label does not
//! compile, and `deploy/docs/metrics.md` describes what the code has.

use std::sync::Arc;

/// A label, as the documentation describes it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Label {
    pub name: &'static str,
    /// Markdown.
    pub meaning: &'static str,
    /// All values; empty if they are not known in advance.
    pub values: &'static [Value],
}

/// A value of a label that has a fixed set of values.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Value {
    pub name: &'static str,
    /// Markdown; empty if the name says it.
    pub meaning: &'static str,
}

/// The labels of a family: a struct that [`labels!`] makes, several of them in a tuple, or `()` for a family
/// with one series.
pub trait Labels: Clone + Ord + Send + 'static {
    fn labels() -> Vec<Label>;

    /// Calls `each` with the name and the value of each label of one series.
    fn for_each(&self, each: &mut dyn FnMut(&'static str, &str));
}

impl Labels for () {
    fn labels() -> Vec<Label> {
        Vec::new()
    }

    fn for_each(&self, _each: &mut dyn FnMut(&'static str, &str)) {}
}

impl<A: Labels, B: Labels> Labels for (A, B) {
    fn labels() -> Vec<Label> {
        [A::labels(), B::labels()].concat()
    }

    fn for_each(&self, each: &mut dyn FnMut(&'static str, &str)) {
        self.0.for_each(each);
        self.1.for_each(each);
    }
}

/// What a label's value is made of.
pub trait LabelValue {
    /// All values, where there is a fixed set of them.
    const VALUES: &'static [Value] = &[];

    fn as_label(&self) -> &str;
}

impl LabelValue for Arc<str> {
    fn as_label(&self) -> &str {
        self
    }
}

impl LabelValue for &'static str {
    fn as_label(&self) -> &str {
        self
    }
}

/// Defines a struct of labels. The comment of a field is its line in the documentation.
macro_rules! labels {
    ($($(#[$meta:meta])* pub struct $name:ident {
        $(#[doc = $meaning:literal] $label:ident: $type:ty,)+
    })+) => {$(
        $(#[$meta])*
        #[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
        pub struct $name {
            $(#[doc = $meaning] pub $label: $type,)+
        }

        impl $crate::telemetry::labels::Labels for $name {
            fn labels() -> Vec<$crate::telemetry::labels::Label> {
                vec![$($crate::telemetry::labels::Label {
                    name: stringify!($label),
                    meaning: $meaning.trim_ascii(),
                    values: <$type as $crate::telemetry::labels::LabelValue>::VALUES,
                }),+]
            }

            fn for_each(&self, each: &mut dyn FnMut(&'static str, &str)) {
                $(each(
                    stringify!($label),
                    $crate::telemetry::labels::LabelValue::as_label(&self.$label),
                );)+
            }
        }
    )+};
}

/// Defines an enum of a label's values. The comment of a variant is its line in the documentation.
macro_rules! label_values {
    ($($(#[$meta:meta])* pub enum $name:ident {
        $(#[doc = $meaning:literal] $variant:ident = $value:literal,)+
    })+) => {$(
        $(#[$meta])*
        #[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
        pub enum $name {
            $(#[doc = $meaning] $variant,)+
        }

        impl $name {
            pub const ALL: &'static [Self] = &[$(Self::$variant),+];
        }

        impl $crate::telemetry::labels::LabelValue for $name {
            const VALUES: &'static [$crate::telemetry::labels::Value] =
                &[$($crate::telemetry::labels::Value {
                    name: $value,
                    meaning: $meaning.trim_ascii(),
                }),+];

            fn as_label(&self) -> &str {
                match self {
                    $(Self::$variant => $value,)+
                }
            }
        }
    )+};
}

pub(crate) use {label_values, labels};
