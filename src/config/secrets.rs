//! Where a secret is: `env:NAME` or `file:PATH`, never in gateway.toml itself.

use std::path::Path;

use zeroize::Zeroizing;

use crate::config::settings::path;
use crate::config::values::Wrong;
use crate::config::values::wrong;
use crate::model::issuer::SecretSource;

/// `env:NAME` or `file:PATH`. No message repeats the text: it may be the secret itself.
pub(super) fn source(text: &str, base: &Path) -> Result<SecretSource, Wrong> {
    match (text.strip_prefix("env:"), text.strip_prefix("file:")) {
        (Some(name), _) if !name.is_empty() => Ok(SecretSource::Env(name.to_owned())),
        (_, Some(file)) => path(base, file).map(SecretSource::File),
        _ => wrong(
            "a secret does not stand in this file",
            "write \"env:NAME\" for an environment variable or \"file:PATH\" for a file that others cannot read",
        ),
    }
}

/// As it stands in the file.
pub(super) fn show(source: &SecretSource) -> String {
    match source {
        SecretSource::Env(name) => format!("env:{name}"),
        SecretSource::File(path) => format!("file:{}", path.display()),
    }
}

/// The secret, as it is now. Blocking.
///
/// # Errors
/// It is not where the file says; the secret itself is never repeated.
pub fn read(source: &SecretSource) -> Result<Zeroizing<String>, String> {
    let read = match source {
        SecretSource::Env(name) => {
            std::env::var(name).map_err(|_| format!("the environment has no {name}"))
        }
        SecretSource::File(path) => {
            std::fs::read_to_string(path).map_err(|error| format!("{}: {error}", path.display()))
        }
    };
    let read = Zeroizing::new(read?);
    let text = read.strip_suffix('\n').unwrap_or(&read);
    match text.is_empty() {
        true => Err("the secret is empty".to_owned()),
        false => Ok(Zeroizing::new(text.to_owned())),
    }
}
