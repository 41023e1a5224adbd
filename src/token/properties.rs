//! What must hold of any text as a token and as a set of keys: fuzz targets and proptests call the same functions.

use crate::clock::Wall;
use crate::config::Config;
use crate::model::issuer::Algorithm;
use crate::token::claims::Claims;
use crate::token::form;
use crate::token::form::Form;
use crate::token::jwt::Jwt;
use crate::token::keys::KeySet;

/// Whatever the text: no panic; what can be read as a JWT has the form of one, and is made of what it came as; what its claims are worth ends
/// after now.
pub(crate) fn tokens(data: &[u8]) {
    let config = Config::for_tests(
        "[issuers.main]\nissuer = \"i\"\naudience = [\"a\"]\njwks_file = \"k\"\nrequired_claims = []\n",
    );
    let Ok(jwt) = Jwt::read(data) else {
        return;
    };
    assert_eq!(form::of(data, &config), Form::Jwt);
    assert!(data.starts_with(jwt.signed()));
    let issuer = &config.issuers[0];
    if jwt.check_header(issuer).is_ok() {
        assert!(jwt.key_id().is_none_or(|id| id.len() <= 256));
    }
    let wall = Wall(1_700_000_000_000_000);
    if let Ok(claims) = Claims::check(issuer, jwt.claims(), wall, Some(&config.sessions)) {
        assert!(claims.expires > wall);
        assert_eq!(jwt.issuer().is_some(), jwt.claims().get("iss").is_some());
    }
}

/// Whatever the text: no panic, and a set that is taken has a key.
pub(crate) fn key_sets(data: &[u8]) {
    match KeySet::read(data, &Algorithm::ALL, 1) {
        Ok(set) => assert!(!set.is_empty() && set.is_of(data)),
        Err(why) => assert!(!why.is_empty()),
    }
}

#[cfg(test)]
mod tests {
    use base64::Engine;
    use base64::engine::general_purpose::URL_SAFE_NO_PAD;
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn any_text_is_a_token_or_is_not(data in prop::collection::vec(any::<u8>(), 0..200)) {
            tokens(&data);
            key_sets(&data);
        }

        #[test]
        fn any_json_in_three_parts_is_a_token_or_is_not(
            header in "\\{(\"(alg|kid|typ|crit)\":(\"(RS256|at\\+jwt|x)\"|1|null),?){0,4}\\}",
            claims in "\\{(\"(iss|aud|exp|nbf|sub|tenant)\":(\"(i|a|x)\"|1[0-9]{9}|1e[0-9]{1,3}|-1|null|\\[\\]),?){0,6}\\}",
        ) {
            let part = |text: &str| URL_SAFE_NO_PAD.encode(text);
            tokens(format!("{}.{}.AAAA", part(&header), part(&claims)).as_bytes());
        }

        #[test]
        fn any_key_of_the_right_names_is_taken_or_is_not(
            kty in "(RSA|EC|OKP|oct)", crv in "(P-256|P-384|Ed25519|X25519)",
            n in "[A-Za-z0-9_-]{0,400}", x in "[A-Za-z0-9_-]{40,70}", e in "(AQAB|AA|Ag|AQ|)",
        ) {
            let jwk = format!(
                r#"{{"keys":[{{"kty":"{kty}","crv":"{crv}","n":"{n}","e":"{e}","x":"{x}","y":"{x}"}}]}}"#
            );
            key_sets(jwk.as_bytes());
        }
    }
}
