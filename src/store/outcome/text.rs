//! The text of a key, shown once.

use std::fmt;

use serde::Deserialize;
use serde::Serialize;
use zeroize::Zeroize;

/// The text of a key on its one way to whoever asked for it (FA4). Wiped when dropped; `Debug` shows nothing.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct KeyText(String);

impl KeyText {
    /// Takes a text over.
    #[must_use]
    pub fn new(text: String) -> KeyText {
        KeyText(text)
    }

    /// The text: only for the one answer that shows it.
    #[must_use]
    pub fn reveal(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for KeyText {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str("KeyText(***)")
    }
}

impl Drop for KeyText {
    fn drop(&mut self) {
        self.0.zeroize();
    }
}

#[cfg(test)]
mod tests {
    use super::KeyText;

    #[test]
    fn a_key_text_never_shows_in_debug() {
        let text = KeyText::new("fp_live_secret".to_owned());
        assert_eq!(format!("{text:?}"), "KeyText(***)");
    }
}
