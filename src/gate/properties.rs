//! What must hold of hosts, credentials and queries for any bytes: fuzz targets and proptests call the same functions.

use http::HeaderMap;
use http::HeaderValue;
use http::Request;
use http::Uri;
use http::Version;
use http::header;
use http::uri::PathAndQuery;

use crate::config::Auth;
use crate::gate::credential;
use crate::gate::host;
use crate::gate::query;
use crate::model::credential::Kinds;

/// S16: a host is taken only if it has one meaning: what it is written back as is a fixed point without anything a backend could split at.
pub(crate) fn hosts(data: &[u8]) {
    let mut lines = data.split(|byte| *byte == b'\n');
    let version = match lines.next() {
        Some(b"2") => Version::HTTP_2,
        _ => Version::HTTP_11,
    };
    let authority = lines.next().unwrap_or_default();
    let uri = match authority {
        b"" => Uri::from_static("/"),
        text => match Uri::try_from([b"https://", text, b"/"].concat()) {
            Ok(uri) => uri,
            Err(_) => return,
        },
    };
    let values: Vec<HeaderValue> = lines
        .filter_map(|line| HeaderValue::from_bytes(line).ok())
        .collect();
    let parts = |version, uri: &Uri, values: &[HeaderValue]| {
        let mut request = Request::new(());
        *request.version_mut() = version;
        *request.uri_mut() = uri.clone();
        for value in values {
            request.headers_mut().append(header::HOST, value.clone());
        }
        request.into_parts().0
    };
    let Ok(found) = host::of(&parts(version, &uri, &values)) else {
        return;
    };
    assert!(values.len() <= 1, "two hosts are none");
    let (name, text) = (found.name().to_owned(), found.into_text());
    let plain = |byte: u8| byte.is_ascii_graphic() && !b"@/\\?#%, ".contains(&byte);
    assert!(text.bytes().all(plain) && !name.ends_with('.'), "{text:?}");
    assert_eq!(*text, text.to_ascii_lowercase());
    let again = HeaderValue::from_str(&text).expect("a host is a header value");
    let again = host::of(&parts(Version::HTTP_11, &Uri::from_static("/"), &[again]));
    let again = again.expect("a canonical host is a host");
    assert_eq!(
        (again.name(), &*again.clone().into_text()),
        (&*name, &*text)
    );
}

/// FA1, CW1, S12: after the gate looked, no credential is left, whatever it found; and what counts was there, whole, in every place that is on.
pub(crate) fn credentials(data: &[u8]) {
    let (flags, data) = data.split_first().unwrap_or((&0, &[]));
    let auth = Auth {
        bearer: flags & 1 == 0,
        x_api_key: flags & 2 == 0,
        failures: None,
        realm: "api".to_owned(),
        pass_foreign_authorization: flags & 4 != 0,
        query_parameter: (flags & 8 != 0).then(|| "api_key".to_owned()),
        refuse_secret_keys_in_browsers: false,
        credentials: Kinds::KEYS,
    };
    let mut headers = HeaderMap::new();
    let mut target = PathAndQuery::from_static("/");
    for line in data.split(|byte| *byte == b'\n') {
        match line.split_first() {
            Some((b'A', value)) => append(&mut headers, header::AUTHORIZATION, value),
            Some((b'X', value)) => append(
                &mut headers,
                header::HeaderName::from_static("x-api-key"),
                value,
            ),
            Some((b'?', query)) => {
                if let Ok(read) = PathAndQuery::try_from([b"/p?", query].concat()) {
                    target = read;
                }
            }
            _ => {}
        }
    }
    let before = headers.clone();
    let (rest, in_query) = query::take(target.clone(), auth.query_parameter.as_deref());
    if let Some(name) = &auth.query_parameter {
        assert_parameter_is_gone(&rest, name);
    } else {
        assert_eq!(rest, target);
    }
    let mut for_public = headers.clone();
    credential::discard(&mut for_public, &auth, false);
    assert_no_credential(&for_public, &auth);
    let presented_in_query = in_query.is_some();
    let taken = credential::take(&mut headers, in_query, &auth);
    assert_no_credential(&headers, &auth);
    if let Ok(taken) = taken {
        let text = taken.text();
        assert!((1..=512).contains(&text.len()) && text.iter().all(u8::is_ascii_graphic));
        let values = |name: &str| before.get_all(name).iter().map(HeaderValue::as_bytes);
        let bearer = values("authorization").all(|line| line.ends_with(text))
            || auth.pass_foreign_authorization;
        let api_key = values("x-api-key").all(|line| line == text) || !auth.x_api_key;
        assert!(bearer && api_key, "what counts is what was presented");
        assert!(
            presented_in_query || values("authorization").chain(values("x-api-key")).count() > 0
        );
    }
}

fn append(headers: &mut HeaderMap, name: header::HeaderName, value: &[u8]) {
    if let Ok(value) = HeaderValue::from_bytes(value) {
        headers.append(name, value);
    }
}

/// No X-API-Key, and no `Authorization` but one line of a foreign scheme where that passes.
fn assert_no_credential(headers: &HeaderMap, auth: &Auth) {
    assert!(!headers.contains_key("x-api-key"));
    for line in headers.get_all(header::AUTHORIZATION) {
        let scheme = line.as_bytes().get(..6).unwrap_or_default();
        let is_bearer = scheme.eq_ignore_ascii_case(b"bearer");
        assert!(auth.pass_foreign_authorization && !is_bearer, "{line:?}");
    }
}

/// As a backend would look for it: names decoded once, `+` being a space.
fn assert_parameter_is_gone(rest: &PathAndQuery, name: &str) {
    for part in rest.query().unwrap_or("").split('&') {
        let found = part.split('=').next().unwrap_or("").replace('+', " ");
        let mut decoded = Vec::new();
        let mut bytes = found.bytes();
        while let Some(byte) = bytes.next() {
            let mut ahead = bytes.clone();
            let mut digit = || char::from(ahead.next()?).to_digit(16);
            match (byte, digit(), digit()) {
                (b'%', Some(high), Some(low)) => {
                    decoded.push((high * 16 + low) as u8);
                    bytes = ahead;
                }
                _ => decoded.push(byte),
            }
        }
        assert_ne!(decoded, name.as_bytes(), "{rest}");
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(2_048))]

        #[test]
        fn s16_a_host_has_one_meaning(
            version in "[12]",
            authority in "|[a-zA-Z0-9.:@_-]{1,12}|(localhost|a\\.b)(:[0-9]{0,6})?|\\[[0-9a-fA-F:.]{0,20}\\](:[0-9]{1,5})?",
            lines in prop::collection::vec("[a-zA-Z0-9.:,@\\[\\]_% -]{0,16}|\\[::[0-9a-f]{1,4}\\]", 0..3),
        ) {
            hosts(format!("{version}\n{authority}\n{}", lines.join("\n")).as_bytes());
            hosts(format!("{version}\n{authority}").as_bytes());
        }

        #[test]
        fn fa1_cw1_no_credential_is_left(
            flags in 0_u8..16,
            lines in prop::collection::vec(
                "A([bB]earer|BEARER|Basic|) ?( ?k[a-c]?|k,k| )|X(k[a-c]?|k,k|k k|)|\\?([a&=%]|api_key=k?|api%5fkey=k|api%5Fke%79|[%][0-9a-g]{2}){0,6}",
                0..5,
            ),
        ) {
            let text = lines.join("\n");
            credentials(&[&[flags], text.as_bytes()].concat());
        }
    }
}
