//! Taking over keys that were issued elsewhere: all of them, or none and every reason.

use std::collections::HashMap;
use std::collections::HashSet;

use crate::model::key::ApiKey;
use crate::model::key::Digest;
use crate::model::key_text;
use crate::store::NewKey;
use crate::store::outcome::Failure;
use crate::store::outcome::Outcome;
use crate::store::request::ImportedKey;
use crate::store::sqlite::DigestUse;
use crate::store::sqlite::Write;
use crate::store::verbs::Change;
use crate::store::verbs::Prepared;
use crate::store::verbs::Scene;
use crate::store::verbs::create;
use crate::store::verbs::create::Issued;
use crate::store::verbs::rules;

/// How many reasons are told at once.
const REASONS_MAX: usize = 100;

/// Shortest and longest key that is taken over by value: shorter ones can be guessed, longer ones are no keys.
const LENGTHS: std::ops::RangeInclusive<usize> = 16..=512;

/// Longest beginning of a foreign key that is kept for lists.
const PREFIX_MAX: usize = 16;

/// So many characters of a key that is taken over stay unknown, whatever is kept of it for lists.
const HIDDEN_MIN: usize = 12;

/// Imports keys by value or by digest. `file` stands before the line in each reason.
pub(super) fn import(
    scene: &Scene<'_>,
    file: &str,
    keys: &[ImportedKey],
) -> Result<Prepared, Failure> {
    let mut reasons = Vec::new();
    let mut taken: Vec<ApiKey> = Vec::with_capacity(keys.len());
    let mut lines: HashMap<Digest, u64> = HashMap::new();
    let mut ids = HashSet::new();
    for row in keys {
        let made = one(scene, row, &lines).and_then(|mut key| {
            while !ids.insert(key.id) {
                key.id = create::fresh_id(scene)?;
            }
            Ok(key)
        });
        match made {
            Ok(key) => {
                lines.insert(key.digest, row.line);
                taken.push(key);
            }
            Err(Failure::Refused(why) | Failure::Usage(why)) => {
                reasons.push(format!("{file}:{}: {}", row.line, without_fields(why, row)));
            }
            Err(failure) => return Err(failure),
        }
    }
    if !reasons.is_empty() {
        return Err(Failure::refused(told(reasons)));
    }
    let said = format!("{} keys are imported and in force", taken.len());
    Ok(Prepared {
        writes: (taken.iter())
            .map(|key| Write::InsertKey(Box::new(key.clone())))
            .collect(),
        outcome: Outcome::KeysChanged {
            ids: taken.iter().map(|key| key.id.to_string()).collect(),
            said,
            notes: Vec::new(),
        },
        change: Change::Keys {
            put: taken,
            gone: Vec::new(),
        },
    })
}

fn told(mut reasons: Vec<String>) -> String {
    let count = reasons.len();
    if count > REASONS_MAX {
        reasons.truncate(REASONS_MAX);
        reasons.push(format!("and {} more", count - REASONS_MAX));
    }
    format!("nothing was imported:\n{}", reasons.join("\n"))
}

fn one(
    scene: &Scene<'_>,
    row: &ImportedKey,
    lines: &HashMap<Digest, u64>,
) -> Result<ApiKey, Failure> {
    let known = known(scene, row)?;
    if let Some(line) = lines.get(&known.digest) {
        return Err(Failure::refused(format!(
            "this key stands in line {line} already"
        )));
    }
    fresh(scene, &known.digest)?;
    // A lifetime that somebody else promised is kept, whatever the rules for new keys say.
    let expires = rules::end(rules::asked(&row.key)?, scene.now)?;
    create::record(scene, &row.key, known, expires)
}

/// The reason without what the row holds: where columns are mixed up or a quote is left open, a key stands anywhere, and reasons are
/// logged. What is too short for a key stays, so that most mistakes can still be read.
fn without_fields(mut why: String, row: &ImportedKey) -> String {
    let NewKey {
        tenant,
        name,
        kind,
        environment,
        plan,
        scopes,
        quota,
        burst,
        subject,
        origins,
        cidrs,
        note,
        ..
    } = &row.key;
    let alone = [environment, plan, quota, burst, subject, note, &row.sha256];
    let fields = [tenant, name, kind].into_iter();
    let fields = fields.chain(alone.into_iter().flatten());
    let fields = fields.chain(scopes.iter().flatten());
    for field in fields.chain(origins).chain(cidrs) {
        if field.len() >= *LENGTHS.start() {
            why = why.replace(&field.escape_debug().to_string(), "…");
            why = why.replace(field.as_str(), "…");
        }
    }
    why
}

/// Digest and shown parts of a row; the text itself goes no further.
fn known(scene: &Scene<'_>, row: &ImportedKey) -> Result<Issued, Failure> {
    match (&row.value, &row.sha256) {
        (Some(text), None) => by_value(scene, text.reveal()),
        (None, Some(digest)) => {
            let hex = digest.strip_prefix("sha256:").unwrap_or(digest);
            Ok(Issued {
                digest: Digest::from_hex(hex).map_err(Failure::refused)?,
                prefix: String::new(),
                last_four: String::new(),
            })
        }
        _ => Err(Failure::refused(
            "a key has a value or a sha256, one of the two",
        )),
    }
}

fn by_value(scene: &Scene<'_>, text: &str) -> Result<Issued, Failure> {
    if !LENGTHS.contains(&text.len()) || !text.bytes().all(|byte| byte.is_ascii_graphic()) {
        return Err(Failure::refused(
            "a key is 16 to 512 visible ASCII characters without spaces",
        ));
    }
    let format = scene.declared.format;
    let prefixes = [format.secret_prefix.as_str(), format.public_prefix.as_str()];
    let shape = key_text::shape(text.as_bytes(), &prefixes, scene.declared.environments);
    if shape == key_text::Shape::OursBadChecksum {
        return Err(Failure::refused(
            "it looks like a key of this gateway, but its checksum is wrong: it would never be admitted",
        ));
    }
    let prefix_end = text.rfind('_').map_or(0, |place| place + 1);
    let short = prefix_end <= PREFIX_MAX && prefix_end + 4 + HIDDEN_MIN <= text.len();
    let prefix = match short || shape == key_text::Shape::Ours {
        true => &text[..prefix_end],
        false => "",
    };
    Ok(Issued {
        digest: key_text::digest_of(text.as_bytes()),
        prefix: prefix.to_owned(),
        last_four: text[text.len() - 4..].to_owned(),
    })
}

fn fresh(scene: &Scene<'_>, digest: &Digest) -> Result<(), Failure> {
    if let Some(key) = scene.declared.keys.iter().find(|key| key.digest == *digest) {
        return Err(Failure::refused(format!(
            "this key is declared in gateway.toml as {}",
            key.id
        )));
    }
    match scene.store.digest_use(digest)? {
        DigestUse::Free => Ok(()),
        DigestUse::Key(id, status) if status.is_final() => Err(Failure::refused(format!(
            "this key was revoked for good as {id}"
        ))),
        DigestUse::Key(id, _) => Err(Failure::refused(format!("this key is {id} already"))),
        DigestUse::Retired(id, _) => Err(Failure::refused(format!(
            "this key ended for good when {id} was regenerated"
        ))),
    }
}
