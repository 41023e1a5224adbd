//! What a write may refer to: members of its JSON body that are looked up as the caller before it goes on (FM10).

use crate::model::limit::Mode;
use crate::model::route::path;

/// Most members that one route looks up.
pub const REFERENCES_MAX: usize = 16;

/// Longest id that is looked up, in bytes of what JSON says.
pub const ID_BYTES_MAX: usize = 128;

/// All that a route looks up. Routes that look nothing up have none of this, and pay nothing.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct References {
    /// The members, no two of which a decoder could take for one another.
    pub members: Vec<Reference>,
    /// How much of a body is held to find them, in bytes; a larger one is 413.
    pub body_bytes_max: usize,
    /// Whether a write waits for what is found, or goes on and it is only reported.
    pub mode: Mode,
}

/// One member at the top of a body.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Reference {
    /// Its name.
    pub member: String,
    /// Where what it names is to be found.
    pub place: LookupPath,
}

/// Where a resource is found by its id: a path such as `/estates/{}`, in which `{tenant}` may stand for the caller's tenant.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LookupPath(String);

impl LookupPath {
    /// Reads a path. Both parameters are whole segments, `{}` once and `{tenant}` at most once; all else is in canonical spelling.
    ///
    /// # Errors
    /// A sentence fragment saying what is wrong.
    pub fn parse(text: &str) -> Result<LookupPath, &'static str> {
        let relative = text.strip_prefix('/').ok_or("a path begins with /")?;
        if text.contains('?') {
            return Err("it has no query: a search that finds nothing is no 404");
        }
        let (mut ids, mut tenants) = (0, 0);
        for segment in relative.split('/') {
            match segment {
                ID => ids += 1,
                TENANT => tenants += 1,
                _ if segment.contains(['{', '}']) => {
                    return Err("it knows two parameters, {} and {tenant}, each a whole segment");
                }
                _ => {}
            }
        }
        if ids != 1 || tenants > 1 {
            return Err("{} stands in it once, and {tenant} at most once");
        }
        let plain = text.replace(ID, "x").replace(TENANT, "x");
        let canonical = path::canonical(&plain);
        if canonical.doubt.is_some() || canonical.text != plain {
            return Err("requests with this path would be refused as ambiguous");
        }
        Ok(LookupPath(text.to_owned()))
    }

    /// As it stands in the file.
    #[must_use]
    pub fn text(&self) -> &str {
        &self.0
    }

    /// Whether the caller's tenant stands in it.
    #[must_use]
    pub fn names_tenant(&self) -> bool {
        self.0.split('/').any(|segment| segment == TENANT)
    }

    /// The path of what this id names; `None` for an id that no path can carry so that all programs read the same.
    ///
    /// The id is one whole segment, percent-encoded. What has a meaning of its own in paths is not looked up at all, encoded or not: some backends
    /// decode first and split later, and would look at something else than the write then names.
    #[must_use]
    pub fn of(&self, tenant: &str, id: &str) -> Option<String> {
        let odd = |letter: char| letter.is_control() || "/\\%?#;".contains(letter);
        if id.is_empty() || id.len() > ID_BYTES_MAX || id.trim() != id || id.contains(odd) {
            return None;
        }
        let mut segment = String::with_capacity(id.len());
        for byte in id.bytes() {
            match byte.is_ascii_alphanumeric() || b"-._~".contains(&byte) {
                true => segment.push(char::from(byte)),
                false => segment.push_str(&format!("%{byte:02X}")),
            }
        }
        // The tenant first: no tenant's name has braces, and an id may.
        let path = self.0.replacen(TENANT, tenant, 1).replacen(ID, &segment, 1);
        let is_plain = path::canonical(&path).doubt.is_none();
        is_plain.then_some(path)
    }
}

const ID: &str = "{}";
const TENANT: &str = "{tenant}";

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn place(text: &str) -> LookupPath {
        LookupPath::parse(text).unwrap()
    }

    #[test]
    fn a_place_has_one_id_as_a_whole_segment() {
        for (text, names_tenant, of_seven) in [
            ("/estates/{}", false, "/estates/7"),
            ("/{}", false, "/7"),
            ("/estates/{}/", false, "/estates/7/"),
            ("/estates/{}/exists", false, "/estates/7/exists"),
            ("/orgs/{tenant}/estates/{}", true, "/orgs/acme/estates/7"),
        ] {
            assert_eq!(place(text).names_tenant(), names_tenant, "{text}");
            assert_eq!(place(text).of("acme", "7").unwrap(), of_seven);
        }
        for text in [
            "",
            "estates/{}",
            "/estates",
            "/estates/{}/{}",
            "/estates/{id}",
            "/estates/x{}",
            "/estates/{}.json",
            "/estates?id={}",
            "/{tenant}/{tenant}/{}",
            "/{tenant}",
            "//{}",
            "/a//{}",
            "/../{}",
            "/a b/{}",
            "/%61/{}",
            "/a;b/{}",
            "/{*rest}/{}",
        ] {
            assert!(LookupPath::parse(text).is_err(), "{text}");
        }
    }

    #[test]
    fn an_id_is_one_segment_or_is_not_looked_up() {
        for (id, expected) in [
            ("of-acme", "/estates/of-acme"),
            ("-5", "/estates/-5"),
            ("a b", "/estates/a%20b"),
            ("größe", "/estates/gr%C3%B6%C3%9Fe"),
            ("a@b:c,{}", "/estates/a%40b%3Ac%2C%7B%7D"),
            ("{tenant}", "/estates/%7Btenant%7D"),
            ("a..b", "/estates/a..b"),
        ] {
            assert_eq!(place("/estates/{}").of("acme", id).unwrap(), expected);
        }
        let long = "x".repeat(ID_BYTES_MAX);
        assert!(place("/estates/{}").of("acme", &long).is_some());
        for id in [
            "",
            ".",
            "..",
            "...",
            "7.",
            " 7",
            "7 ",
            "7\u{a0}",
            "a/b",
            "../b",
            "a\\b",
            "a%2fb",
            "a?b",
            "a#b",
            "a;b",
            "a\0",
            "a\n",
            "\u{7f}",
            "\u{85}x",
            &format!("{long}x"),
        ] {
            assert_eq!(place("/estates/{}").of("acme", id), None, "{id:?}");
        }
    }

    proptest! {
        // FM10: whatever a client writes, what is asked for stays below the place, is one segment, and says the id again.
        #[test]
        fn no_id_leads_out_of_its_segment(id in "\\PC{0,20}|[./%\\\\;?#{}a ]{0,8}") {
            if let Some(path) = place("/t/{tenant}/estates/{}/x").of("acme", &id) {
                let segment = path.strip_prefix("/t/acme/estates/").unwrap().strip_suffix("/x").unwrap();
                prop_assert!(!segment.is_empty() && !segment.contains('/'));
                prop_assert_eq!(path::canonical(&path).text, &*path);
                let encoded: String = id.bytes().map(|byte| format!("%{byte:02X}")).collect();
                prop_assert!(path::same_when_decoded(segment, &encoded));
            }
        }
    }
}
