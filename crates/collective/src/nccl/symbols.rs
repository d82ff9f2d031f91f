//! Tables of the functions that a library loaded at run time must have.

/// A table: a field for each function, by its name in the library. `of` fills it, or says which
/// function is missing.
macro_rules! symbols {
    (
        $(#[$doc:meta])*
        $table:ident {
            $($field:ident = $symbol:literal ($($argument:ty),* $(,)?) -> $result:ty;)*
        }
    ) => {
        $(#[$doc])*
        pub(super) struct $table {
            $(pub(super) $field: unsafe extern "C" fn($($argument),*) -> $result,)*
        }

        impl $table {
            /// # Safety
            /// The library's functions of these names have these signatures, and it is never closed.
            unsafe fn of(library: &libloading::Library) -> Result<Self, &'static str> {
                Ok(Self {
                    $(
                        // SAFETY: promised above.
                        $field: *unsafe {
                            library.get::<unsafe extern "C" fn($($argument),*) -> $result>($symbol)
                        }
                        .map_err(|_| $symbol)?,
                    )*
                })
            }
        }
    };
}

pub(super) use symbols;
