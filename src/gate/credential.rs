//! What the client presented: every credential taken out of the request, and the one that counts.

use std::fmt;
use std::ops::Range;

use http::HeaderMap;
use http::HeaderName;
use http::HeaderValue;
use http::header;
use http::header::Entry;

use super::query::Presented;
use super::refused::Fault;
use crate::config::Auth;
use crate::config::Config;
use crate::refusal::Refusal;
use crate::token::form;
use crate::token::form::Form;

pub(super) const X_API_KEY: HeaderName = HeaderName::from_static("x-api-key");

/// Bytes; a longer text is no key of anybody's, and is not worth hashing.
pub(super) const LENGTH_MAX: usize = 512;

/// The text of a key that the client presented, unverified.
pub(super) struct Credential {
    value: HeaderValue,
    /// Where the key stands in the value.
    text: Range<usize>,
    place: Place,
}

/// Where a credential was presented.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Place {
    /// In `Authorization` and nowhere else.
    Bearer,
    /// In the cookie of sessions.
    Cookie,
    /// In `X-API-Key`, in the query, or in several places.
    Other,
}

impl fmt::Debug for Credential {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str("Credential(***)")
    }
}

impl Credential {
    /// The key's bytes.
    pub(super) fn text(&self) -> &[u8] {
        &self.value.as_bytes()[self.text.clone()]
    }

    /// All of a value, if it can be a key.
    pub(super) fn whole(value: HeaderValue) -> Option<Credential> {
        is_key_text(value.as_bytes(), LENGTH_MAX).then(|| Credential::rest(value, 0))
    }

    /// This part of a line of cookies, if it can be a token; one that `is_known` can.
    pub(super) fn cookie(
        line: HeaderValue,
        text: Range<usize>,
        length_max: usize,
        is_known: bool,
    ) -> Option<Credential> {
        let can_be_one = is_known || is_key_text(&line.as_bytes()[text.clone()], length_max);
        can_be_one.then(|| Credential {
            place: Place::Cookie,
            ..Credential::new(line, text)
        })
    }

    /// The value that it came in, whole.
    pub(super) fn into_value(self) -> HeaderValue {
        self.value
    }

    /// Where it came.
    pub(super) fn place(&self) -> Place {
        self.place
    }

    /// What follows this byte.
    fn rest(value: HeaderValue, start: usize) -> Credential {
        let text = start..value.len();
        Credential::new(value, text)
    }

    fn new(mut value: HeaderValue, text: Range<usize>) -> Credential {
        value.set_sensitive(true);
        Credential {
            value,
            text,
            place: Place::Other,
        }
    }
}

/// What an `Authorization` line is.
#[derive(Debug, PartialEq, Eq)]
enum Authorization {
    /// `Bearer` and one key, which begins at this byte.
    Bearer(usize),
    /// Begins like `Bearer`, and is not that. It may hold a key, so it is passed on to nobody.
    Malformed,
    /// Another scheme.
    Foreign,
}

/// Takes every credential out of the headers and returns the one that was presented there or in the query. An `Authorization` of another
/// scheme beside an X-API-Key stays in place where the configuration passes it on.
///
/// # Errors
/// 401 when nothing was presented, or what was presented cannot be one key (FA1, CW1, S12).
pub(super) fn take(
    headers: &mut HeaderMap,
    in_query: Presented,
    auth: &Auth,
) -> Result<Credential, Fault> {
    take_up_to(LENGTH_MAX, headers, in_query, auth, nobody)
}

/// The same where `Authorization` may carry a text of this many bytes: a token is longer than any key. One that is `known` was found to be well
/// formed before, and is not looked at again.
pub(super) fn take_up_to(
    length_max: usize,
    headers: &mut HeaderMap,
    in_query: Presented,
    auth: &Auth,
    known: impl FnOnce(&[u8]) -> bool,
) -> Result<Credential, Fault> {
    let api_key = take_api_key(headers, auth);
    let foreign_stays = auth.pass_foreign_authorization && matches!(api_key, Ok(Some(_)));
    let bearer = take_bearer(length_max, headers, auth, foreign_stays, known);
    let mut all = [api_key?, bearer?, in_query.transpose()?]
        .into_iter()
        .flatten();
    let Some(mut one) = all.next() else {
        return Err(Fault::new(Refusal::CredentialMissing, "credential_missing"));
    };
    let same = all.all(|other| {
        // What stands in two places is taken as the key that it must be.
        one.place = Place::Other;
        other.text() == one.text()
    });
    match same {
        true => Ok(one),
        false => Err(Fault::new(
            Refusal::CredentialAmbiguous,
            "credentials_differ",
        )),
    }
}

/// Whether the one `Authorization` line is somebody else's business: a token or another scheme, and nothing that is a key here or looks like one.
/// What begins like `Bearer` and is not that may hold a key. `known` says whether a text is a key of the store.
pub(super) fn is_for_others(
    headers: &HeaderMap,
    config: &Config,
    known: impl Fn(&[u8]) -> bool,
) -> bool {
    let mut lines = headers.get_all(header::AUTHORIZATION).iter();
    let (Some(line), None) = (lines.next(), lines.next()) else {
        return false;
    };
    match read_authorization(line, LENGTH_MAX.max(config.tokens.bytes_max), nobody) {
        Authorization::Bearer(start) => {
            let text = &line.as_bytes()[start..];
            form::of(text, config) != Form::Key && !known(text)
        }
        Authorization::Malformed => false,
        Authorization::Foreign => true,
    }
}

/// Takes every credential out of the headers of a request that needs none, and looks at none. `passes` leaves `Authorization` as it came.
pub(super) fn discard(headers: &mut HeaderMap, auth: &Auth, passes: bool) {
    headers.remove(X_API_KEY);
    if passes {
        return;
    }
    let foreign = headers
        .get_all(header::AUTHORIZATION)
        .iter()
        .all(|line| read_authorization(line, LENGTH_MAX, nobody) == Authorization::Foreign);
    if !(auth.pass_foreign_authorization && foreign) {
        headers.remove(header::AUTHORIZATION);
    }
}

/// Every text in the headers that could be a key, without taking it out.
pub(super) fn look<'a>(headers: &'a HeaderMap, auth: &Auth) -> impl Iterator<Item = &'a [u8]> {
    let bearer = headers
        .get_all(header::AUTHORIZATION)
        .iter()
        .filter(|_| auth.bearer)
        .filter_map(|line| match read_authorization(line, LENGTH_MAX, nobody) {
            Authorization::Bearer(start) => Some(&line.as_bytes()[start..]),
            Authorization::Malformed | Authorization::Foreign => None,
        });
    let api_key = headers
        .get_all(X_API_KEY)
        .iter()
        .filter(|_| auth.x_api_key)
        .map(HeaderValue::as_bytes)
        .filter(|text| is_key_text(text, LENGTH_MAX));
    bearer.chain(api_key)
}

fn take_api_key(headers: &mut HeaderMap, auth: &Auth) -> Result<Option<Credential>, Fault> {
    // Looked for by name: a hash costs more where it is not there, which is the usual case.
    if !headers.keys().any(|name| *name == X_API_KEY) {
        return Ok(None);
    }
    let count = headers.get_all(X_API_KEY).iter().count();
    let Some(value) = headers.remove(X_API_KEY).filter(|_| auth.x_api_key) else {
        return Ok(None);
    };
    if count > 1 {
        return Err(invalid("credential_repeated"));
    }
    if !is_key_text(value.as_bytes(), LENGTH_MAX) {
        return Err(invalid("credential_malformed"));
    }
    Ok(Some(Credential::rest(value, 0)))
}

fn take_bearer(
    length_max: usize,
    headers: &mut HeaderMap,
    auth: &Auth,
    foreign_stays: bool,
    known: impl FnOnce(&[u8]) -> bool,
) -> Result<Option<Credential>, Fault> {
    let Entry::Occupied(lines) = headers.entry(header::AUTHORIZATION) else {
        return Ok(None);
    };
    let repeated = lines.iter().nth(1).is_some();
    let kind = read_authorization(lines.get(), length_max, known);
    if !repeated && kind == Authorization::Foreign && foreign_stays {
        return Ok(None);
    }
    let value = lines.remove();
    match kind {
        _ if repeated => Err(invalid("credential_repeated")),
        Authorization::Bearer(start) if auth.bearer => Ok(Some(Credential {
            place: Place::Bearer,
            ..Credential::rest(value, start)
        })),
        Authorization::Malformed => Err(invalid("credential_malformed")),
        Authorization::Bearer(_) | Authorization::Foreign => Err(invalid("authorization_scheme")),
    }
}

/// RFC 6750 section 2.1: `Bearer`, in any case, one or more spaces, and nothing after the key.
fn read_authorization(
    line: &HeaderValue,
    length_max: usize,
    known: impl FnOnce(&[u8]) -> bool,
) -> Authorization {
    let bytes = line.as_bytes();
    let Some((scheme, after)) = bytes.split_at_checked("Bearer".len()) else {
        return Authorization::Foreign;
    };
    if !scheme.eq_ignore_ascii_case(b"Bearer") {
        return Authorization::Foreign;
    }
    let spaces = after.iter().take_while(|byte| **byte == b' ').count();
    let text = &after[spaces..];
    let fits = spaces > 0 && text.len() <= length_max;
    if !(fits && (known(text) || is_key_text(text, length_max))) {
        return Authorization::Malformed;
    }
    Authorization::Bearer(scheme.len() + spaces)
}

/// Where nothing is remembered.
fn nobody(_: &[u8]) -> bool {
    false
}

/// Visible ASCII without a space or a comma, which would make it a list. All bytes are looked at whatever they are, since then the compiler takes many
/// at once; a token has some 700.
fn is_key_text(text: &[u8], length_max: usize) -> bool {
    let odd = |byte: &u8| u8::from(!byte.is_ascii_graphic()) | u8::from(*byte == b',');
    (1..=length_max).contains(&text.len()) && text.iter().fold(0, |any, byte| any | odd(byte)) == 0
}

fn invalid(reason: &'static str) -> Fault {
    Fault::new(Refusal::CredentialInvalid, reason)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::credential::Kinds;

    fn auth() -> Auth {
        Auth {
            bearer: true,
            x_api_key: true,
            failures: None,
            realm: "api".to_owned(),
            pass_foreign_authorization: false,
            query_parameter: None,
            refuse_secret_keys_in_browsers: false,
            credentials: Kinds::KEYS,
        }
    }

    fn headers(lines: &[(&'static str, &str)]) -> HeaderMap {
        let mut headers = HeaderMap::new();
        for (name, value) in lines {
            headers.append(*name, HeaderValue::from_str(value).unwrap());
        }
        headers
    }

    fn taken(headers: &mut HeaderMap, auth: &Auth) -> Result<String, &'static str> {
        match take(headers, None, auth) {
            Ok(credential) => Ok(String::from_utf8(credential.text().to_vec()).unwrap()),
            Err(fault) => Err(fault.reason),
        }
    }

    type Case<'a> = (&'a [(&'static str, &'a str)], Result<&'a str, &'a str>);

    const A: &str = "authorization";
    const X: &str = "x-api-key";

    #[test]
    fn fa1_cw1_s12_exactly_one_credential_counts() {
        let long = "k".repeat(513);
        let long_bearer = format!("Bearer {long}");
        let cases: &[Case<'_>] = &[
            (&[], Err("credential_missing")),
            (&[(A, "Bearer key")], Ok("key")),
            (&[(A, "bearer key")], Ok("key")),
            (&[(A, "BEARER key")], Ok("key")),
            (&[(A, "Bearer   key")], Ok("key")),
            (&[(A, "Bearer kEy=")], Ok("kEy=")),
            (&[(A, "Bearer")], Err("credential_malformed")),
            (&[(A, "Bearer ")], Err("credential_malformed")),
            (&[(A, "Bearer  ")], Err("credential_malformed")),
            (&[(A, "Bearerkey")], Err("credential_malformed")),
            (&[(A, "Bearer\tkey")], Err("credential_malformed")),
            (&[(A, "Bearer key junk")], Err("credential_malformed")),
            (&[(A, "Bearer key ")], Err("credential_malformed")),
            (&[(A, "Bearer key,key")], Err("credential_malformed")),
            (
                &[(A, "Bearer key, Bearer key")],
                Err("credential_malformed"),
            ),
            (&[(A, &long_bearer)], Err("credential_malformed")),
            (&[(A, "Basic key")], Err("authorization_scheme")),
            (&[(A, "key")], Err("authorization_scheme")),
            (&[(A, "")], Err("authorization_scheme")),
            (
                &[(A, "Bearer key"), (A, "Bearer key")],
                Err("credential_repeated"),
            ),
            (
                &[(A, "Bearer key"), (A, "Basic x")],
                Err("credential_repeated"),
            ),
            (&[(X, "key")], Ok("key")),
            (&[(X, "")], Err("credential_malformed")),
            (&[(X, "a b")], Err("credential_malformed")),
            (&[(X, "a,b")], Err("credential_malformed")),
            (&[(X, &long)], Err("credential_malformed")),
            (&[(X, "key"), (X, "key")], Err("credential_repeated")),
            (&[(X, "key"), (X, "other")], Err("credential_repeated")),
            (&[(X, "key"), (A, "Bearer key")], Ok("key")),
            (
                &[(X, "key"), (A, "Bearer other")],
                Err("credentials_differ"),
            ),
            (&[(X, "key"), (A, "Bearer KEY")], Err("credentials_differ")),
            (&[(X, "key"), (A, "Basic x")], Err("authorization_scheme")),
            (&[(X, "key"), (A, "Bearerkey")], Err("credential_malformed")),
        ];
        for (lines, expected) in cases {
            let mut headers = headers(lines);
            let found = taken(&mut headers, &auth());
            assert_eq!(
                found.as_deref().map_err(|reason| *reason),
                *expected,
                "{lines:?}"
            );
            assert!(headers.is_empty(), "{lines:?}");
        }
    }

    #[test]
    fn an_authorization_of_another_scheme_can_be_passed_on() {
        let auth = Auth {
            pass_foreign_authorization: true,
            ..auth()
        };
        let mut kept = headers(&[(X, "key"), (A, "Basic x")]);
        assert_eq!(taken(&mut kept, &auth).as_deref(), Ok("key"));
        assert_eq!(kept, headers(&[(A, "Basic x")]));
        let cases: [(&[_], _); 4] = [
            (&[(A, "Basic x")], "authorization_scheme"),
            (&[(X, "key"), (A, "Bearerkey")], "credential_malformed"),
            (
                &[(X, "key"), (A, "Basic x"), (A, "Basic x")],
                "credential_repeated",
            ),
            (
                &[(X, "key"), (X, "key"), (A, "Basic x")],
                "credential_repeated",
            ),
        ];
        for (lines, reason) in cases {
            let mut headers = headers(lines);
            assert_eq!(taken(&mut headers, &auth), Err(reason), "{lines:?}");
            assert!(headers.is_empty(), "{lines:?}");
        }
    }

    #[test]
    fn a_place_that_is_switched_off_is_emptied_all_the_same() {
        let no_api_key = Auth {
            x_api_key: false,
            ..auth()
        };
        let mut both = headers(&[(X, "other"), (A, "Bearer key")]);
        assert_eq!(taken(&mut both, &no_api_key).as_deref(), Ok("key"));
        assert!(both.is_empty());
        let mut alone = headers(&[(X, "key")]);
        assert_eq!(taken(&mut alone, &no_api_key), Err("credential_missing"));
        assert!(alone.is_empty());
        let no_bearer = Auth {
            bearer: false,
            ..auth()
        };
        let mut bearer = headers(&[(A, "Bearer key")]);
        assert_eq!(taken(&mut bearer, &no_bearer), Err("authorization_scheme"));
        assert!(bearer.is_empty());
    }

    #[test]
    fn public_routes_lose_credentials_too() {
        let mut all = headers(&[(X, "key"), (X, "key"), (A, "Bearer key"), (A, "Basic x")]);
        discard(&mut all, &auth(), false);
        assert!(all.is_empty());
        let passing = Auth {
            pass_foreign_authorization: true,
            ..auth()
        };
        let mut foreign = headers(&[(X, "key"), (A, "Basic x")]);
        discard(&mut foreign, &passing, false);
        assert_eq!(foreign, headers(&[(A, "Basic x")]));
        let mut bearer = headers(&[(A, "Bearer key")]);
        discard(&mut bearer, &passing, false);
        assert!(bearer.is_empty());
    }

    #[test]
    fn looking_takes_nothing() {
        let headers = headers(&[(A, "Bearer a"), (A, "Basic b"), (X, "c"), (X, "")]);
        let auth = auth();
        let seen: Vec<&[u8]> = look(&headers, &auth).collect();
        assert_eq!(seen, [b"a", b"c"]);
        assert_eq!(headers.len(), 4);
    }

    /// A text is looked at many bytes at once; none of them is looked over, wherever it stands.
    #[test]
    fn each_byte_of_a_text_counts() {
        for length in 1..100 {
            let mut text = vec![b'k'; length];
            for at in 0..length {
                for byte in 0..=255 {
                    text[at] = byte;
                    let fits = (0x21..=0x7e).contains(&byte) && byte != 0x2c;
                    assert_eq!(is_key_text(&text, 100), fits, "{byte} at {at} of {length}");
                }
                text[at] = b'k';
            }
        }
        assert!(!is_key_text(b"", 100));
        assert!(is_key_text(&[b'k'; 100], 100) && !is_key_text(&[b'k'; 101], 100));
    }

    #[test]
    fn a_credential_is_never_printed() {
        let mut headers = headers(&[(X, "key")]);
        let credential = take(&mut headers, None, &auth()).unwrap();
        assert_eq!(format!("{credential:?}"), "Credential(***)");
    }
}
