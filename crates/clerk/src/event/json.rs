//! A payload's fields, read one by one with the path of each, and without recursion.

use std::borrow::{Borrow, Cow};
use std::collections::HashMap;
use std::fmt;

use chrono::{DateTime, Utc};
use serde::de::Visitor;
use serde::{Deserialize, Deserializer};
use serde_json::value::RawValue;

use super::PayloadError;
use crate::bounds::{self, MAX_ADDRESSES};

/// Checks that it is JSON and where it ends. The reader below goes down by one level each time it is asked to, and skips
/// what it is not asked for without recursion, so how deeply something is nested costs no stack.
pub(super) fn parse_json(text: &[u8]) -> Result<&RawValue, PayloadError> {
    serde_json::from_slice(text).map_err(|error| PayloadError::NotJson {
        line: error.line(),
        column: error.column(),
    })
}

/// The fields of an object, unread: people write their own `unsafe_metadata`, and must not be able to make an event about
/// themselves unreadable. Of two of one name the last counts.
#[derive(Default, Deserialize)]
pub(super) struct Fields<'a>(#[serde(borrow)] HashMap<Text<'a>, &'a RawValue>);

impl<'a> Fields<'a> {
    /// The fields, or none if it is no object.
    pub(super) fn of(value: &'a RawValue) -> Option<Fields<'a>> {
        serde_json::from_str(value.get()).ok()
    }

    pub(super) fn get(&self, name: &str) -> Option<&'a RawValue> {
        self.0.get(name).copied()
    }
}

/// Any string of JSON, also those that are none of Unicode: half of a surrogate pair, as JavaScript makes when it cuts an
/// emoji in two. It is left out, and `\u{fffd}` stands in its place.
#[derive(PartialEq, Eq, Hash)]
pub(super) struct Text<'a>(Cow<'a, str>);

impl Borrow<str> for Text<'_> {
    fn borrow(&self) -> &str {
        &self.0
    }
}

impl<'de: 'a, 'a> Deserialize<'de> for Text<'a> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Visit;

        impl<'de> Visitor<'de> for Visit {
            type Value = Text<'de>;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a string")
            }

            fn visit_borrowed_bytes<E>(self, bytes: &'de [u8]) -> Result<Text<'de>, E> {
                Ok(Text(String::from_utf8_lossy(bytes)))
            }

            fn visit_bytes<E>(self, bytes: &[u8]) -> Result<Text<'de>, E> {
                Ok(Text(Cow::Owned(String::from_utf8_lossy(bytes).into_owned())))
            }
        }

        // serde_json gives bytes as they are; a `str` would have to be Unicode.
        deserializer.deserialize_bytes(Visit)
    }
}

/// A place in the payload with its path.
///
/// Walked rather than deserialised into structs, with serde_path_to_error or without: serde's messages quote the values
/// that they stumble over, name the parent of a missing field, take a list for a struct, and refuse a field that comes
/// twice or has half a character in its name.
pub(super) struct Node<'a> {
    pub(super) path: String,
    /// `None` where there is nothing or null, which Clerk doesn't tell apart.
    pub(super) value: Option<&'a RawValue>,
}

/// An object in the payload with its path.
pub(super) struct Object<'a> {
    pub(super) path: String,
    pub(super) fields: Fields<'a>,
}

impl<'a> Object<'a> {
    pub(super) fn get(&self, key: &str) -> Node<'a> {
        Node::new(format!("{}.{key}", self.path), self.fields.get(key))
    }
}

impl<'a> Node<'a> {
    pub(super) fn new(path: String, value: Option<&'a RawValue>) -> Node<'a> {
        Node {
            path,
            value: value.filter(|value| value.get() != "null"),
        }
    }

    pub(super) fn error(&self, problem: &'static str) -> PayloadError {
        PayloadError::Field {
            path: self.path.clone(),
            problem,
        }
    }

    pub(super) fn is_present(&self) -> bool {
        self.value.is_some()
    }

    pub(super) fn present(&self) -> Result<&'a RawValue, PayloadError> {
        self.value.ok_or_else(|| self.error("missing"))
    }

    pub(super) fn if_present<T>(
        &self,
        read: impl FnOnce(&Self) -> Result<T, PayloadError>,
    ) -> Result<Option<T>, PayloadError> {
        self.is_present().then(|| read(self)).transpose()
    }

    pub(super) fn object(&self) -> Result<Object<'a>, PayloadError> {
        let fields = Fields::of(self.present()?).ok_or_else(|| self.error("not an object"))?;
        Ok(Object {
            path: self.path.clone(),
            fields,
        })
    }

    /// As [`Node::object`], but what is no object has no fields.
    pub(super) fn lenient_object(&self) -> Object<'a> {
        Object {
            path: self.path.clone(),
            fields: self.value.and_then(Fields::of).unwrap_or_default(),
        }
    }

    pub(super) fn items(&self) -> Result<Vec<Node<'a>>, PayloadError> {
        let text = self.present()?.get();
        let items: Vec<&RawValue> = serde_json::from_str(text).map_err(|_| self.error("not a list"))?;
        if items.len() > MAX_ADDRESSES {
            return Err(self.error("a list of more than 1000"));
        }
        let nodes = items
            .into_iter()
            .enumerate()
            .map(|(index, item)| Node::new(format!("{}[{index}]", self.path), Some(item)));
        Ok(nodes.collect())
    }

    pub(super) fn string(&self, value: &'a RawValue) -> Result<Cow<'a, str>, PayloadError> {
        let Text(text) = serde_json::from_str(value.get()).map_err(|_| self.error("not a string"))?;
        Ok(text)
    }

    pub(super) fn text(&self) -> Result<String, PayloadError> {
        let text = self.string(self.present()?)?;
        if text.trim().is_empty() {
            Err(self.error("empty"))
        } else if text.contains(['\0', char::REPLACEMENT_CHARACTER]) {
            Err(self.error("a string with NUL or half a character"))
        } else {
            Ok(text.into_owned())
        }
    }

    /// The id of a user or a session.
    pub(super) fn id(&self) -> Result<String, PayloadError> {
        let id = self.string(self.present()?)?;
        bounds::check_id(&id).map_err(|problem| self.error(problem))?;
        Ok(id.into_owned())
    }

    pub(super) fn optional_text(&self) -> Result<Option<Cow<'a, str>>, PayloadError> {
        let text = self.value.map(|value| self.string(value)).transpose()?;
        Ok(text.filter(|text| !text.trim().is_empty()))
    }

    pub(super) fn flag(&self) -> Result<bool, PayloadError> {
        match self.value.map(RawValue::get) {
            None | Some("false") => Ok(false),
            Some("true") => Ok(true),
            Some(_) => Err(self.error("not a boolean")),
        }
    }

    /// Clerk's times are integer milliseconds since 1970.
    pub(super) fn time(&self) -> Result<DateTime<Utc>, PayloadError> {
        serde_json::from_str(self.present()?.get())
            .ok()
            .and_then(bounds::time)
            .ok_or_else(|| self.error("not a time in milliseconds"))
    }
}
