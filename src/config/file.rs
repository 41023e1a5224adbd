//! gateway.toml as typed: a reader for each table that reports every unknown key and every wrong value with its place.
//!
//! There are no serde structs: serde stops at the first mistake. A table's function asks its `Reader` for each key that it
//! knows, with default and bounds beside the name; what was not asked for is unknown.

use std::collections::BTreeSet;
use std::ops::Range;

use toml::Spanned;
use toml::de::DeTable;
use toml::de::DeValue;

use crate::config::problem::Notes;
use crate::config::problem::Problem;
use crate::config::values;
use crate::config::values::Wrong;

/// Names that other tables may refer to.
pub(super) struct Names<'a> {
    /// What one of them is: `plan`.
    pub(super) noun: &'static str,
    /// How to declare one: `[plans.NAME]`.
    pub(super) declare: &'static str,
    /// All that the file declares.
    pub(super) all: BTreeSet<&'a str>,
}

/// Reads one table. Values that are wrong are noted and then read as if they were absent, so that reading goes on.
pub(super) struct Reader<'a> {
    notes: &'a Notes,
    /// `None` reads like an empty table.
    table: Option<&'a DeTable<'a>>,
    /// How messages call the table: `[server]`, `[plans.free]`, `[[routes]]`; empty for the top of the file.
    title: String,
    /// The table without the names that operators choose: `plans`, `tls.sni`.
    kind: &'static str,
    header: Option<Range<usize>>,
    asked: Vec<&'static str>,
}

impl<'a> Reader<'a> {
    /// Reads the whole file with `read` and notes the top-level keys that it did not ask for.
    pub(super) fn root<T>(
        table: &'a DeTable<'a>,
        notes: &'a Notes,
        read: impl FnOnce(&mut Reader<'a>) -> T,
    ) -> T {
        let root = Reader {
            notes,
            table: Some(table),
            title: String::new(),
            kind: "",
            header: None,
            asked: Vec::new(),
        };
        root.run(read)
    }

    fn run<T>(mut self, read: impl FnOnce(&mut Reader<'a>) -> T) -> T {
        let out = read(&mut self);
        for (key, value) in self.table.into_iter().flatten() {
            if !self.asked.contains(&key.get_ref().as_ref()) {
                self.unknown(key.span(), key.get_ref(), value.span());
            }
        }
        out
    }

    fn unknown(&self, at: Range<usize>, key: &str, value: Range<usize>) {
        let help = match values::nearest(key, &self.asked) {
            Some(near) => format!("did you mean `{near}`?"),
            None => format!("known here: {}", values::listed(&self.asked)),
        };
        let place = match self.title.as_str() {
            "" => "at the top of the file".to_owned(),
            title => format!("in {title}"),
        };
        if self.kind == "keys" {
            // Somebody may have written the key itself under a name of his own.
            self.notes.hide(value);
        }
        let what = format!("unknown key `{key}` {place}");
        self.notes.error(Problem::here(at, what, help));
    }

    /// The value of `key` as it stands; from now on the key is known.
    pub(super) fn ask(&mut self, key: &'static str) -> Option<&'a Spanned<DeValue<'a>>> {
        let value = self.raw(key);
        self.asked.push(key);
        self.notes.known(self.kind, key, value.is_some());
        value
    }

    fn raw(&self, key: &str) -> Option<&'a Spanned<DeValue<'a>>> {
        self.table.and_then(|table| table.get(key))
    }

    /// How messages call this table.
    pub(super) fn title(&self) -> &str {
        &self.title
    }

    /// How messages call `key` of this table.
    pub(super) fn name(&self, key: &str) -> String {
        match self.title.as_str() {
            "" => key.to_owned(),
            title => format!("{title} {key}"),
        }
    }

    /// Where mistakes are noted.
    pub(super) fn notes(&self) -> &'a Notes {
        self.notes
    }

    /// Whether the table sets `key`.
    pub(super) fn has(&self, key: &str) -> bool {
        self.raw(key).is_some()
    }

    /// Whether the value of `key` is a text.
    pub(super) fn is_text(&self, key: &str) -> bool {
        self.raw(key).is_some_and(|value| value.get_ref().is_str())
    }

    /// Whether `key` is absent or an empty list.
    pub(super) fn list_is_empty(&self, key: &str) -> bool {
        match self.raw(key).map(Spanned::get_ref) {
            None => true,
            Some(DeValue::Array(array)) => array.is_empty(),
            Some(_) => false,
        }
    }

    /// Where the table begins; `None` when the file does not have it.
    pub(super) fn header(&self) -> Option<Range<usize>> {
        self.header.clone()
    }

    /// Where the value of `key` stands, or else where the table begins.
    pub(super) fn place(&self, key: &str) -> Option<Range<usize>> {
        self.raw(key).map(Spanned::span).or_else(|| self.header())
    }

    /// Notes that the text at `at`, the value of `key` or a part of it, is wrong.
    pub(super) fn refuse(&self, at: Range<usize>, key: &str, wrong: Wrong) {
        let what = format!("{}: {}", self.name(key), wrong.what);
        self.notes.error(Problem::here(at, what, wrong.help));
    }

    /// Notes that `key`, which has no default, is absent.
    pub(super) fn missing(&self, key: &str, help: &str) {
        let what = format!("{} is missing", self.name(key));
        self.notes
            .error(Problem::context(self.header(), what, help));
    }

    /// Notes that the value of `key` is of another type than `wanted`.
    pub(super) fn refuse_kind(
        &self,
        value: &Spanned<DeValue<'_>>,
        key: &str,
        wanted: &str,
        help: String,
    ) {
        let what = format!("expected {wanted}, found {}", kind_of(value.get_ref()));
        self.refuse(value.span(), key, Wrong { what, help });
    }

    /// The names of the tables under `key`, or the texts of `field` in the array of tables under `key`.
    pub(super) fn names(&self, key: &str, field: Option<&str>) -> BTreeSet<&'a str> {
        let value = self.raw(key).map(Spanned::get_ref);
        match (value, field) {
            (Some(DeValue::Table(table)), None) => {
                table.keys().map(|name| name.get_ref().as_ref()).collect()
            }
            (Some(DeValue::Array(array)), Some(field)) => array
                .iter()
                .filter_map(|entry| entry.get_ref().as_table()?.get(field)?.get_ref().as_str())
                .collect(),
            _ => BTreeSet::new(),
        }
    }
}

/// Tables within tables.
impl<'a> Reader<'a> {
    fn inner(
        &self,
        table: Option<&'a DeTable<'a>>,
        header: Option<Range<usize>>,
        title: String,
        kind: &'static str,
    ) -> Reader<'a> {
        Reader {
            notes: self.notes,
            table,
            title,
            kind,
            header,
            asked: Vec::new(),
        }
    }

    /// `[kind]`, the table under `key`; an absent one reads as empty.
    pub(super) fn table<T>(
        &mut self,
        key: &'static str,
        kind: &'static str,
        read: impl FnOnce(&mut Reader<'a>) -> T,
    ) -> T {
        self.titled(key, kind, format!("[{kind}]"), read)
    }

    /// `[KIND.NAME.KEY]`: the same within a table that has a name of its own.
    pub(super) fn own_table<T>(
        &mut self,
        key: &'static str,
        kind: &'static str,
        read: impl FnOnce(&mut Reader<'a>) -> T,
    ) -> T {
        let title = format!("{}.{key}]", self.title.trim_end_matches(']'));
        self.titled(key, kind, title, read)
    }

    fn titled<T>(
        &mut self,
        key: &'static str,
        kind: &'static str,
        title: String,
        read: impl FnOnce(&mut Reader<'a>) -> T,
    ) -> T {
        let value = self.ask(key);
        let table = match value.map(Spanned::get_ref) {
            Some(DeValue::Table(table)) => Some(table),
            _ => None,
        };
        if let (Some(value), None) = (value, table) {
            self.refuse_kind(value, key, "a table", format!("write {title}"));
        }
        self.inner(table, value.map(Spanned::span), title, kind)
            .run(read)
    }

    /// `[kind.NAME]`: each table under `key` with its name, sorted by name.
    pub(super) fn named<T>(
        &mut self,
        key: &'static str,
        mut read: impl FnMut(&mut Reader<'a>, Spanned<&'a str>) -> T,
    ) -> Vec<T> {
        let Some(value) = self.ask(key) else {
            return Vec::new();
        };
        let help = format!("write [{key}.NAME]");
        let Some(tables) = value.get_ref().as_table() else {
            self.refuse_kind(value, key, "named tables", help);
            return Vec::new();
        };
        let mut out = Vec::new();
        for (name, value) in tables {
            let title = format!("[{key}.{}]", name.get_ref());
            let Some(table) = value.get_ref().as_table() else {
                let what = format!("expected a table, found {}", kind_of(value.get_ref()));
                self.refuse(
                    name.span(),
                    key,
                    Wrong {
                        what,
                        help: help.clone(),
                    },
                );
                continue;
            };
            let name = Spanned::new(name.span(), name.get_ref().as_ref());
            out.push(
                self.inner(Some(table), Some(value.span()), title, key)
                    .run(|reader| read(reader, name)),
            );
        }
        out
    }

    /// `[[kind]]`: each table of the array under `key`, in the order of the file.
    pub(super) fn each<T>(
        &mut self,
        key: &'static str,
        kind: &'static str,
        mut read: impl FnMut(&mut Reader<'a>) -> T,
    ) -> Vec<T> {
        let title = format!("[[{kind}]]");
        let Some(value) = self.ask(key) else {
            return Vec::new();
        };
        let help = format!("write {title}, once for each");
        let Some(array) = value.get_ref().as_array() else {
            self.refuse_kind(value, key, "an array of tables", help);
            return Vec::new();
        };
        let mut out = Vec::new();
        for entry in array.iter() {
            match entry.get_ref().as_table() {
                Some(table) => out.push(
                    self.inner(Some(table), Some(entry.span()), title.clone(), kind)
                        .run(&mut read),
                ),
                None => self.refuse_kind(entry, key, "a table", help.clone()),
            }
        }
        out
    }
}

fn kind_of(value: &DeValue<'_>) -> &'static str {
    match value {
        DeValue::String(_) => "a text",
        DeValue::Integer(_) => "a bare number",
        DeValue::Float(_) => "a number with a point",
        DeValue::Boolean(_) => "true or false",
        DeValue::Datetime(_) => "a date",
        DeValue::Array(_) => "a list",
        DeValue::Table(_) => "a table",
    }
}
