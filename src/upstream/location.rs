//! `Location` in an answer: back from the backend's own name and path to those that the client knows.

use http::HeaderValue;
use http::Uri;
use http::header;
use http::response;

use crate::config::HostHeader;
use crate::gate::Admission;
use crate::upstream::pool::Server;

/// Puts the public name in the place of the server's, and takes off the prefix that stood before the path. What leads elsewhere stays.
pub(super) fn rewrite(head: &mut response::Parts, admission: &Admission, server: &Server) {
    // Only these carry one (RFC 9110 section 10.2.2); other answers pay nothing.
    if head.status != http::StatusCode::CREATED && !head.status.is_redirection() {
        return;
    }
    let Some(there) = head.headers.get(header::LOCATION) else {
        return;
    };
    let public = there.to_str().ok().and_then(|there| {
        let prefix = admission.place().prefix(admission.tenant());
        let rest = match strip_authority(there, admission, server) {
            Some(rest) => rest,
            None if there.starts_with('/') && !there.starts_with("//") => there,
            None => return None,
        };
        let path = strip_prefix(rest, &prefix.unwrap_or_default());
        let text = match rest.len() == there.len() {
            true => path,
            false => format!("https://{}{path}", admission.host()),
        };
        HeaderValue::try_from(text).ok()
    });
    if let Some(public) = public {
        head.headers.insert(header::LOCATION, public);
    }
}

/// What follows the authority of a URL of this server, under whichever name it knows itself.
fn strip_authority<'a>(there: &'a str, admission: &Admission, server: &Server) -> Option<&'a str> {
    let uri: Uri = there.split('#').next()?.parse().ok()?;
    let authority = uri.authority()?.as_str();
    let upstream = &admission.snapshot().config.upstreams[admission.route().upstream];
    let sent = match &upstream.host_header {
        HostHeader::Client => admission.host(),
        HostHeader::Server => &server.name,
        HostHeader::Fixed(name) => name.to_str().ok()?,
    };
    let is_own =
        authority.eq_ignore_ascii_case(sent) || authority.eq_ignore_ascii_case(&server.name);
    let after = there.find("://")? + 3 + authority.len();
    let rest = there.get(after..)?;
    let web = matches!(uri.scheme_str(), Some("http" | "https"));
    (is_own && web).then_some(rest)
}

/// The path without the prefix; as it is where the prefix is not a whole part of it.
fn strip_prefix(path: &str, prefix: &str) -> String {
    match path.strip_prefix(prefix) {
        Some(rest) if rest.starts_with('/') => rest.to_owned(),
        Some(rest) if rest.is_empty() || rest.starts_with(['?', '#']) => format!("/{rest}"),
        _ => path.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::strip_prefix;

    #[test]
    fn a_prefix_is_taken_off_whole_or_not_at_all() {
        let cases = [
            ("/t/acme/leases/1?x=/t/acme", "/leases/1?x=/t/acme"),
            ("/t/acme", "/"),
            ("/t/acme?x", "/?x"),
            ("/t/acmex/1", "/t/acmex/1"),
            ("/t/bravo/1", "/t/bravo/1"),
            ("/leases", "/leases"),
        ];
        for (path, expected) in cases {
            assert_eq!(strip_prefix(path, "/t/acme"), expected, "{path}");
        }
        assert_eq!(strip_prefix("/a", ""), "/a");
        assert_eq!(strip_prefix("", ""), "/");
    }
}
