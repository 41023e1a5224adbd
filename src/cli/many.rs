//! Revoking many keys at once: which are meant, and how many they are.

use std::io;
use std::io::BufRead;

use crate::model::key::KeyId;
use crate::model::key_text;
use crate::store::KeyFilter;
use crate::store::Outcome;
use crate::store::VerbError;

/// The filter, with what standard input lists when that was asked for.
///
/// # Errors
/// Standard input cannot be read, or lists nothing.
pub(super) fn which(mut filter: KeyFilter, stdin: bool) -> Result<KeyFilter, VerbError> {
    if stdin {
        let read = listed(io::stdin().lock());
        let keys = read.map_err(|error| {
            VerbError::refused(format!("standard input cannot be read: {error}"))
        })?;
        if keys.is_empty() {
            return Err(VerbError::refused(
                "standard input lists no key: write ids or keys, one to a line",
            ));
        }
        filter.keys = Some(keys);
    }
    Ok(filter)
}

/// Ids as they are, and of everything else the digest: what may be a key goes no further.
fn listed(input: impl BufRead) -> io::Result<Vec<String>> {
    let mut keys = Vec::new();
    for line in input.lines() {
        let line = line?;
        let text = line.trim();
        if text.is_empty() {
            continue;
        }
        let stands_for_itself = KeyId::parse(text).is_ok() || text.starts_with("sha256:");
        keys.push(match stands_for_itself {
            true => text.to_owned(),
            false => key_text::digest_of(text.as_bytes()).hex(),
        });
    }
    Ok(keys)
}

/// How many of the listed keys there are to end, in words.
pub(super) fn count(listed: &Outcome) -> String {
    let Outcome::Keys { keys } = listed else {
        return "keys".to_owned();
    };
    let ended = |status: &str| matches!(status, "revoked" | "deleted");
    match keys.iter().filter(|key| !ended(&key.status)).count() {
        1 => "1 key".to_owned(),
        many => format!("{many} keys"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    // FF19: after a breach the list at hand is one of keys; they are sent on as digests only.
    #[test]
    fn keys_are_sent_on_as_digests() {
        let text = "key_0aZ9bY8cX7dW\n\n abc \r\nsha256:00\n";
        let keys = listed(text.as_bytes()).unwrap();
        let abc = "sha256:ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad";
        assert_eq!(keys, ["key_0aZ9bY8cX7dW", abc, "sha256:00"]);
    }
}
