//! JSON of tokens, read strictly: a member that stands twice is refused, since two readers could see two values.

use std::fmt;

use serde::Deserialize;
use serde::Deserializer;
use serde::de::Error;
use serde::de::MapAccess;
use serde::de::SeqAccess;
use serde::de::Visitor;

use crate::model::issuer::ClaimPath;

/// A value of a token.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Value {
    Null,
    Bool(bool),
    /// Exact up to 2^53, which as seconds is long enough.
    Number(f64),
    Text(String),
    List(Vec<Value>),
    /// In the order of the text, each name once.
    Object(Vec<(String, Value)>),
}

/// Members of one object; more is refused, so that looking for a second one stays cheap.
const MEMBERS_MAX: usize = 256;

impl Value {
    /// Reads one value and nothing behind it. The depth is bounded by the reader.
    pub(super) fn read(text: &[u8]) -> Option<Value> {
        serde_json::from_slice(text).ok()
    }

    /// A member of an object.
    pub(super) fn get(&self, name: &str) -> Option<&Value> {
        let Value::Object(members) = self else {
            return None;
        };
        let mut members = members.iter();
        members.find(|(own, _)| own == name).map(|(_, value)| value)
    }

    /// What stands at this path.
    pub(super) fn at(&self, path: &ClaimPath) -> Option<&Value> {
        let mut steps = path.steps().iter();
        steps.try_fold(self, |value, step| value.get(step))
    }

    pub(super) fn is_object(&self) -> bool {
        matches!(self, Value::Object(_))
    }

    pub(super) fn text(&self) -> Option<&str> {
        match self {
            Value::Text(text) => Some(text),
            _ => None,
        }
    }

    pub(super) fn number(&self) -> Option<f64> {
        match self {
            Value::Number(number) => Some(*number),
            _ => None,
        }
    }

    /// One text, or a list of texts.
    pub(super) fn texts(&self) -> Option<Vec<&str>> {
        match self {
            Value::Text(text) => Some(vec![text]),
            Value::List(list) => list.iter().map(Value::text).collect(),
            _ => None,
        }
    }
}

impl<'de> Deserialize<'de> for Value {
    fn deserialize<D: Deserializer<'de>>(source: D) -> Result<Value, D::Error> {
        source.deserialize_any(Reader)
    }
}

struct Reader;

impl<'de> Visitor<'de> for Reader {
    type Value = Value;

    fn expecting(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str("JSON")
    }

    fn visit_unit<E: Error>(self) -> Result<Value, E> {
        Ok(Value::Null)
    }

    fn visit_bool<E: Error>(self, truth: bool) -> Result<Value, E> {
        Ok(Value::Bool(truth))
    }

    fn visit_u64<E: Error>(self, number: u64) -> Result<Value, E> {
        Ok(Value::Number(number as f64))
    }

    fn visit_i64<E: Error>(self, number: i64) -> Result<Value, E> {
        Ok(Value::Number(number as f64))
    }

    fn visit_f64<E: Error>(self, number: f64) -> Result<Value, E> {
        Ok(Value::Number(number))
    }

    fn visit_str<E: Error>(self, text: &str) -> Result<Value, E> {
        Ok(Value::Text(text.to_owned()))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut source: A) -> Result<Value, A::Error> {
        let mut list = Vec::new();
        while let Some(value) = source.next_element()? {
            list.push(value);
        }
        Ok(Value::List(list))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut source: A) -> Result<Value, A::Error> {
        let mut members: Vec<(String, Value)> = Vec::new();
        while let Some((name, value)) = source.next_entry::<String, Value>()? {
            if members.len() >= MEMBERS_MAX {
                return Err(A::Error::custom("too many members"));
            }
            if members.iter().any(|(there, _)| *there == name) {
                return Err(A::Error::custom("a member stands twice"));
            }
            members.push((name, value));
        }
        Ok(Value::Object(members))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_two_readers_could_read_in_two_ways_is_not_read() {
        let refused = [
            r#"{"a":1,"a":1}"#,
            r#"{"a":1,"\u0061":2}"#,
            r#"{"o":{"a":1,"a":2}}"#,
            r#"{"a":1} "#.trim_end_matches(' ').trim_end_matches('}'),
            r#"{"a":1}{"a":2}"#,
            r#"{"a":1e999}"#,
            r#"{"a":NaN}"#,
            r#"{"a":01}"#,
            "{'a':1}",
            "",
        ];
        for text in refused {
            assert_eq!(Value::read(text.as_bytes()), None, "{text}");
        }
        let many: Vec<String> = (0..257).map(|index| format!("\"m{index}\":0")).collect();
        assert_eq!(
            Value::read(format!("{{{}}}", many.join(",")).as_bytes()),
            None
        );
        assert!(Value::read(format!("{{{}}}", many[1..].join(",")).as_bytes()).is_some());
        let deep = "[".repeat(10_000);
        assert_eq!(Value::read(deep.as_bytes()), None);
        assert_eq!(Value::read(b"{\"a\":\"\xff\"}"), None);
    }

    #[test]
    fn a_path_leads_into_objects() {
        let value = Value::read(br#"{"org":{"id":"acme"},"org/id":"x","l":["a","b"]}"#).unwrap();
        let at = |path: &str| value.at(&ClaimPath::parse(path).unwrap()).cloned();
        assert_eq!(at("/org/id"), Some(Value::Text("acme".to_owned())));
        assert_eq!(at("org/id"), Some(Value::Text("x".to_owned())));
        assert_eq!(at("/org/none"), None);
        assert_eq!(at("/l/0"), None);
        assert_eq!(value.get("l").unwrap().texts(), Some(vec!["a", "b"]));
    }
}
