//! The values of a table by type: texts, lists, flags, numbers, durations, sizes, rates, references.

use std::collections::BTreeSet;
use std::time::Duration;

use toml::Spanned;
use toml::de::DeValue;

use crate::config::file::Names;
use crate::config::file::Reader;
use crate::config::problem::Problem;
use crate::config::values;
use crate::config::values::Wrong;
use crate::config::values::digits_only;
use crate::model::limit::Rate;

impl Reader<'_> {
    /// A text that `parse` understands; `None` when it is absent or wrong.
    pub(super) fn word<T>(
        &mut self,
        key: &'static str,
        parse: impl FnOnce(&str) -> Result<T, Wrong>,
    ) -> Option<Spanned<T>> {
        let value = self.ask(key)?;
        let (text, quoted) = match value.get_ref() {
            DeValue::String(text) => (text.to_string(), true),
            // What stands without quotes goes to the parser too: it knows which unit is missing.
            DeValue::Integer(number) => (number.to_string(), false),
            DeValue::Float(number) => (number.to_string(), false),
            DeValue::Datetime(date) => (date.to_string(), false),
            _ => {
                self.refuse_kind(value, key, "a text", format!("write {key} = \"…\""));
                return None;
            }
        };
        let read = parse(&text);
        if read.is_ok() && !quoted {
            self.refuse_kind(value, key, "a text", format!("write {key} = \"{text}\""));
            return None;
        }
        match read {
            Ok(word) => Some(Spanned::new(value.span(), word)),
            Err(wrong) => {
                self.refuse(value.span(), key, wrong);
                None
            }
        }
    }

    /// The same, where an absent key is a mistake.
    pub(super) fn required<T>(
        &mut self,
        key: &'static str,
        help: &str,
        parse: impl FnOnce(&str) -> Result<T, Wrong>,
    ) -> Option<Spanned<T>> {
        if !self.has(key) {
            self.missing(key, help);
        }
        self.word(key, parse)
    }

    /// A name that another table declares.
    pub(super) fn reference(&mut self, key: &'static str, names: &Names<'_>) -> Option<String> {
        let name = self.word(key, |text| Ok(text.to_owned()))?;
        let text = name.get_ref();
        if names.all.contains(text.as_str()) {
            return Some(name.into_inner());
        }
        let known: Vec<&str> = names.all.iter().copied().collect();
        let near = match values::nearest(text, &known) {
            Some(near) => format!("did you mean \"{near}\"? "),
            None => String::new(),
        };
        let help = match known.is_empty() {
            true => format!("there are none; declare it with {}", names.declare),
            false => format!("{near}there are: {}", values::listed(&known)),
        };
        let what = format!("{}: no {} is called \"{text}\"", self.name(key), names.noun);
        self.notes()
            .error(Problem::context(Some(name.span()), what, help));
        None
    }

    /// An array of texts that `parse` understands, each at most once; `None` when it is absent or no array.
    pub(super) fn list<T>(
        &mut self,
        key: &'static str,
        parse: impl Fn(&str) -> Result<T, Wrong>,
    ) -> Option<Vec<Spanned<T>>> {
        let value = self.ask(key)?;
        let Some(array) = value.get_ref().as_array() else {
            let help = format!("write {key} = [\"…\"]");
            self.refuse_kind(value, key, "a list of texts", help);
            return None;
        };
        let mut seen = BTreeSet::new();
        let mut out = Vec::new();
        for entry in array.iter() {
            let Some(text) = entry.get_ref().as_str() else {
                self.refuse_kind(entry, key, "a text", format!("write {key} = [\"…\"]"));
                continue;
            };
            let read = match seen.insert(text) {
                true => parse(text),
                false => values::wrong(format!("\"{text}\" stands twice"), "take one out"),
            };
            match read {
                Ok(word) => out.push(Spanned::new(entry.span(), word)),
                Err(wrong) => self.refuse(entry.span(), key, wrong),
            }
        }
        Some(out)
    }

    /// A table whose keys are the operator's: each with a text or a list of texts, which `parse` understands together.
    pub(super) fn entries<T>(
        &mut self,
        key: &'static str,
        help: &str,
        parse: impl Fn(&str, &[&str]) -> Result<T, Wrong>,
    ) -> Vec<T> {
        let Some(value) = self.ask(key) else {
            return Vec::new();
        };
        let Some(table) = value.get_ref().as_table() else {
            self.refuse_kind(value, key, "a table", help.to_owned());
            return Vec::new();
        };
        let mut out = Vec::new();
        for (name, value) in table {
            let texts: Option<Vec<&str>> = match value.get_ref() {
                DeValue::String(text) => Some(vec![text.as_ref()]),
                DeValue::Array(list) => list.iter().map(|text| text.get_ref().as_str()).collect(),
                _ => None,
            };
            let Some(texts) = texts else {
                self.refuse_kind(value, key, "a text", help.to_owned());
                continue;
            };
            match parse(name.get_ref(), &texts) {
                Ok(entry) => out.push(entry),
                Err(wrong) => self.refuse(value.span(), key, wrong),
            }
        }
        out
    }

    /// `true` or `false`.
    pub(super) fn flag(&mut self, key: &'static str, default: bool) -> bool {
        let Some(value) = self.ask(key) else {
            return default;
        };
        match value.get_ref() {
            DeValue::Boolean(flag) => *flag,
            _ => {
                let help = format!("write {key} = true or {key} = false");
                self.refuse_kind(value, key, "true or false", help);
                default
            }
        }
    }

    /// One of a few words.
    pub(super) fn choice<T: Copy>(
        &mut self,
        key: &'static str,
        default: T,
        words: &[(&'static str, T)],
    ) -> T {
        let choose = |text: &str| match words.iter().find(|(word, _)| *word == text) {
            Some((_, meaning)) => Ok(*meaning),
            None => {
                let all: Vec<String> = words
                    .iter()
                    .map(|(word, _)| format!("\"{word}\""))
                    .collect();
                values::wrong(
                    format!("\"{text}\" is not one of the choices"),
                    format!("choose {}", all.join(" or ")),
                )
            }
        };
        self.word(key, choose).map_or(default, Spanned::into_inner)
    }

    /// A whole number within bounds, both included.
    pub(super) fn number(&mut self, key: &'static str, default: u32, min: u32, max: u32) -> u32 {
        let Some(value) = self.ask(key) else {
            return default;
        };
        let DeValue::Integer(integer) = value.get_ref() else {
            let quoted = value.get_ref().as_str().filter(|text| digits_only(text));
            let help = match quoted {
                Some(number) => format!("write {key} = {number}, without quotes"),
                None => format!("write a number from {min} to {max}"),
            };
            self.refuse_kind(value, key, "a whole number", help);
            return default;
        };
        let number = i128::from_str_radix(integer.as_str(), integer.radix()).ok();
        match number.and_then(|number| u32::try_from(number).ok()) {
            Some(number) if (min..=max).contains(&number) => number,
            _ => {
                let (what, help) = (
                    format!("{integer} is out of bounds"),
                    format!("write a number from {min} to {max}"),
                );
                self.refuse(value.span(), key, Wrong { what, help });
                default
            }
        }
    }

    /// A whole number within bounds, or `"unlimited"`, which is `None`, as it is when the key is absent.
    pub(super) fn number_or_unlimited(
        &mut self,
        key: &'static str,
        min: u32,
        max: u32,
    ) -> Option<u32> {
        if !self.is_text(key) {
            let present = self.has(key);
            let number = self.number(key, min, min, max);
            return present.then_some(number);
        }
        self.word(key, |text| match text {
            "unlimited" => Ok(()),
            text => values::wrong(
                format!("\"{text}\" is no number"),
                format!("write a number from {min} to {max}, without quotes, or \"unlimited\""),
            ),
        });
        None
    }

    /// A duration within bounds, both included; default and bounds as they would stand in the file.
    pub(super) fn duration(
        &mut self,
        key: &'static str,
        default: &str,
        bounds: (&str, &str),
    ) -> Duration {
        let read = self.word(key, |text| values::bounded(text, bounds, values::duration));
        read.map_or_else(
            || values::duration(default).unwrap_or_default(),
            Spanned::into_inner,
        )
    }

    /// The same, or `"unlimited"`, which is `None`; absent is `default`.
    pub(super) fn duration_or_unlimited(
        &mut self,
        key: &'static str,
        default: Option<Duration>,
        bounds: (&str, &str),
    ) -> Option<Duration> {
        let read = self.word(key, |text| match text {
            "unlimited" => Ok(None),
            text => values::bounded(text, bounds, values::duration).map(Some),
        });
        read.map_or(default, Spanned::into_inner)
    }

    /// A size in bytes within bounds, both included.
    pub(super) fn size(&mut self, key: &'static str, default: &str, bounds: (&str, &str)) -> usize {
        let read = self.word(key, |text| values::bounded(text, bounds, values::size));
        let bytes = read.map_or_else(
            || values::size(default).unwrap_or_default(),
            Spanned::into_inner,
        );
        usize::try_from(bytes).unwrap_or(usize::MAX)
    }

    /// A size in bytes up to `max`, or `"unlimited"`, which is `u64::MAX`; `None` when it is absent.
    pub(super) fn size_or_unlimited(&mut self, key: &'static str, max: &str) -> Option<u64> {
        let read = self.word(key, |text| match text {
            "unlimited" => Ok(u64::MAX),
            text => values::bounded(text, ("0B", max), values::size),
        });
        read.map(Spanned::into_inner)
    }

    /// A rate, or `"unlimited"`, which is `Some(None)`; `None` when it is absent or wrong.
    pub(super) fn rate_or_unlimited(&mut self, key: &'static str) -> Option<Option<Rate>> {
        let read = self.word(key, |text| match text {
            "unlimited" => Ok(None),
            text => values::rate(text).map(Some),
        });
        read.map(Spanned::into_inner)
    }
}
