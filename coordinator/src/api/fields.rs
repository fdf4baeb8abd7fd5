//! Walks over submitted JSON and notes everything that is wrong with it, each with its place. It knows JSON,
//! names and texts; what a field of a task means stands in `request`.
//!
//! Leniently: `null` is absent, also inside maps; unknown keys are ignored; `cpuCores` is `cpu_cores`.

use std::collections::BTreeMap;
use std::fmt::{self, Display};

use serde_json::{Map, Value};

/// How many errors an answer names. The first few tell what is wrong with a list of thousands.
const NAMED_ERRORS_MAX: usize = 40;

/// The errors found so far.
#[derive(Debug, Default)]
pub(super) struct Errors {
    named: Vec<String>,
    count: usize,
}

impl Errors {
    /// Notes that the field at `place` is wrong.
    pub(super) fn add(&mut self, place: impl Display, reason: impl Display) {
        self.count += 1;
        if self.named.len() < NAMED_ERRORS_MAX {
            self.named.push(format!("{place}: {reason}"));
        }
    }

    /// All of them in one text; none when there are none.
    pub(super) fn into_text(self) -> Option<String> {
        let mut text = self.named.join("; ");
        if self.count > self.named.len() {
            text.push_str(&format!("; and {} more", self.count - self.named.len()));
        }
        (self.count > 0).then_some(text)
    }
}

/// A JSON object at a place in the request. Its fields are taken out one by one.
pub(super) struct Object<'e> {
    place: String,
    fields: Map<String, Value>,
    /// Whether any name has a capital letter. Where none has, nothing has to be looked for under another spelling.
    has_capitals: bool,
    errors: &'e mut Errors,
}

impl<'e> Object<'e> {
    /// The object `value`; an error is noted when it is something else.
    pub(super) fn new(place: String, value: Value, errors: &'e mut Errors) -> Option<Self> {
        match value {
            Value::Object(fields) => {
                let has_capitals = fields.keys().any(|key| key.bytes().any(|byte| byte.is_ascii_uppercase()));
                Some(Self { place, fields, has_capitals, errors })
            }
            other => {
                errors.add(&place, format_args!("must be an object, not {}", kind(&other)));
                None
            }
        }
    }

    /// Notes that field `name` is wrong.
    pub(super) fn refuse(&mut self, name: &str, reason: impl Display) {
        self.errors.add(Field { object: &self.place, name }, reason);
    }

    /// A text.
    pub(super) fn text(&mut self, name: &str, max_bytes: usize) -> Option<String> {
        let value = self.take(name)?;
        checked_text(value, Field { object: &self.place, name }, max_bytes, self.errors)
    }

    /// A text in a place where engines send `""` for nothing.
    pub(super) fn filled_text(&mut self, name: &str, max_bytes: usize) -> Option<String> {
        self.text(name, max_bytes).filter(|text| !text.is_empty())
    }

    /// The same where something must be there.
    pub(super) fn required_text(&mut self, name: &str, max_bytes: usize) -> Option<String> {
        if self.is_absent(name) {
            self.refuse(name, "is required");
            return None;
        }
        let text = self.text(name, max_bytes)?;
        if text.is_empty() {
            self.refuse(name, "must not be empty");
            return None;
        }
        Some(text)
    }

    /// A truth.
    pub(super) fn boolean(&mut self, name: &str) -> Option<bool> {
        match self.take(name)? {
            Value::Bool(truth) => Some(truth),
            other => {
                self.refuse(name, format_args!("must be true or false, not {}", kind(&other)));
                None
            }
        }
    }

    /// A finite number from 0 to `max`.
    pub(super) fn number(&mut self, name: &str, max: f64) -> Option<f64> {
        let value = self.take(name)?;
        let Some(number) = value.as_f64() else {
            self.refuse(name, format_args!("must be a number, not {}", kind(&value)));
            return None;
        };
        if !number.is_finite() || number < 0.0 {
            self.refuse(name, "must not be negative");
            return None;
        }
        if number > max {
            self.refuse(name, format_args!("must not be larger than {max}"));
            return None;
        }
        // Clients that ask for nothing may write -0.0; it goes out again as they would expect it.
        Some(number + 0.0)
    }

    /// An object; `walk` takes what it wants from it.
    pub(super) fn object<T>(&mut self, name: &str, walk: impl FnOnce(&mut Object<'_>) -> T) -> Option<T> {
        let value = self.take(name)?;
        let place = self.place_of(name);
        Object::new(place, value, self.errors).map(|mut object| walk(&mut object))
    }

    /// A list of objects; `walk` makes an element of each, or notes why not.
    pub(super) fn objects<T>(
        &mut self,
        name: &str,
        max_length: usize,
        mut walk: impl FnMut(&mut Object<'_>) -> Option<T>,
    ) -> Vec<T> {
        let values = self.list(name, max_length);
        let place = self.place_of(name);
        let mut elements = Vec::with_capacity(values.len());
        for (index, value) in values.into_iter().enumerate() {
            let object = Object::new(format!("{place}[{index}]"), value, self.errors);
            elements.extend(object.and_then(|mut object| walk(&mut object)));
        }
        elements
    }

    /// A list of texts.
    pub(super) fn texts(&mut self, name: &str, max_length: usize, max_bytes: usize) -> Vec<String> {
        let values = self.list(name, max_length);
        let place = Field { object: &self.place, name };
        let mut texts = Vec::with_capacity(values.len());
        for (index, value) in values.into_iter().enumerate() {
            texts.extend(checked_text(value, format_args!("{place}[{index}]"), max_bytes, self.errors));
        }
        texts
    }

    /// A map from text to text. Engines send `null` for values that they do not have: those are dropped.
    pub(super) fn map(&mut self, name: &str, max_bytes: usize) -> BTreeMap<String, String> {
        let Some(value) = self.take(name) else { return BTreeMap::new() };
        let place = Field { object: &self.place, name };
        let Value::Object(fields) = value else {
            self.errors.add(place, format_args!("must be an object, not {}", kind(&value)));
            return BTreeMap::new();
        };
        let mut map = BTreeMap::new();
        for (key, value) in fields {
            if value.is_null() {
                continue;
            }
            if key.contains('\0') {
                self.errors.add(format_args!("{place}[{key:?}]"), "must not contain a NUL byte");
            }
            let place = format_args!("{place}[{key:?}]");
            if let Some(text) = checked_text(value, place, max_bytes, self.errors) {
                map.insert(key, text);
            }
        }
        map
    }

    /// Notes where a list is not there or has nothing in it.
    pub(super) fn require_elements(&mut self, name: &str) {
        if self.is_absent(name) {
            self.refuse(name, "is required");
        } else if self.fields.get(name).and_then(Value::as_array).is_some_and(Vec::is_empty) {
            self.refuse(name, "must have at least one element");
        }
    }

    /// Whether a field is not there, or null.
    pub(super) fn is_absent(&self, name: &str) -> bool {
        let is_null = |name: &str| self.fields.get(name).is_none_or(Value::is_null);
        is_null(name) && (!self.has_capitals || is_null(&lower_camel(name)))
    }

    /// Where field `name` of this object stands.
    fn place_of(&self, name: &str) -> String {
        Field { object: &self.place, name }.to_string()
    }

    fn list(&mut self, name: &str, max_length: usize) -> Vec<Value> {
        match self.take(name) {
            None => Vec::new(),
            Some(Value::Array(values)) if values.len() <= max_length => values,
            Some(Value::Array(values)) => {
                self.refuse(
                    name,
                    format_args!("must not have more than {max_length} elements, it has {}", values.len()),
                );
                Vec::new()
            }
            Some(other) => {
                self.refuse(name, format_args!("must be a list, not {}", kind(&other)));
                Vec::new()
            }
        }
    }

    fn take(&mut self, name: &str) -> Option<Value> {
        let exact = self.fields.remove(name).filter(|value| !value.is_null());
        if exact.is_some() || !self.has_capitals {
            return exact;
        }
        self.fields.remove(&lower_camel(name)).filter(|value| !value.is_null())
    }
}

/// Where a field stands, to be written out only if something is wrong with it.
#[derive(Clone, Copy)]
struct Field<'p> {
    object: &'p str,
    name: &'p str,
}

impl Display for Field<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { object, name } = self;
        if object.is_empty() { f.write_str(name) } else { write!(f, "{object}.{name}") }
    }
}

fn checked_text(value: Value, place: impl Display, max_bytes: usize, errors: &mut Errors) -> Option<String> {
    match value {
        Value::String(text) if text.contains('\0') => errors.add(place, "must not contain a NUL byte"),
        Value::String(text) if text.len() > max_bytes => {
            errors.add(place, format_args!("must not be longer than {max_bytes} bytes"));
        }
        Value::String(text) => return Some(text),
        other => errors.add(place, format_args!("must be a string, not {}", kind(&other))),
    }
    None
}

fn kind(value: &Value) -> &'static str {
    match value {
        Value::Null => "null",
        Value::Bool(_) => "a boolean",
        Value::Number(_) => "a number",
        Value::String(_) => "a string",
        Value::Array(_) => "a list",
        Value::Object(_) => "an object",
    }
}

/// `cpu_cores` as `cpuCores`, which the documents of other systems show.
fn lower_camel(name: &str) -> String {
    let mut words = name.split('_');
    let mut camel = words.next().unwrap_or_default().to_owned();
    for word in words {
        let mut letters = word.chars();
        camel.extend(letters.next().map(|first| first.to_ascii_uppercase()));
        camel.push_str(letters.as_str());
    }
    camel
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn camel_names() {
        assert_eq!(lower_camel("cpu_cores"), "cpuCores");
        assert_eq!(lower_camel("backend_parameters_strict"), "backendParametersStrict");
        assert_eq!(lower_camel("image"), "image");
    }

    #[test]
    fn null_is_absent_and_does_not_hide_the_other_spelling() {
        let mut errors = Errors::default();
        let value = json!({ "ram_gb": null, "ramGb": 2, "a": null });
        let mut object = Object::new(String::new(), value, &mut errors).unwrap();
        assert!(object.is_absent("a"));
        assert_eq!(object.number("ram_gb", 9.0), Some(2.0));
        assert_eq!(errors.into_text(), None);
    }

    #[test]
    fn names_at_most_so_many_errors() {
        let mut errors = Errors::default();
        for index in 0..NAMED_ERRORS_MAX + 2 {
            errors.add(format!("x[{index}]"), "is wrong");
        }
        let text = errors.into_text().unwrap();
        assert!(
            text.starts_with("x[0]: is wrong; x[1]: is wrong;") && text.ends_with("; and 2 more"),
            "{text}"
        );
    }
}
