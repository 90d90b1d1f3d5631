//! Enums and bits whose numbers lie in records, maps and counters. Each list is made from
//! the declaration itself, so that nothing can be in one and not in the other.

/// Declares an enum whose numbers follow each other, with its number of variants, the list
/// of all of them, and the way back from a number.
macro_rules! numbered {
    (
        $(#[$about:meta])*
        pub enum $Enum:ident: $number:ty {
            $($(#[$doc:meta])* $Variant:ident = $value:literal,)+
        }
    ) => {
        $(#[$about])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
        #[repr($number)]
        pub enum $Enum {
            $($(#[$doc])* $Variant = $value,)+
        }

        impl $Enum {
            /// How many there are.
            pub const COUNT: usize = Self::ALL.len();

            /// How many there are, where the kernel counts in 32 bits.
            pub const COUNT_32: u32 = {
                let [first, .., last] = Self::ALL;
                last as u32 - first as u32 + 1
            };

            /// All of them, in numeric order.
            pub const ALL: [Self; [$($value),+].len()] = [$(Self::$Variant),+];

            /// The one numbered `raw`; `None` for a number this version does not know.
            #[inline]
            pub const fn from_raw(raw: $number) -> Option<Self> {
                match raw {
                    $($value => Some(Self::$Variant),)+
                    _ => None,
                }
            }
        }

        const _: () = {
            let mut n = 1;
            while n < $Enum::COUNT {
                assert!(
                    $Enum::ALL[n] as usize == $Enum::ALL[0] as usize + n,
                    "the numbers do not follow each other",
                );
                n += 1;
            }
        };
    };
}
pub(crate) use numbered;

/// Declares constants that are one bit each, no two the same, of a number that holds them.
macro_rules! bits {
    (
        $number:ty {
            $($(#[$doc:meta])* $NAME:ident = $value:literal,)+
        }
    ) => {
        $(
            $(#[$doc])*
            pub const $NAME: $number = 1 << $value;
        )+

        const _: () = {
            let mut taken: $number = 0;
            $(
                assert!(taken & $NAME == 0, "two constants have this bit");
                taken |= $NAME;
            )+
            assert!(taken != 0);
        };
    };
}
pub(crate) use bits;
