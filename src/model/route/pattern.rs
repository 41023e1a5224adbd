//! What a route's path may look like: static segments, `{param}` and a final `{*rest}`.

use crate::model::route::path;

/// A route's path, taken apart.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Pattern {
    /// In the order of the path; a final empty static segment is a trailing slash.
    pub segments: Vec<Segment>,
    /// Whether `{*rest}` follows: zero or more further segments.
    pub rest: bool,
}

/// One segment of a pattern.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Segment {
    /// This text, in its canonical spelling.
    Static(String),
    /// Any one segment that is not empty.
    Param,
}

impl Pattern {
    /// Takes a path apart. Names of parameters are `a-z A-Z 0-9 _`, each once; static segments are in canonical spelling.
    ///
    /// # Errors
    /// A sentence fragment saying what is wrong.
    pub fn parse(text: &str) -> Result<Pattern, &'static str> {
        let relative = text.strip_prefix('/').ok_or("a path begins with /")?;
        let mut segments = Vec::new();
        let mut names: Vec<&str> = Vec::new();
        let mut words = relative.split('/').peekable();
        while let Some(word) = words.next() {
            let last = words.peek().is_none();
            match parameter(word)? {
                None => segments.push(Segment::Static(static_segment(word, last)?)),
                Some(name) => {
                    let (name, rest) = name
                        .strip_prefix('*')
                        .map_or((name, false), |name| (name, true));
                    take_name(&mut names, name)?;
                    if rest && last {
                        return Ok(Pattern { segments, rest });
                    }
                    if rest {
                        return Err("{*rest} stands only at the end of a path");
                    }
                    segments.push(Segment::Param);
                }
            }
        }
        Ok(Pattern {
            segments,
            rest: false,
        })
    }
}

/// The parameters of a path that stand for one segment: which segment, from 0, and the name. `{*rest}` is none of them.
pub fn parameters(path: &str) -> impl Iterator<Item = (usize, &str)> {
    let segments = path.strip_prefix('/').unwrap_or(path).split('/');
    segments.enumerate().filter_map(|(place, segment)| {
        let name = segment.strip_prefix('{')?.strip_suffix('}')?;
        (!name.starts_with('*')).then_some((place, name))
    })
}

/// What stands between the braces of a segment that is a parameter.
fn parameter(word: &str) -> Result<Option<&str>, &'static str> {
    if let Some(name) = word
        .strip_prefix('{')
        .and_then(|rest| rest.strip_suffix('}'))
    {
        return Ok(Some(name));
    }
    if word.contains(['{', '}']) {
        return Err("a parameter is a whole segment, {name} or {*name}");
    }
    Ok(None)
}

fn take_name<'a>(names: &mut Vec<&'a str>, name: &'a str) -> Result<(), &'static str> {
    let plain = name
        .bytes()
        .all(|byte| byte.is_ascii_alphanumeric() || byte == b'_');
    if name.is_empty() || !plain {
        return Err("a parameter has a name of letters, digits and _");
    }
    if names.contains(&name) {
        return Err("a parameter's name stands once in a path");
    }
    names.push(name);
    Ok(())
}

fn static_segment(word: &str, last: bool) -> Result<String, &'static str> {
    if word.is_empty() && !last {
        return Err("a path has no empty segment, since requests with // are refused");
    }
    if word.contains('?') {
        return Err("a path has no query");
    }
    if word.contains('*') {
        return Err("a wildcard is written {*rest}");
    }
    let whole = format!("/{word}");
    let canonical = path::canonical(&whole);
    if canonical.doubt.is_some() {
        return Err("requests with this path are refused as ambiguous, so no route can serve it");
    }
    if canonical.text != whole {
        return Err(
            "a path is written in its canonical spelling: letters, digits and - . _ ~ plain, other %XX in capitals",
        );
    }
    Ok(word.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn fixed(text: &str) -> Segment {
        Segment::Static(text.to_owned())
    }

    #[test]
    fn patterns_are_taken_apart() {
        let cases = [
            ("/", vec![fixed("")], false),
            ("/leases", vec![fixed("leases")], false),
            ("/leases/", vec![fixed("leases"), fixed("")], false),
            ("/leases/{id}", vec![fixed("leases"), Segment::Param], false),
            ("/leases/{*rest}", vec![fixed("leases")], true),
            ("/{*all}", vec![], true),
            (
                "/{a}/x/{b}/{*c}",
                vec![Segment::Param, fixed("x"), Segment::Param],
                true,
            ),
            ("/v1/jobs:run", vec![fixed("v1"), fixed("jobs:run")], false),
            ("/caf%C3%A9", vec![fixed("caf%C3%A9")], false),
        ];
        for (text, segments, rest) in cases {
            assert_eq!(
                Pattern::parse(text),
                Ok(Pattern { segments, rest }),
                "{text}"
            );
        }
    }

    #[test]
    fn mistakes_are_refused() {
        let cases = [
            ("", "begins with /"),
            ("leases", "begins with /"),
            ("/a//b", "empty segment"),
            ("/a/../b", "ambiguous"),
            ("/a;b", "ambiguous"),
            ("/a%2Fb", "ambiguous"),
            ("/a#b", "ambiguous"),
            ("/café", "ambiguous"),
            ("/a?b", "query"),
            ("/%61", "canonical"),
            ("/a%c3%a9", "canonical"),
            ("/a/*", "{*rest}"),
            ("/{*rest}/a", "only at the end"),
            ("/x{id}", "whole segment"),
            ("/{id", "whole segment"),
            ("/{id}.json", "whole segment"),
            ("/{}", "name"),
            ("/{*}", "name"),
            ("/{a-b}", "name"),
            ("/{a}/{a}", "once"),
        ];
        for (text, words) in cases {
            let error = Pattern::parse(text).unwrap_err();
            assert!(error.contains(words), "{text}: {error}");
        }
    }
}
