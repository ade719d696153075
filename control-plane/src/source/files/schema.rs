//! The schema of core kinds, borrowed from the generated Kubernetes types: a document is read into its type and the
//! result thrown away, for what is learnt on the way: a value of the wrong type (an error) and a field nobody asked
//! for (a warning), each with line and path. So Weft knows every field of a Pod without a list of its own to keep.
//!
//! Not here: fields that are required or limited in value. The generated types do not know; `decode/` checks those that
//! Weft uses.

use std::fmt::Display;

use serde::de::value::StrDeserializer;
use serde::de::{Deserialize, DeserializeSeed, Deserializer, Expected, MapAccess, SeqAccess, Unexpected, Visitor};

use super::field::{Field, Flaws};
use super::tree::{Entry, Mark, Node, Value};
use crate::source::Severity;

/// Checks a document against the type `T`.
pub(super) fn check<T: for<'de> Deserialize<'de>>(document: &Field<'_>) {
    let path = Path::Root(document.path());
    let reader = Reader { node: document.node(), at: document.node().at, path: &path, flaws: document.flaws() };
    if let Err(Mismatch { message, place }) = T::deserialize(reader) {
        let (at, field) = place.unwrap_or_else(|| (document.node().at, document.path().to_owned()));
        document.flaws().push(Severity::Error, at, &field, message);
    }
}

/// The way to a node, on the stack.
enum Path<'p> {
    Root(&'p str),
    Key(&'p Path<'p>, &'p str),
    Index(&'p Path<'p>, usize),
}

impl Path<'_> {
    fn render(&self) -> String {
        match self {
            Self::Root(prefix) => (*prefix).to_owned(),
            Self::Key(parent, key) => {
                let parent = parent.render();
                if parent.is_empty() { (*key).to_owned() } else { format!("{parent}.{key}") }
            }
            Self::Index(parent, index) => format!("{}[{index}]", parent.render()),
        }
    }
}

/// A value of the wrong type, and where: the innermost reader it passes says.
#[derive(Debug)]
struct Mismatch {
    message: String,
    place: Option<(Mark, String)>,
}

impl Display for Mismatch {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.message)
    }
}

impl std::error::Error for Mismatch {}

impl serde::de::Error for Mismatch {
    fn custom<T: Display>(message: T) -> Self {
        Self { message: message.to_string(), place: None }
    }

    fn invalid_type(found: Unexpected<'_>, expected: &dyn Expected) -> Self {
        Self::custom(format_args!("must be {expected}, not {found}"))
    }

    fn invalid_value(found: Unexpected<'_>, expected: &dyn Expected) -> Self {
        Self::custom(format_args!("must be {expected}, not {found}"))
    }
}

#[derive(Clone, Copy)]
struct Reader<'de, 'p> {
    node: &'de Node,
    at: Mark,
    path: &'p Path<'p>,
    flaws: &'p Flaws,
}

impl Reader<'_, '_> {
    fn mismatch(&self, wanted: &str) -> Mismatch {
        let hint = match (&self.node.value, wanted) {
            (Value::Bool(_) | Value::Int(_) | Value::Float(_), "a string") => ": write it in quotes",
            (Value::Str(_), "an integer") => ": write it without quotes or units",
            _ => "",
        };
        let message = format!("must be {wanted}, not {}{hint}", self.node.describe());
        Mismatch { message, place: Some((self.at, self.path.render())) }
    }

    fn place<T>(&self, result: Result<T, Mismatch>) -> Result<T, Mismatch> {
        result.map_err(|mut mismatch| {
            mismatch.place.get_or_insert_with(|| (self.at, self.path.render()));
            mismatch
        })
    }
}

macro_rules! integers {
    ($($method:ident)*) => {$(
        fn $method<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Mismatch> {
            match self.node.value {
                Value::Int(value) => self.place(visitor.visit_i64(value)),
                _ => Err(self.mismatch("an integer")),
            }
        }
    )*};
}

macro_rules! strings {
    ($($method:ident)*) => {$(
        fn $method<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Mismatch> {
            match &self.node.value {
                Value::Str(value) => self.place(visitor.visit_str(value)),
                _ => Err(self.mismatch("a string")),
            }
        }
    )*};
}

impl<'de> Deserializer<'de> for Reader<'de, '_> {
    type Error = Mismatch;

    fn deserialize_any<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Mismatch> {
        match &self.node.value {
            Value::Null => self.place(visitor.visit_unit()),
            Value::Bool(value) => self.place(visitor.visit_bool(*value)),
            Value::Int(value) => self.place(visitor.visit_i64(*value)),
            Value::Float(value) => self.place(visitor.visit_f64(*value)),
            Value::Str(value) => self.place(visitor.visit_str(value)),
            Value::Seq(_) => self.deserialize_seq(visitor),
            Value::Map(_) => self.deserialize_map(visitor),
        }
    }

    integers! { deserialize_i8 deserialize_i16 deserialize_i32 deserialize_i64 deserialize_u8 deserialize_u16 deserialize_u32 deserialize_u64 }

    strings! { deserialize_char deserialize_str deserialize_string deserialize_bytes deserialize_byte_buf deserialize_identifier }

    fn deserialize_bool<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Mismatch> {
        match self.node.value {
            Value::Bool(value) => self.place(visitor.visit_bool(value)),
            _ => Err(self.mismatch("true or false")),
        }
    }

    fn deserialize_f32<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Mismatch> {
        self.deserialize_f64(visitor)
    }

    fn deserialize_f64<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Mismatch> {
        match self.node.value {
            Value::Int(value) => self.place(visitor.visit_i64(value)),
            Value::Float(value) => self.place(visitor.visit_f64(value)),
            _ => Err(self.mismatch("a number")),
        }
    }

    fn deserialize_option<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Mismatch> {
        match self.node.value {
            Value::Null => self.place(visitor.visit_none()),
            _ => visitor.visit_some(self),
        }
    }

    fn deserialize_unit<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Mismatch> {
        self.place(visitor.visit_unit())
    }

    fn deserialize_unit_struct<V: Visitor<'de>>(self, _: &'static str, visitor: V) -> Result<V::Value, Mismatch> {
        self.place(visitor.visit_unit())
    }

    fn deserialize_newtype_struct<V: Visitor<'de>>(self, _: &'static str, visitor: V) -> Result<V::Value, Mismatch> {
        self.place(visitor.visit_newtype_struct(self))
    }

    fn deserialize_seq<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Mismatch> {
        match &self.node.value {
            Value::Seq(items) => self.place(visitor.visit_seq(Items { reader: self, rest: items, index: 0 })),
            _ => Err(self.mismatch("a list")),
        }
    }

    fn deserialize_tuple<V: Visitor<'de>>(self, _: usize, visitor: V) -> Result<V::Value, Mismatch> {
        self.deserialize_seq(visitor)
    }

    fn deserialize_tuple_struct<V: Visitor<'de>>(
        self,
        _: &'static str,
        _: usize,
        visitor: V,
    ) -> Result<V::Value, Mismatch> {
        self.deserialize_seq(visitor)
    }

    fn deserialize_map<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Mismatch> {
        match &self.node.value {
            Value::Map(entries) => self.place(visitor.visit_map(Entries { reader: self, rest: entries, value: None })),
            _ => Err(self.mismatch("a mapping")),
        }
    }

    fn deserialize_struct<V: Visitor<'de>>(
        self,
        _: &'static str,
        _: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, Mismatch> {
        self.deserialize_map(visitor)
    }

    fn deserialize_enum<V: Visitor<'de>>(
        self,
        _: &'static str,
        _: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, Mismatch> {
        match &self.node.value {
            Value::Str(value) => self.place(visitor.visit_enum(StrDeserializer::new(value))),
            _ => Err(self.mismatch("a string")),
        }
    }

    /// A type asks to have a value ignored where it does not know the field.
    fn deserialize_ignored_any<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Mismatch> {
        self.flaws.push(Severity::Warning, self.at, &self.path.render(), "unknown field, has no effect".to_owned());
        self.place(visitor.visit_unit())
    }
}

struct Items<'de, 'p> {
    reader: Reader<'de, 'p>,
    rest: &'de [Node],
    index: usize,
}

impl<'de> SeqAccess<'de> for Items<'de, '_> {
    type Error = Mismatch;

    fn next_element_seed<T: DeserializeSeed<'de>>(&mut self, seed: T) -> Result<Option<T::Value>, Mismatch> {
        let Some((node, rest)) = self.rest.split_first() else { return Ok(None) };
        let path = Path::Index(self.reader.path, self.index);
        self.rest = rest;
        self.index += 1;
        let reader = Reader { node, at: node.at, path: &path, flaws: self.reader.flaws };
        reader.place(seed.deserialize(reader)).map(Some)
    }
}

struct Entries<'de, 'p> {
    reader: Reader<'de, 'p>,
    rest: &'de [Entry],
    value: Option<&'de Entry>,
}

impl<'de> MapAccess<'de> for Entries<'de, '_> {
    type Error = Mismatch;

    fn next_key_seed<K: DeserializeSeed<'de>>(&mut self, seed: K) -> Result<Option<K::Value>, Mismatch> {
        let Some((entry, rest)) = self.rest.split_first() else { return Ok(None) };
        self.rest = rest;
        self.value = Some(entry);
        seed.deserialize(StrDeserializer::new(&entry.key)).map(Some)
    }

    fn next_value_seed<T: DeserializeSeed<'de>>(&mut self, seed: T) -> Result<T::Value, Mismatch> {
        let Some(entry) = self.value.take() else {
            return Err(serde::de::Error::custom("a value was asked for before its key"));
        };
        let path = Path::Key(self.reader.path, &entry.key);
        let reader = Reader { node: &entry.value, at: entry.at, path: &path, flaws: self.reader.flaws };
        reader.place(seed.deserialize(reader))
    }
}

#[cfg(test)]
mod tests {
    use k8s_openapi::api::core::v1::{Pod, Service};

    use super::super::field::Flaws;
    use super::super::tree::parse;
    use super::*;

    fn flaws<T: for<'de> Deserialize<'de>>(text: &str) -> Vec<String> {
        let node = parse(text, 1).unwrap();
        let flaws = Flaws::default();
        check::<T>(&Field::root(&node, String::new(), &flaws));
        flaws.into_vec().iter().map(|f| format!("{} {}: {}: {}", f.severity, f.at.line, f.field, f.message)).collect()
    }

    #[test]
    fn an_ordinary_pod_is_known_field_by_field() {
        let text = "\
apiVersion: v1
kind: Pod
metadata:
  name: a
  creationTimestamp: null
  labels: {app: a}
  managedFields: [{manager: m, operation: Update, fieldsV1: {'f:spec': {}}}]
spec:
  containers:
  - name: app
    image: nginx
    resources: {limits: {cpu: 1, memory: 64Mi}}
    readinessProbe: {httpGet: {path: /, port: http}, periodSeconds: 5}
    env: [{name: A, value: b}]
  volumes: [{name: v, configMap: {name: c, defaultMode: 0644}}]
status: {podIP: 10.0.0.1, startTime: '2026-01-01T00:00:00Z'}
";
        assert_eq!(flaws::<Pod>(text), [""; 0]);
    }

    #[test]
    fn typos_warn_and_wrong_types_are_errors_with_line_and_path() {
        let rows: &[(&str, &str)] = &[
            (
                "kind: Service\nspec:\n  ports:\n  - prot: 80\n",
                "warning 4: spec.ports[0].prot: unknown field, has no effect",
            ),
            ("kind: Service\nspec:\n  selektor: {a: b}\n", "warning 3: spec.selektor: unknown field, has no effect"),
            (
                "kind: Service\nspec:\n  ports:\n  - port: '80'\n",
                "error 4: spec.ports[0].port: must be an integer, not a string: write it without quotes or units",
            ),
            (
                "kind: Service\nmetadata:\n  labels:\n    version: 1\n",
                "error 4: metadata.labels.version: must be a string, not an integer: write it in quotes",
            ),
            ("kind: Service\nspec: 3\n", "error 2: spec: must be a mapping, not an integer"),
            (
                "kind: Service\nspec:\n  ports:\n  - port: 99999999999\n",
                "error 4: spec.ports[0].port: must be i32, not integer `99999999999`",
            ),
        ];
        for (text, expected) in rows {
            assert_eq!(flaws::<Service>(text), [*expected], "{text}");
        }
    }
}
