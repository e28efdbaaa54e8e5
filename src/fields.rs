//! Reads the fields of a JSON object, or the parameters of a query, one by one. All that is wrong is named at once, not
//! only the first.

use std::collections::BTreeMap;

use serde::Serialize;
use serde_json::Value;
use usher_base::unicode::has_visible;
use utoipa::ToSchema;
use uuid::Uuid;

/// Unknown fields that an error names, and characters of each: the answer must not be larger than the request.
const MAX_UNKNOWN: usize = 20;
const MAX_NAME_SHOWN: usize = 64;

/// What is wrong with one field.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, ToSchema)]
pub struct FieldError {
    /// Where it is in the request body: a JSON pointer (RFC 6901), empty for the body as a whole.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false)]
    pub pointer: Option<String>,
    /// The name of the query parameter.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false)]
    pub parameter: Option<String>,
    /// What is wrong with it.
    pub detail: String,
}

impl FieldError {
    /// About a field of the body.
    pub fn new(field: &str, detail: impl Into<String>) -> Self {
        Self {
            pointer: Some(format!("/{}", field.replace('~', "~0").replace('/', "~1"))),
            parameter: None,
            detail: detail.into(),
        }
    }

    /// About the body as a whole.
    pub fn of_body(detail: impl Into<String>) -> Self {
        Self {
            pointer: Some(String::new()),
            parameter: None,
            detail: detail.into(),
        }
    }

    fn of_parameter(name: &str, detail: String) -> Self {
        Self {
            pointer: None,
            parameter: Some(name.to_owned()),
            detail,
        }
    }

    /// The field's name, or the parameter's.
    #[must_use]
    pub fn name(&self) -> &str {
        let pointer = self.pointer.as_deref().map(|pointer| pointer.trim_start_matches('/'));
        pointer.or(self.parameter.as_deref()).unwrap_or_default()
    }
}

/// The fields that were not read yet, and what was wrong with the others.
pub struct Fields {
    values: BTreeMap<String, Value>,
    errors: Vec<FieldError>,
    is_query: bool,
}

impl Fields {
    /// # Errors
    ///
    /// If it is not an object.
    pub fn of(value: Value) -> Result<Self, Vec<FieldError>> {
        match value {
            Value::Object(values) => Ok(Self {
                values: values.into_iter().collect(),
                errors: Vec::new(),
                is_query: false,
            }),
            _ => Err(vec![FieldError::of_body("must be a JSON object")]),
        }
    }

    /// The parameters of a query string; of repeated ones, the last value.
    #[must_use]
    pub fn of_query(query: Option<&str>) -> Self {
        let pairs = url::form_urlencoded::parse(query.unwrap_or_default().as_bytes());
        Self {
            values: pairs
                .map(|(name, value)| (name.into_owned(), Value::from(value.into_owned())))
                .collect(),
            errors: Vec::new(),
            is_query: true,
        }
    }

    /// A field's value, if it is present and not null. `read` parses it, or says what is wrong with it.
    pub fn optional<T>(&mut self, name: &str, read: impl FnOnce(Value) -> Result<T, String>) -> Option<T> {
        let value = self.values.remove(name).filter(|value| !value.is_null())?;
        read(value).map_err(|detail| self.error(name, detail)).ok()
    }

    /// As [`Fields::optional`], but the field must be present.
    pub fn required<T>(&mut self, name: &str, read: impl FnOnce(Value) -> Result<T, String>) -> Option<T> {
        if !self.has(name) {
            self.values.remove(name);
            self.error(name, "is missing");
            return None;
        }
        self.optional(name, read)
    }

    pub fn error(&mut self, name: &str, detail: impl Into<String>) {
        self.errors.push(if self.is_query {
            FieldError::of_parameter(name, detail.into())
        } else {
            FieldError::new(name, detail)
        });
    }

    /// Whether a field is there and not null.
    #[must_use]
    pub fn has(&self, name: &str) -> bool {
        self.values.get(name).is_some_and(|value| !value.is_null())
    }

    /// The value. Fields that were not read are unknown.
    ///
    /// # Errors
    ///
    /// All that is wrong with the fields.
    pub fn finish<T>(mut self, value: Option<T>) -> Result<T, Vec<FieldError>> {
        let unknown: Vec<String> = self.values.keys().take(MAX_UNKNOWN).cloned().collect();
        for name in unknown {
            let name: String = name.chars().take(MAX_NAME_SHOWN).collect();
            self.error(&name, "is not a field of this request");
        }
        value.filter(|_| self.errors.is_empty()).ok_or(self.errors)
    }
}

/// Declares a request body: its schema for OpenAPI, and `read`, which takes each field on its own. What reads
/// a field stands beside it, and may use what is given to the whole.
macro_rules! body {
    ($(#[$about:meta])* $vis:vis struct $name:ident $(($($given:ident: $of:ty),+))? {
        $($(#[$doc:meta])* $field:ident: $type:ty = $presence:ident($read:expr),)+
    }) => {
        $(#[$about])*
        #[derive(Debug, Clone, ::utoipa::ToSchema)]
        #[serde(deny_unknown_fields)]
        $vis struct $name {
            $($(#[$doc])* pub(crate) $field: $type,)+
        }

        impl $name {
            /// The values of the fields; none if one is missing or wrong, which `fields` then knows.
            $vis fn read(fields: &mut $crate::fields::Fields $($(, $given: $of)+)?) -> Option<Self> {
                // Each is read before the first that is missing ends it.
                $(let $field = fields.$presence(stringify!($field), $read);)+
                Some(Self { $($field: $crate::fields::body!(@value $presence $field),)+ })
            }
        }
    };
    (@value required $field:ident) => { $field? };
    (@value optional $field:ident) => { $field };
}
pub(crate) use body;

/// # Errors
///
/// If it is not a string.
pub fn text(value: Value) -> Result<String, String> {
    match value {
        Value::String(text) => Ok(text),
        _ => Err("must be a string".to_owned()),
    }
}

/// # Errors
///
/// If it is not a UUID.
pub fn uuid(value: Value) -> Result<Uuid, String> {
    value
        .as_str()
        .and_then(|text| text.parse().ok())
        .ok_or_else(|| "must be a UUID".to_owned())
}

/// Reads how many items a page shall have at most: 1 to `most`.
pub fn page_limit(most: u32) -> impl FnOnce(Value) -> Result<u32, String> {
    move |value| {
        value
            .as_str()
            .and_then(|text| text.parse().ok())
            .filter(|limit| (1..=most).contains(limit))
            .ok_or_else(|| format!("must be a number from 1 to {most}"))
    }
}

/// Reads one line of 1 to `most` characters, trimmed, of which something can be seen.
pub fn line(most: usize) -> impl FnOnce(Value) -> Result<String, String> {
    move |value| {
        let line = text(value)?;
        let line = line.trim();
        if line.is_empty() {
            return Err("must not be empty".to_owned());
        }
        if line.chars().count() > most {
            return Err(format!("must have at most {most} characters"));
        }
        if line
            .chars()
            .any(|c| c.is_control() || matches!(c, '\u{2028}' | '\u{2029}'))
        {
            return Err("must not contain control characters".to_owned());
        }
        if !has_visible(line) {
            return Err("must have a character that can be seen".to_owned());
        }
        Ok(line.to_owned())
    }
}
