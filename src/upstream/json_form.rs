//! A token request in JSON on its way to an identity provider that takes forms alone, as RFC 6749 has them (PB6, C-24).

use std::fmt;

use bytes::BytesMut;
use http::HeaderValue;
use http::header;
use http_body::Body;
use serde::Deserialize;
use serde::Deserializer;
use serde::de::Error;
use serde::de::MapAccess;
use serde::de::Visitor;

use crate::upstream::Failure;
use crate::upstream::FailureKind;
use crate::upstream::forward::Exchange;
use crate::upstream::headers;
use crate::upstream::hold::hold;
use crate::upstream::inject;
use crate::upstream::prepared::Prepared;

const FORM: HeaderValue = HeaderValue::from_static("application/x-www-form-urlencoded");

/// Turns a JSON body into the form that says the same; a form, and a request without a body, pass as they are.
///
/// # Errors
/// A body of another type, or one that is not one flat object of texts, whole numbers and booleans: nobody has seen it then, and nothing repeats
/// what stands in it.
pub(super) async fn turn(exchange: &Exchange<'_>, request: &mut Prepared) -> Result<(), Failure> {
    if request.body.is_end_stream() || is_form(&request.head.headers) {
        return Ok(());
    }
    if !inject::is_json(&request.head.headers) || inject::is_encoded(&request.head.headers) {
        return Err(exchange.type_unfit());
    }
    let body = hold(exchange, BYTES_MAX, request).await?;
    let form = form_of(&body).map_err(|why| Failure {
        kind: FailureKind::FormUnfit,
        server: None,
        detail: why.to_owned(),
    })?;
    headers::restate_length(&mut request.head.headers, form.len() as u64);
    request.head.headers.insert(header::CONTENT_TYPE, FORM);
    inject::forget_digests(&mut request.head.headers);
    request.body.begin_again(form);
    Ok(())
}

/// By its one `Content-Type`; its parameters say nothing of what a form is.
fn is_form(headers: &http::HeaderMap) -> bool {
    let mut types = headers.get_all(header::CONTENT_TYPE).iter();
    let (Some(media), None) = (types.next(), types.next()) else {
        return false;
    };
    let media = media.as_bytes().split(|byte| *byte == b';').next();
    media.is_some_and(|media| {
        media
            .trim_ascii()
            .eq_ignore_ascii_case(b"application/x-www-form-urlencoded")
    })
}

/// The form of a JSON text, in its order.
///
/// # Errors
/// Why there is none, in words that hold nothing of it.
fn form_of(body: &[u8]) -> Result<BytesMut, &'static str> {
    let text = std::str::from_utf8(body).map_err(|_| "it is not UTF-8")?;
    let mut reader = serde_json::Deserializer::from_str(text);
    let members = reader.deserialize_map(Members);
    let members = members.map_err(|_| "it is not one flat JSON object of texts, whole numbers and booleans, each name once, at most 64 of them")?;
    reader
        .end()
        .map_err(|_| "something stands behind its end")?;
    let mut form = BytesMut::with_capacity(body.len());
    for (name, value) in members {
        if !form.is_empty() {
            form.extend_from_slice(b"&");
        }
        encode(&mut form, &name);
        form.extend_from_slice(b"=");
        encode(&mut form, &value);
    }
    Ok(form)
}

/// `application/x-www-form-urlencoded`: all but letters, digits and `- . _ ~` as `%XX`, a blank included, which is `+` to some and itself to none.
fn encode(out: &mut BytesMut, text: &str) {
    const DIGITS: &[u8; 16] = b"0123456789ABCDEF";
    for byte in text.bytes() {
        match byte.is_ascii_alphanumeric() || b"-._~".contains(&byte) {
            true => out.extend_from_slice(&[byte]),
            false => out.extend_from_slice(&[
                b'%',
                DIGITS[usize::from(byte >> 4)],
                DIGITS[usize::from(byte & 15)],
            ]),
        }
    }
}

/// Names and values of a flat object.
struct Members;

impl<'de> Visitor<'de> for Members {
    type Value = Vec<(String, String)>;

    fn expecting(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str("a flat object")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
        let mut members: Vec<(String, String)> = Vec::new();
        while let Some(name) = map.next_key::<String>()? {
            // RFC 6749 section 3.2: no parameter twice; and who reads two decides which counts.
            let unfit = name.is_empty()
                || members.len() == MEMBERS_MAX
                || members.iter().any(|(other, _)| *other == name);
            if unfit {
                return Err(A::Error::custom("a name is empty or repeated"));
            }
            let Scalar(value) = map.next_value()?;
            members.push((name, value));
        }
        Ok(members)
    }
}

/// What a form can say: a text, a whole number of 64 bits in decimal digits, `true` or `false`.
struct Scalar(String);

impl<'de> Deserialize<'de> for Scalar {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Scalar, D::Error> {
        from.deserialize_any(Value)
    }
}

struct Value;

/// What is not here is refused: `null`, which a form cannot say, numbers that are written in more than one way, lists and objects.
impl Visitor<'_> for Value {
    type Value = Scalar;

    fn expecting(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str("a text, a whole number or a boolean")
    }

    fn visit_str<E: Error>(self, text: &str) -> Result<Scalar, E> {
        Ok(Scalar(text.to_owned()))
    }

    fn visit_bool<E: Error>(self, value: bool) -> Result<Scalar, E> {
        Ok(Scalar(value.to_string()))
    }

    fn visit_u64<E: Error>(self, number: u64) -> Result<Scalar, E> {
        Ok(Scalar(number.to_string()))
    }

    fn visit_i64<E: Error>(self, number: i64) -> Result<Scalar, E> {
        Ok(Scalar(number.to_string()))
    }
}

/// Bytes of a body that is turned; a token request has some hundred, and a few thousand where it carries an assertion.
const BYTES_MAX: usize = 64 * 1024;

/// Members of one; each is compared with all before it.
const MEMBERS_MAX: usize = 64;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pb6_a_flat_object_becomes_the_form_that_says_the_same() {
        let cases = [
            ("{}", ""),
            (r#"{"a":"b"}"#, "a=b"),
            (
                r#"{"grant_type":"refresh_token","scope":"read:x write:x"}"#,
                "grant_type=refresh_token&scope=read%3Ax%20write%3Ax",
            ),
            (
                r#"{"a":1,"b":-2,"c":true,"d":false,"e":""}"#,
                "a=1&b=-2&c=true&d=false&e=",
            ),
            (
                r#"{"a&b=c":"+ %/\u0000\u00e9~"}"#,
                "a%26b%3Dc=%2B%20%25%2F%00%C3%A9~",
            ),
            (" {\"a\" : \"\\ud83d\\ude00\"}\n", "a=%F0%9F%98%80"),
            (r#"{"A":"1","a":"2"}"#, "A=1&a=2"),
        ];
        for (json, form) in cases {
            let turned = form_of(json.as_bytes()).unwrap();
            assert_eq!(std::str::from_utf8(&turned), Ok(form), "{json}");
        }
    }

    #[test]
    fn what_a_form_cannot_say_is_refused_without_a_word_of_it() {
        let many: Vec<String> = (0..65).map(|at| format!("\"n{at}\":1")).collect();
        let many = format!("{{{}}}", many.join(","));
        let cases = [
            "",
            "secret",
            "\"secret\"",
            r#"["secret"]"#,
            r#"{"secret":null}"#,
            r#"{"secret":["secret"]}"#,
            r#"{"secret":{"secret":"secret"}}"#,
            r#"{"secret":1.5}"#,
            r#"{"secret":1e3}"#,
            r#"{"secret":18446744073709551616}"#,
            r#"{"secret":"1","secret":"1"}"#,
            r#"{"secret":"1","\u0073ecret":"2"}"#,
            r#"{"":"secret"}"#,
            r#"{"secret":"1",}"#,
            r#"{"secret":"1"}{}"#,
            r#"{"secret":"1"} secret"#,
            r#"{"secret":"\ud83d"}"#,
            "{\"secret\":\"\n\"}",
            "\u{feff}{}",
            "{'secret':1}",
            many.as_str(),
        ];
        for json in cases {
            let why = form_of(json.as_bytes()).unwrap_err();
            assert!(!why.contains("secret"), "{json}");
        }
        assert!(form_of(b"{\"a\":\"\xff\"}").is_err());
        let most = many.replace(",\"n64\":1", "");
        assert!(form_of(most.as_bytes()).is_ok());
    }
}
