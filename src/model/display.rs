//! Text that people wrote for people to read: what of it nobody sees, or what moves all that stands around it (S27).

use std::borrow::Cow;

/// Why a text is no name of anything; in words, without the text itself.
///
/// # Errors
/// It is empty or too long, or one of its characters cannot be seen.
pub fn check(what: &str, text: &str, characters_max: usize) -> Result<(), String> {
    let count = text.chars().count();
    if !(1..=characters_max).contains(&count) {
        return Err(format!(
            "{what} has 1 to {characters_max} characters and no control characters; this one has {count}"
        ));
    }
    match text.chars().position(is_hidden) {
        None => Ok(()),
        Some(at) => {
            let code = text.chars().nth(at).map_or(0, u32::from);
            Err(format!(
                "{what} has no control characters, direction marks or others that nobody sees; character {} is U+{code:04X}",
                at + 1
            ))
        }
    }
}

/// A text as it is shown: what nobody would see, or would see in the wrong order, as `\u{202e}`. Names from before such characters were refused may
/// have them.
#[must_use]
pub fn shown(text: &str) -> Cow<'_, str> {
    if !text.contains(is_hidden) {
        return Cow::Borrowed(text);
    }
    let mut out = String::with_capacity(text.len() + 8);
    for character in text.chars() {
        match is_hidden(character) {
            true => out.extend(character.escape_unicode()),
            false => out.push(character),
        }
    }
    Cow::Owned(out)
}

/// Whether a character moves a cursor, turns the direction of what follows, or takes no room: Unicode's control and format characters (but for those
/// few that are signs over digits), line and paragraph separators, and fillers.
#[must_use]
pub fn is_hidden(character: char) -> bool {
    let others = matches!(
        character,
        '\u{ad}'
            | '\u{34f}'
            | '\u{61c}'
            | '\u{115f}'
            | '\u{1160}'
            | '\u{17b4}'
            | '\u{17b5}'
            | '\u{180b}'..='\u{180f}'
            | '\u{200b}'..='\u{200f}'
            | '\u{2028}'..='\u{202e}'
            | '\u{2060}'..='\u{206f}'
            | '\u{3164}'
            | '\u{feff}'
            | '\u{ffa0}'
            | '\u{fff0}'..='\u{fffb}'
            | '\u{1bca0}'..='\u{1bca3}'
            | '\u{1d173}'..='\u{1d17a}'
            | '\u{e0000}'..='\u{e0fff}'
    );
    character.is_control() || others
}

#[cfg(test)]
mod tests {
    use super::*;

    // S27: nothing that a terminal or a page would obey, or show as something else.
    #[test]
    fn s27_names_hold_only_what_can_be_seen() {
        for fine in [
            "CI",
            "Zoë & Co",
            "日本語",
            "\u{5d0}\u{5d1}",
            "\u{627}\u{644}",
            "\u{2764}\u{fe0f}",
        ] {
            assert_eq!(check("a name", fine, 128), Ok(()), "{fine}");
            assert!(matches!(shown(fine), Cow::Borrowed(same) if same == fine));
        }
        let marks = "\u{200e}\u{200f}\u{61c}\u{202a}\u{202b}\u{202c}\u{202d}\u{202e}\u{2066}\u{2067}\u{2068}\u{2069}";
        let others = "\0\n\t\u{1b}\u{7f}\u{9b}\u{ad}\u{200b}\u{200c}\u{200d}\u{2028}\u{2029}\u{2060}\u{feff}\u{e0041}";
        for odd in marks.chars().chain(others.chars()) {
            let name = format!("CI{odd}gpj");
            let why = check("a name", &name, 128).unwrap_err();
            let code = format!("character 3 is U+{:04X}", u32::from(odd));
            assert!(why.ends_with(&code), "{why}");
            assert!(!why.contains(is_hidden), "{why:?}");
            assert_eq!(
                shown(&name),
                format!("CI\\u{{{:x}}}gpj", u32::from(odd)),
                "{odd:?}"
            );
        }
        assert!(check("a name", "", 128).is_err());
        assert!(check("a name", &"x".repeat(129), 128).is_err());
        assert_eq!(check("a name", &"é".repeat(128), 128), Ok(()));
    }
}
