//! The macro that makes a table of families.

/// Defines a struct with a field for each family, and `ALL`, their definitions.
///
/// `field: Type<Labels> = "name", "help";` and for a histogram, behind the help, `, BUCKETS`.
macro_rules! families {
    ($(#[$meta:meta])* pub struct $struct:ident {
        $($family:ident: $type:ty = $name:literal, $help:expr $(, $buckets:expr)?;)+
    }) => {
        $(#[$meta])*
        pub struct $struct {
            $(pub $family: $type,)+
        }

        /// All families, in the order of the documentation.
        pub const ALL: &[Definition] =
            &[$(families!(@definition $type, $name, $help $(, $buckets)?)),+];

        impl Default for $struct {
            fn default() -> Self {
                Self {
                    $($family: <$type as FamilyType>::new(
                        families!(@definition $type, $name, $help $(, $buckets)?)
                    ),)+
                }
            }
        }

        impl $struct {
            /// Writes the families that keep their series, in the text format of Prometheus.
            ///
            /// # Errors
            /// When the encoder refuses a metric.
            pub fn write_kept(&self, text: &mut String) -> prometheus::Result<()> {
                $(self.$family.write_kept(text)?;)+
                Ok(())
            }
        }
    };
    (@definition $type:ty, $name:literal, $help:expr $(, $buckets:expr)?) => {
        Definition {
            name: $name,
            kind: <$type as FamilyType>::KIND,
            labels: <<$type as FamilyType>::Labels as Labels>::labels,
            help: $help,
            buckets: families!(@buckets $($buckets)?),
        }
    };
    (@buckets) => { &[] };
    (@buckets $buckets:expr) => { $buckets };
}

pub(crate) use families;
