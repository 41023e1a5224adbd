//! What the members of a body say, as any decoder would read them.

use std::fmt;

use serde::Deserialize;
use serde::Deserializer;
use serde::de::Error;
use serde::de::IgnoredAny;
use serde::de::MapAccess;
use serde::de::SeqAccess;
use serde::de::Visitor;

use crate::guard::same_member;
use crate::model::route::reference::References;
use crate::upstream::references::found::LOOKUPS_MAX;

/// What the members say, in the order of the body; `None` where it is not one JSON object. Stricter than most backends: no comments, no trailing
/// commas, no byte order mark, nothing that is not UTF-8, in whose place some decoders see a quotation mark less.
pub(super) fn said(body: &[u8], rules: &References) -> Option<Vec<(usize, Said)>> {
    let text = std::str::from_utf8(body).ok()?;
    let mut reader = serde_json::Deserializer::from_str(text);
    let said = reader.deserialize_map(Members(rules)).ok()?;
    reader.end().ok().map(|()| said)
}

/// Finds the members of an object that the rules name, in whatever spelling a decoder takes for theirs.
struct Members<'a>(&'a References);

impl<'de> Visitor<'de> for Members<'_> {
    type Value = Vec<(usize, Said)>;

    fn expecting(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str("an object")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
        let mut said = Vec::new();
        while let Some(name) = map.next_key::<String>()? {
            let mut members = self.0.members.iter();
            match members.position(|member| same_member(&member.member, &name)) {
                Some(member) => said.push((member, map.next_value()?)),
                None => drop(map.next_value::<IgnoredAny>()?),
            }
        }
        Ok(said)
    }
}

/// What a member says.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Said {
    /// `null`.
    Nothing,
    /// One id: a text, or a whole number of 64 bits as decimal digits.
    Id(String),
    /// A list of them.
    Ids(Vec<String>),
    /// A list of more than may be looked up.
    TooMany,
    /// Anything else.
    Else,
}

impl<'de> Deserialize<'de> for Said {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Said, D::Error> {
        from.deserialize_any(Value)
    }
}

struct Value;

impl<'de> Visitor<'de> for Value {
    type Value = Said;

    fn expecting(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str("anything")
    }

    fn visit_unit<E: Error>(self) -> Result<Said, E> {
        Ok(Said::Nothing)
    }

    fn visit_bool<E: Error>(self, _: bool) -> Result<Said, E> {
        Ok(Said::Else)
    }

    fn visit_u64<E: Error>(self, number: u64) -> Result<Said, E> {
        Ok(Said::Id(number.to_string()))
    }

    fn visit_i64<E: Error>(self, number: i64) -> Result<Said, E> {
        Ok(Said::Id(number.to_string()))
    }

    /// What is too large for 64 bits or has a fraction is written in more than one way, and read in more than one.
    fn visit_f64<E: Error>(self, _: f64) -> Result<Said, E> {
        Ok(Said::Else)
    }

    fn visit_str<E: Error>(self, text: &str) -> Result<Said, E> {
        Ok(Said::Id(text.to_owned()))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<Said, A::Error> {
        let mut ids = Vec::new();
        let mut plain = true;
        while ids.len() <= LIST_MAX {
            match list.next_element()? {
                None if plain => return Ok(Said::Ids(ids)),
                None => return Ok(Said::Else),
                Some(Said::Id(id)) => ids.push(id),
                Some(_) => plain = false,
            }
        }
        while list.next_element::<IgnoredAny>()?.is_some() {}
        Ok(Said::TooMany)
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Said, A::Error> {
        while map.next_entry::<IgnoredAny, IgnoredAny>()?.is_some() {}
        Ok(Said::Else)
    }
}

/// Longest list that is read: some of it may stand there twice.
pub(super) const LIST_MAX: usize = 4 * LOOKUPS_MAX;
