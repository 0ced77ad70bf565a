//! Enums that lie in the maps as one byte.

/// Defines a `#[repr(u8)]` enum. The layouts hold the byte and not the enum: a byte that is none of its
/// values, as a later release may write it, would be undefined behavior in an enum's place.
macro_rules! byte_enum {
    (
        $(#[$attribute:meta])*
        pub enum $name:ident {
            $($(#[$variant_attribute:meta])* $variant:ident = $byte:literal,)+
        }
    ) => {
        $(#[$attribute])*
        #[repr(u8)]
        #[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
        pub enum $name {
            $($(#[$variant_attribute])* $variant = $byte,)+
        }

        impl $name {
            pub const ALL: [Self; [$($byte),+].len()] = [$(Self::$variant),+];

            /// As it is in the maps.
            #[inline(always)]
            #[must_use]
            pub const fn byte(self) -> u8 {
                self as u8
            }

            /// `None` for a byte that this release does not know.
            #[inline(always)]
            #[must_use]
            pub const fn from_byte(byte: u8) -> Option<Self> {
                match byte {
                    $($byte => Some(Self::$variant),)+
                    _ => None,
                }
            }
        }
    };
}

pub(crate) use byte_enum;
