//! A key in the query: taken out of the target byte for byte, so that no backend and no log ever sees it (FF11, C-12).

use http::HeaderValue;
use http::uri::PathAndQuery;

use super::credential::Credential;
use super::refused::Fault;
use crate::refusal::Refusal;

/// What the parameter held, when it was there: a key, or what is wrong with it.
pub(super) type Presented = Option<Result<Credential, Fault>>;

/// Takes every parameter of this name, however it is percent-encoded, out of the target. All others stay as they are and in their order.
pub(super) fn take(target: PathAndQuery, name: Option<&str>) -> (PathAndQuery, Presented) {
    let (Some(name), Some(query)) = (name, target.query()) else {
        return (target, None);
    };
    let mut rest = String::with_capacity(target.as_str().len());
    let mut presented = None;
    for part in query.split('&') {
        let (found, value) = part.split_once('=').unwrap_or((part, ""));
        if !means(found, name) {
            rest.push(if rest.is_empty() { '?' } else { '&' });
            rest.push_str(part);
            continue;
        }
        presented = Some(match presented {
            None => read(value),
            Some(_) => Err(invalid("credential_repeated")),
        });
    }
    if presented.is_none() {
        return (target, None);
    }
    rest.insert_str(0, target.path());
    match PathAndQuery::try_from(rest) {
        Ok(rest) => (rest, presented),
        // Parts of a valid target are one; should that ever fail, nothing is forwarded.
        Err(_) => (target, Some(Err(invalid("credential_malformed")))),
    }
}

/// The values of the parameter as they are meant, without taking them out.
pub(super) fn look<'a>(query: &'a str, name: &'a str) -> impl Iterator<Item = Vec<u8>> + 'a {
    query.split('&').filter_map(move |part| {
        let (found, value) = part.split_once('=')?;
        means(found, name).then(|| decoded(value))?
    })
}

/// The value of a parameter that must be there once, in this very spelling of its name; `None` where it is not there at all.
///
/// # Errors
/// It is there twice, or in a spelling that some backend takes for it: then nobody knows which one counts.
pub(super) fn sole<'a>(query: Option<&'a str>, name: &str) -> Result<Option<&'a str>, ()> {
    let mut found = None;
    for part in query.unwrap_or_default().split('&') {
        for (place, piece) in part.split(';').enumerate() {
            let own = piece.split('=').next().unwrap_or_default();
            if own == name && place == 0 && found.is_none() {
                // All of the part: a backend that does not cut at `;` reads the rest as value.
                found = Some(part[own.len()..].strip_prefix('=').unwrap_or_default());
            } else if looks_like(own, name) {
                return Err(());
            }
        }
    }
    Ok(found)
}

/// The target with this parameter once, at the end, set to this value; whatever the client sent under the name, in any spelling, is gone. All
/// other parts stay as they are. The value needs no encoding in a query.
pub(super) fn set(target: &PathAndQuery, name: &str, value: &str) -> String {
    let mut whole = String::with_capacity(target.as_str().len() + name.len() + value.len() + 2);
    whole.push_str(target.path());
    let mut mark = '?';
    let is_other = |part: &&str| {
        let mut names = part.split(';').map(|piece| piece.split('=').next());
        !names.any(|own| looks_like(own.unwrap_or_default(), name))
    };
    for part in target
        .query()
        .unwrap_or_default()
        .split('&')
        .filter(is_other)
    {
        if part.is_empty() && mark == '?' {
            continue;
        }
        whole.push(mark);
        whole.push_str(part);
        mark = '&';
    }
    whole.push(mark);
    whole.push_str(name);
    whole.push('=');
    whole.push_str(value);
    whole
}

/// Whether some backend takes this name of a parameter for that one. ASP.NET folds case and knows `%u0041`, PHP trims blanks, turns `.` and
/// blanks into `_` and cuts at `[`, Rails and Node read `name[]`; what cannot be decoded counts as it stands.
fn looks_like(found: &str, name: &str) -> bool {
    found == name || folded(&leniently_decoded(found)) == folded(name.as_bytes())
}

fn folded(name: &[u8]) -> Vec<u8> {
    let end = name.iter().position(|byte| matches!(byte, b'[' | 0));
    let name = name[..end.unwrap_or(name.len())].trim_ascii();
    let fold = |byte: &u8| match byte {
        b' ' | b'.' => b'_',
        byte => byte.to_ascii_lowercase(),
    };
    name.iter().map(fold).collect()
}

fn leniently_decoded(text: &str) -> Vec<u8> {
    let bytes = text.as_bytes();
    let number = |digits: Option<&[u8]>| {
        let digits = std::str::from_utf8(digits?).ok()?;
        let plain = digits.bytes().all(|byte| byte.is_ascii_hexdigit());
        plain.then(|| u32::from_str_radix(digits, 16).ok())?
    };
    let mut out = Vec::with_capacity(bytes.len());
    let mut place = 0;
    while let Some(byte) = bytes.get(place) {
        let short = number(bytes.get(place + 1..place + 3));
        let long = number(bytes.get(place + 2..place + 6));
        let (meant, length) = match (byte, bytes.get(place + 1), short, long) {
            (b'+', ..) => (u32::from(b' '), 1),
            (b'%', Some(b'u' | b'U'), _, Some(long)) => (long, 6),
            (b'%', _, Some(short), _) => (short, 3),
            (byte, ..) => (u32::from(*byte), 1),
        };
        // No name of ours holds more than ASCII.
        out.push(u8::try_from(meant).unwrap_or(0xff));
        place += length;
    }
    out
}

fn read(value: &str) -> Result<Credential, Fault> {
    decoded(value)
        .and_then(|text| HeaderValue::from_bytes(&text).ok())
        .and_then(Credential::whole)
        .ok_or_else(|| invalid("credential_malformed"))
}

/// A name may be written `api%5Fkey`; a backend would decode it, so it counts.
fn means(found: &str, name: &str) -> bool {
    found == name
        || (found.contains('%') && decoded(found).is_some_and(|text| text == name.as_bytes()))
}

/// `None` when a percent sign is not followed by two hexadecimal digits. A plus stays a plus: no key holds a space.
fn decoded(text: &str) -> Option<Vec<u8>> {
    let mut out = Vec::with_capacity(text.len());
    let mut bytes = text.bytes();
    let digit = |bytes: &mut std::str::Bytes<'_>| char::from(bytes.next()?).to_digit(16);
    while let Some(byte) = bytes.next() {
        match byte {
            b'%' => {
                let (high, low) = (digit(&mut bytes)?, digit(&mut bytes)?);
                out.push(u8::try_from(high * 16 + low).ok()?);
            }
            _ => out.push(byte),
        }
    }
    Some(out)
}

fn invalid(reason: &'static str) -> Fault {
    Fault::new(Refusal::CredentialInvalid, reason)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// The target that is left, and the key or the reason.
    fn taken(target: &str, name: Option<&str>) -> (String, Option<Result<String, &'static str>>) {
        let (rest, presented) = take(target.parse().unwrap(), name);
        let presented = presented.map(|presented| match presented {
            Ok(key) => Ok(String::from_utf8(key.text().to_vec()).unwrap()),
            Err(fault) => Err(fault.reason),
        });
        (rest.to_string(), presented)
    }

    #[test]
    fn ff11_the_parameter_goes_and_all_else_stays_byte_for_byte() {
        let long = format!("/a?api_key={}", "k".repeat(513));
        type Case<'a> = (&'a str, &'a str, Option<Result<&'a str, &'a str>>);
        let cases: &[Case<'_>] = &[
            ("/a", "/a", None),
            ("/a?", "/a?", None),
            ("/a?b=%2F&&c", "/a?b=%2F&&c", None),
            ("/a?a=1&api_key=K&b=%2F", "/a?a=1&b=%2F", Some(Ok("K"))),
            ("/a?api_key=K", "/a", Some(Ok("K"))),
            ("/a?api_key=K&x", "/a?x", Some(Ok("K"))),
            ("/a?x&api_key=K", "/a?x", Some(Ok("K"))),
            ("/a?%61pi_ke%79=%4B%5f1", "/a", Some(Ok("K_1"))),
            ("/a?api%5Fkey=K", "/a", Some(Ok("K"))),
            ("/a?api_key=a=b+c", "/a", Some(Ok("a=b+c"))),
            ("/a?API_KEY=K", "/a?API_KEY=K", None),
            ("/a?api_key2=K&api_ke=K", "/a?api_key2=K&api_ke=K", None),
            ("/a?api%5key=K", "/a?api%5key=K", None),
            ("/a?x=api_key=K", "/a?x=api_key=K", None),
            (
                "/a?api_key=K&api_key=K",
                "/a",
                Some(Err("credential_repeated")),
            ),
            (
                "/a?api_key=K&y=2&api%5fkey=L",
                "/a?y=2",
                Some(Err("credential_repeated")),
            ),
            ("/a?api_key=", "/a", Some(Err("credential_malformed"))),
            ("/a?api_key", "/a", Some(Err("credential_malformed"))),
            ("/a?api_key=K%20", "/a", Some(Err("credential_malformed"))),
            ("/a?api_key=K%0a", "/a", Some(Err("credential_malformed"))),
            ("/a?api_key=K%zz", "/a", Some(Err("credential_malformed"))),
            ("/a?api_key=K,L", "/a", Some(Err("credential_malformed"))),
            (&long, "/a", Some(Err("credential_malformed"))),
        ];
        for (target, rest, presented) in cases {
            let presented = presented.map(|presented| presented.map(str::to_owned));
            let expected = ((*rest).to_owned(), presented);
            let found = taken(target, Some("api_key"));
            assert_eq!(format!("{found:?}"), format!("{expected:?}"), "{target}");
        }
    }

    #[test]
    fn switched_off_it_is_an_ordinary_parameter() {
        let target = "/a?api_key=K";
        assert_eq!(taken(target, None), (target.to_owned(), None));
    }

    #[test]
    fn looking_finds_every_value() {
        let seen: Vec<_> = look("a=1&k=one&%6b=tw%6f&k", "k").collect();
        assert_eq!(seen, [b"one".to_vec(), b"two".to_vec()]);
    }

    #[test]
    fn a_bound_parameter_is_there_once_or_nobody_knows() {
        type Case<'a> = (Option<&'a str>, Result<Option<&'a str>, ()>);
        let cases: &[Case<'_>] = &[
            (None, Ok(None)),
            (Some(""), Ok(None)),
            (Some("a=1&b"), Ok(None)),
            (Some("org=acme"), Ok(Some("acme"))),
            (Some("a=1&org=acme&b=2"), Ok(Some("acme"))),
            (Some("org=%61cme"), Ok(Some("%61cme"))),
            (Some("org"), Ok(Some(""))),
            (Some("org="), Ok(Some(""))),
            (Some("org=a=b"), Ok(Some("a=b"))),
            (Some("org=acme;x=1"), Ok(Some("acme;x=1"))),
            (Some("organisation=bravo&xorg=bravo"), Ok(None)),
            (Some("org=acme&org=bravo"), Err(())),
            (Some("org=acme&org=acme"), Err(())),
            (Some("org=acme&ORG=bravo"), Err(())),
            (Some("Org=acme"), Err(())),
            (Some("%6Frg=acme"), Err(())),
            (Some("%6frg=acme&org=acme"), Err(())),
            (Some("%u006Frg=bravo"), Err(())),
            (Some("org[]=bravo"), Err(())),
            (Some("org%5B%5D=bravo"), Err(())),
            (Some("org[0]=bravo&org=acme"), Err(())),
            (Some("+org=bravo"), Err(())),
            (Some("%20org=bravo"), Err(())),
            (Some("org%00x=bravo"), Err(())),
            (Some("org=acme;org=bravo"), Err(())),
            (Some("a=1;org=bravo"), Err(())),
        ];
        for (query, expected) in cases {
            assert_eq!(sole(*query, "org"), *expected, "{query:?}");
        }
        for spelling in ["tenant.id", "tenant id", "tenant+id", "Tenant%2Eid"] {
            let query = format!("{spelling}=bravo");
            assert_eq!(sole(Some(&query), "tenant_id"), Err(()), "{spelling}");
        }
    }

    #[test]
    fn fm9_a_set_parameter_is_ours_alone_and_the_rest_stays() {
        let cases = [
            ("/a", "/a?org=acme"),
            ("/a?", "/a?org=acme"),
            ("/a?b=%2F&&c", "/a?b=%2F&&c&org=acme"),
            ("/a?org=bravo", "/a?org=acme"),
            (
                "/a?b=1&ORG=bravo&org[]=x&%6frg=y&c=2",
                "/a?b=1&c=2&org=acme",
            ),
            ("/a?x=1;org=bravo&b", "/a?b&org=acme"),
            ("/a?organ=1", "/a?organ=1&org=acme"),
        ];
        for (target, expected) in cases {
            let target: PathAndQuery = target.parse().unwrap();
            assert_eq!(set(&target, "org", "acme"), expected, "{target}");
        }
    }

    proptest! {
        #[test]
        fn after_setting_it_is_there_once(query in "[orgORG\\[\\]&=;%0-9u+ .]{0,40}") {
            let Ok(target) = format!("/p?{}", query.replace(' ', "%20")).parse::<PathAndQuery>() else {
                return Ok(());
            };
            let whole: PathAndQuery = set(&target, "org", "acme").parse().unwrap();
            prop_assert_eq!(sole(whole.query(), "org"), Ok(Some("acme")));
        }

        #[test]
        fn what_is_not_the_parameter_never_changes(query in "[a-ck&=%0-9]{0,30}") {
            let (rest, presented) = taken(&format!("/p?{query}"), Some("k"));
            let kept = |text: &str| -> Vec<String> {
                let parts = text.split('&').filter(|part| {
                    !means(part.split('=').next().unwrap_or(""), "k")
                });
                parts.map(str::to_owned).collect()
            };
            let left = match rest.split_once('?') {
                Some((_, left)) => kept(left),
                None => Vec::new(),
            };
            prop_assert_eq!(left, kept(&query));
            if presented.is_none() {
                prop_assert_eq!(rest, format!("/p?{query}"));
            }
        }
    }
}
