//! How an upstream keeps tenants apart, and the prefix that puts a tenant's name into the path.

use crate::model::route::pattern::Pattern;
use crate::model::route::pattern::Segment;

/// What keeps one tenant's data from another behind an upstream; the operator states it (FM13).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Isolation {
    /// Nothing was said. Requests carry the tenant header as with `Header`; `check` warns.
    Unstated,
    /// Each tenant has servers, or a part of the path, of its own; one without gets 503.
    Physical,
    /// The backend filters by the tenant header.
    Header,
    /// The tenant stands in the path, the query or the host of each request, and the gateway holds it there.
    Path,
    /// The gateway looks at each answer.
    Guard,
    /// Nothing does; every tenant may see the data of all.
    None,
}

impl Isolation {
    /// The word of gateway.toml; empty where nothing was said.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Isolation::Unstated => "",
            Isolation::Physical => "physical",
            Isolation::Header => "header",
            Isolation::Path => "path",
            Isolation::Guard => "guard",
            Isolation::None => "none",
        }
    }
}

/// What stands before the path of every request to a backend, such as `/api` or `/t/{tenant}`; it never ends in a slash.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PathPrefix {
    before: String,
    /// What follows `{tenant}`; `None` without one.
    after: Option<String>,
}

impl PathPrefix {
    /// Takes a prefix apart. `{tenant}` is a whole segment, so that no tenant's name is the beginning of another's path.
    ///
    /// # Errors
    /// A sentence fragment saying what is wrong.
    pub fn parse(text: &str) -> Result<PathPrefix, &'static str> {
        let pattern = Pattern::parse(text)?;
        if text.ends_with('/') || pattern.rest {
            return Err(
                "a prefix ends without a slash and without {*rest}, since the path of the request follows",
            );
        }
        let params = (pattern.segments.iter())
            .filter(|segment| matches!(segment, Segment::Param))
            .count();
        match (text.split_once(MARK), params) {
            (None, 0) => Ok(PathPrefix {
                before: text.to_owned(),
                after: None,
            }),
            (Some((before, after)), 1) => Ok(PathPrefix {
                before: before.to_owned(),
                after: Some(after.to_owned()),
            }),
            _ => Err("the one parameter that a prefix knows is {tenant}, once"),
        }
    }

    /// Whether each tenant has a part of its own.
    #[must_use]
    pub fn names_tenant(&self) -> bool {
        self.after.is_some()
    }

    /// The prefix of this tenant; `None` where it wants a tenant and there is none.
    #[must_use]
    pub fn of(&self, tenant: Option<&str>) -> Option<String> {
        match &self.after {
            None => Some(self.before.clone()),
            Some(after) => tenant.map(|tenant| format!("{}{tenant}{after}", self.before)),
        }
    }

    /// As it stands in the file.
    #[must_use]
    pub fn text(&self) -> String {
        match &self.after {
            None => self.before.clone(),
            Some(after) => format!("{}{MARK}{after}", self.before),
        }
    }
}

const MARK: &str = "{tenant}";

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_prefix_is_whole_segments() {
        let cases = [
            ("/api", false, "/api"),
            ("/t/{tenant}", true, "/t/acme"),
            ("/{tenant}", true, "/acme"),
            ("/t/{tenant}/v1", true, "/t/acme/v1"),
        ];
        for (text, names_tenant, of_acme) in cases {
            let prefix = PathPrefix::parse(text).unwrap();
            assert_eq!(prefix.names_tenant(), names_tenant, "{text}");
            assert_eq!(prefix.of(Some("acme")).unwrap(), of_acme);
            assert_eq!(prefix.of(None).is_none(), names_tenant, "{text}");
            assert_eq!(prefix.text(), text);
        }
        for text in [
            "",
            "/",
            "api",
            "/api/",
            "/a//b",
            "/../b",
            "/t-{tenant}",
            "/{tenant}.x",
            "/{org}",
            "/{tenant}/{org}",
            "/{tenant}/{tenant}",
            "/a/{*rest}",
            "/a?b",
            "/%61",
        ] {
            assert!(PathPrefix::parse(text).is_err(), "{text}");
        }
    }
}
