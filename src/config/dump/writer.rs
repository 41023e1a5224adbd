//! TOML, line by line, and words that several tables have.

use std::fmt;
use std::path::Path;

use toml::Value;

use crate::model::credential::Kind;
use crate::model::credential::Kinds;
use crate::model::limit::Mode;
use crate::model::limit::Rate;

/// TOML being written, line by line.
#[derive(Default)]
pub(in crate::config) struct Writer(pub(super) String);

impl Writer {
    pub(in crate::config) fn table(&mut self, header: &str) {
        self.0.push_str(&format!("\n{header}\n"));
    }

    pub(in crate::config) fn bare(&mut self, key: &str, value: impl fmt::Display) {
        self.0.push_str(&format!("{key} = {value}\n"));
    }

    pub(in crate::config) fn text(&mut self, key: &str, value: &str) {
        self.bare(key, quoted(value));
    }

    pub(in crate::config) fn path(&mut self, key: &str, value: &Path) {
        self.text(key, &value.to_string_lossy());
    }

    pub(in crate::config) fn list(
        &mut self,
        key: &str,
        values: impl IntoIterator<Item = impl fmt::Display>,
    ) {
        let words: Vec<String> = values
            .into_iter()
            .map(|value| quoted(&value.to_string()))
            .collect();
        self.bare(key, format!("[{}]", words.join(", ")));
    }
}

/// A name as a TOML key: quoted when it holds a dot.
pub(in crate::config) fn key(name: &str) -> String {
    let is_bare = |byte: u8| byte.is_ascii_alphanumeric() || b"_-".contains(&byte);
    match !name.is_empty() && name.bytes().all(is_bare) {
        true => name.to_owned(),
        false => quoted(name),
    }
}

pub(super) fn quoted(text: &str) -> String {
    Value::String(text.to_owned()).to_string()
}

pub(super) fn mode(mode: Mode) -> &'static str {
    match mode {
        Mode::Enforce => "enforce",
        Mode::Observe => "observe",
    }
}

pub(super) fn rate(limit: Option<Rate>) -> String {
    limit.map_or("unlimited".into(), |limit| limit.to_string())
}

/// Kinds of credentials in their words.
pub(in crate::config) fn kinds(kinds: Kinds) -> impl Iterator<Item = &'static str> {
    kinds.iter().map(Kind::as_str)
}
