//! Enumerations with names: the one way in which this workspace writes them.
//!
//! [`named!`](crate::named!) makes an enumeration of blocks. A block has the documentation of a value, its name, and
//! what else is known of it:
//!
//! ```
//! use fluid_sidecar_layout::{Named as _, named};
//!
//! /// What is known of a fruit.
//! pub struct Fruit {
//!     weight: u32,
//! }
//!
//! named! {
//!     /// Fruits.
//!     pub enum Kind: Fruit {
//!         /// Falls not far from the tree.
//!         Apple = "apple" => Fruit { weight: 150 },
//!         /// Grows in hands.
//!         Banana = "banana" => Fruit { weight: 120 },
//!     }
//! }
//!
//! assert_eq!(Kind::from_name("apple"), Some(Kind::Apple));
//! assert_eq!(Kind::Banana.about(), "Grows in hands");
//! assert_eq!(Kind::ALL.iter().map(|kind| kind.facts().weight).sum::<u32>(), 270);
//! ```

/// An enumeration whose values have names, as people write them.
pub trait Named: Copy + 'static {
    /// Every value, in the order of the definition.
    const ALL: &'static [Self];

    /// The name.
    fn name(self) -> &'static str;

    /// The documentation of the value, in one line, without the full stop at its end; empty where the name says all.
    fn about(self) -> &'static str;

    /// The value of a name, spelt exactly so.
    fn from_name(name: &str) -> Option<Self> {
        Self::ALL.iter().copied().find(|value| value.name() == name)
    }
}

/// The lines of a documentation comment, one after the other, without the blank before and the full stop behind them.
#[doc(hidden)]
pub const fn in_a_line(doc: &'static str) -> &'static str {
    let mut line = doc.as_bytes();
    if let [b' ', rest @ ..] = line {
        line = rest;
    }
    if let [rest @ .., b'.'] = line {
        line = rest;
    }
    // `str::split_at` in constants is newer than the oldest compiler of the policy.
    match core::str::from_utf8(line) {
        Ok(line) => line,
        Err(_) => doc,
    }
}

/// Defines an enumeration with names; see [`Named`].
#[macro_export]
macro_rules! named {
    (
        $(#[$meta:meta])*
        $visibility:vis enum $type:ident: $facts:ty {
            $($(#[doc = $about:literal])* $value:ident = $name:literal => $known:expr,)+
        }
    ) => {
        $crate::named! {
            $(#[$meta])*
            $visibility enum $type {
                $($(#[doc = $about])* $value = $name,)+
            }
        }

        impl $type {
            /// What is known of it.
            $visibility fn facts(self) -> &'static $facts {
                match self {
                    $($type::$value => {
                        static FACTS: $facts = $known;
                        &FACTS
                    })+
                }
            }
        }
    };
    (
        $(#[$meta:meta])*
        $visibility:vis enum $type:ident {
            $($(#[doc = $about:literal])* $value:ident = $name:literal,)+
        }
    ) => {
        $(#[$meta])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
        $visibility enum $type {
            $($(#[doc = $about])* $value,)+
        }

        impl $crate::Named for $type {
            const ALL: &'static [$type] = &[$($type::$value,)+];

            fn name(self) -> &'static str {
                match self {
                    $($type::$value => $name,)+
                }
            }

            fn about(self) -> &'static str {
                match self {
                    $($type::$value => const { $crate::named::in_a_line(concat!($($about),*)) },)+
                }
            }
        }

        impl ::core::fmt::Display for $type {
            fn fmt(&self, formatter: &mut ::core::fmt::Formatter<'_>) -> ::core::fmt::Result {
                formatter.write_str($crate::Named::name(*self))
            }
        }
    };
}
