//! A protected resource as OAuth clients find out about it (RFC 9728): its metadata, where they stand, and what paths it is about.

use serde::Serialize;

/// Where metadata stand, RFC 9728 section 3.1; the resource's own path follows.
pub const WELL_KNOWN: &str = "/.well-known/oauth-protected-resource";

/// One `[[resources]]`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Resource {
    /// Its identifier, `https://` and a host, perhaps with a port and a path.
    pub identifier: String,
    /// Of the identifier; lower case, without port.
    pub host: String,
    /// Of the identifier; empty, or begins with `/` and does not end with one.
    pub path: String,
    /// Names of `[issuers.NAME]` whose tokens it takes.
    pub issuers: Vec<String>,
    /// What those call themselves, in the same order.
    pub servers: Vec<String>,
    /// Scopes that clients may ask for.
    pub scopes: Vec<String>,
    /// For people.
    pub name: Option<String>,
    /// An address for people.
    pub documentation: Option<String>,
}

/// RFC 9728 section 2.
#[derive(Serialize)]
struct Metadata<'a> {
    resource: &'a str,
    authorization_servers: &'a [String],
    #[serde(skip_serializing_if = "<[String]>::is_empty")]
    scopes_supported: &'a [String],
    bearer_methods_supported: [&'a str; 1],
    #[serde(skip_serializing_if = "Option::is_none")]
    resource_name: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    resource_documentation: Option<&'a str>,
}

impl Resource {
    /// What clients are told of it.
    #[must_use]
    pub fn metadata(&self) -> String {
        let metadata = Metadata {
            resource: &self.identifier,
            authorization_servers: &self.servers,
            scopes_supported: &self.scopes,
            // Tokens are taken from `Authorization` and from nowhere else.
            bearer_methods_supported: ["header"],
            resource_name: self.name.as_deref(),
            resource_documentation: self.documentation.as_deref(),
        };
        serde_json::to_string(&metadata).expect("texts always have a JSON form")
    }

    /// Where that stands: the well-known path goes between host and path of the identifier.
    #[must_use]
    pub fn metadata_url(&self) -> String {
        let origin = &self.identifier[..self.identifier.len() - self.path.len()];
        format!("{origin}{WELL_KNOWN}{}", self.path)
    }

    /// Whether what stands at this host and path is part of it.
    #[must_use]
    pub fn covers(&self, host: &str, path: &str) -> bool {
        let rest = path.strip_prefix(self.path.as_str());
        self.host == host && rest.is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
    }
}

/// The most exact of those that cover this.
#[must_use]
pub fn covering<'a, R: AsRef<Resource>>(all: &'a [R], host: &str, path: &str) -> Option<&'a R> {
    all.iter()
        .filter(|one| one.as_ref().covers(host, path))
        .max_by_key(|one| one.as_ref().path.len())
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;

    fn resource(path: &str) -> Arc<Resource> {
        Arc::new(Resource {
            identifier: format!("https://api.example.org:8443{path}"),
            host: "api.example.org".to_owned(),
            path: path.to_owned(),
            issuers: vec!["main".to_owned()],
            servers: vec!["https://auth.example.org".to_owned()],
            scopes: Vec::new(),
            name: None,
            documentation: None,
        })
    }

    #[test]
    fn the_most_exact_resource_is_about_a_path() {
        let all = [resource(""), resource("/v1"), resource("/v1/leads")];
        let found =
            |host: &str, path: &str| covering(&all, host, path).map(|one| one.metadata_url());
        let url = |rest: &str| Some(format!("https://api.example.org:8443{WELL_KNOWN}{rest}"));
        for (path, rest) in [
            ("/", ""),
            ("/v2", ""),
            ("/v10", ""),
            ("/v1", "/v1"),
            ("/v1/", "/v1"),
            ("/v1/leadsx", "/v1"),
            ("/v1/leads/7", "/v1/leads"),
        ] {
            assert_eq!(found("api.example.org", path), url(rest), "{path}");
        }
        assert_eq!(found("other.example.org", "/v1"), None);
    }

    #[test]
    fn metadata_hold_what_there_is() {
        assert_eq!(
            resource("/v1").metadata(),
            "{\"resource\":\"https://api.example.org:8443/v1\",\"authorization_servers\":[\"https://auth.example.org\"],\"bearer_methods_supported\":[\"header\"]}"
        );
    }
}
