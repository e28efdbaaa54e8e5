//! Enums that are stored and sent as text. One list of names is used by the database, the API and the checks.

/// A name in the database or a request that this version does not know.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("unknown {what} `{name}`; there are {}", known.join(", "))]
pub struct UnknownName {
    /// The kind of name, such as `status`.
    pub what: &'static str,
    pub name: String,
    pub known: &'static [&'static str],
}

/// An enum that `named!` declares.
pub trait Named {}

/// Declares such an enum, with `as_str`, `ALL`, `Display`, `FromStr`, `TryFrom<String>`, serde's two traits and its schema.
macro_rules! named {
    ($(#[doc = $about:literal])* $name:ident ($what:literal) { $($(#[doc = $doc:literal])* $variant:ident = $text:literal),+ $(,)? }) => {
        $(#[doc = $about])*
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, ::serde::Serialize, ::serde::Deserialize)]
        pub enum $name { $($(#[doc = $doc])* #[serde(rename = $text)] $variant),+ }

        impl ::utoipa::PartialSchema for $name {
            fn schema() -> ::utoipa::openapi::RefOr<::utoipa::openapi::Schema> {
                let about = concat!($($about),*, $("\n- `", $text, "`:", $($doc),*),+);
                ::utoipa::openapi::ObjectBuilder::new()
                    .schema_type(::utoipa::openapi::Type::String)
                    .enum_values(Some(Self::ALL.iter().map(|value| value.as_str())))
                    .description(Some(about.trim_ascii()))
                    .into()
            }
        }

        impl ::utoipa::ToSchema for $name {}

        impl $crate::names::Named for $name {}

        impl $name {
            /// Every value, in the order of declaration.
            pub const ALL: &[Self] = &[$(Self::$variant),+];

            /// The name in the database and in JSON.
            #[must_use]
            pub const fn as_str(self) -> &'static str {
                match self { $(Self::$variant => $text),+ }
            }
        }

        impl ::std::fmt::Display for $name {
            fn fmt(&self, f: &mut ::std::fmt::Formatter<'_>) -> ::std::fmt::Result {
                f.write_str(self.as_str())
            }
        }

        impl ::std::str::FromStr for $name {
            type Err = $crate::names::UnknownName;
            fn from_str(name: &str) -> ::std::result::Result<Self, $crate::names::UnknownName> {
                match name {
                    $($text => Ok(Self::$variant),)+
                    _ => Err($crate::names::UnknownName { what: $what, name: name.to_owned(), known: &[$($text),+] }),
                }
            }
        }

        impl ::std::convert::TryFrom<String> for $name {
            type Error = $crate::names::UnknownName;
            fn try_from(name: String) -> ::std::result::Result<Self, $crate::names::UnknownName> {
                name.parse()
            }
        }
    };
}
pub(crate) use named;

/// Declares a struct, with the names of its fields in `FIELDS`: the columns that it is read from.
macro_rules! with_fields {
    ($(#[$about:meta])* pub struct $name:ident { $($(#[$doc:meta])* pub $field:ident: $type:ty),+ $(,)? }) => {
        $(#[$about])*
        pub struct $name { $($(#[$doc])* pub $field: $type),+ }

        impl $name {
            pub const FIELDS: &[&str] = &[$(stringify!($field)),+];
        }
    };
}
pub(crate) use with_fields;
