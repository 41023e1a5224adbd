//! What a credential is, by its form alone.
//!
//! A key is what begins as keys of this gateway do, `PREFIX_ENVIRONMENT_`; a JWT is three parts in base64url, joined by dots; all else is
//! opaque. Nobody is asked before that is decided, so that no mistyped key ever travels to an identity provider (PB2).

use crate::config::Config;

/// What a credential looks like.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Form {
    /// As keys that this gateway makes, well or badly written.
    Key,
    /// Three parts in base64url.
    Jwt,
    /// As neither: a key that was issued elsewhere, or a token that only its issuer can read.
    Other,
}

/// What this text looks like.
#[must_use]
pub fn of(text: &[u8], config: &Config) -> Form {
    if is_key(text, config) {
        return Form::Key;
    }
    match is_jwt(text) {
        true => Form::Jwt,
        false => Form::Other,
    }
}

/// Whether this text begins as keys of this gateway do: a few bytes tell.
#[must_use]
pub fn is_key(text: &[u8], config: &Config) -> bool {
    let prefixes = [&config.keys.secret_prefix, &config.keys.public_prefix];
    prefixes.iter().any(|prefix| begins(text, prefix, config))
}

fn begins(text: &[u8], prefix: &str, config: &Config) -> bool {
    let word = |text: &[u8], word: &str| {
        text.strip_prefix(word.as_bytes())
            .is_some_and(|rest| rest.first() == Some(&b'_'))
    };
    let Some(rest) = text.get(prefix.len() + 1..) else {
        return false;
    };
    word(text, prefix) && config.environments.iter().any(|name| word(rest, name))
}

/// Three parts, none empty, all of base64url without padding.
fn is_jwt(text: &[u8]) -> bool {
    let mut parts = 0;
    for part in text.split(|byte| *byte == b'.') {
        parts += 1;
        let in_base64 = |byte: &u8| byte.is_ascii_alphanumeric() || b"-_".contains(byte);
        if part.is_empty() || parts > 3 || !part.iter().all(in_base64) {
            return false;
        }
    }
    parts == 3
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pb2_the_form_alone_decides() {
        let config = Config::for_tests("[key_format]\nsecret_prefix = \"pb\"\n");
        let cases = [
            ("pb_live_zQWBuTSOoRi4A9spHcVY5ncnsDkxkJ0mLq17", Form::Key),
            ("pb_live_", Form::Key),
            ("pb_test_short", Form::Key),
            ("fp_live_a.b.c", Form::Key),
            ("pb_prod_x", Form::Other),
            ("pb", Form::Other),
            ("pb_", Form::Other),
            ("", Form::Other),
            ("eyJhbGciOiJSUzI1NiJ9.e30.c2ln", Form::Jwt),
            ("a.b.c", Form::Jwt),
            ("a.b.", Form::Other),
            (".b.c", Form::Other),
            ("a..c", Form::Other),
            ("a.b", Form::Other),
            ("a.b.c.d", Form::Other),
            ("a.b.c.d.e", Form::Other),
            ("a.b.c=", Form::Other),
            ("a+.b.c", Form::Other),
            ("0b5de7c0-8d0a-4d1c", Form::Other),
        ];
        for (text, form) in cases {
            assert_eq!(of(text.as_bytes(), &config), form, "{text}");
        }
    }
}
