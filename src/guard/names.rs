//! Is this member name, in whatever spelling JSON allows, one that the guard knows? And is this value the caller's tenant?

use std::sync::Arc;

use crate::model::guard::Member;

/// The members that a filter knows, made ready to be asked for each name of a body.
#[derive(Clone, Debug)]
pub(super) struct Names {
    members: Arc<[Member]>,
    /// Bit n is set when a member's name has n bytes: most names of a body differ already in that.
    lengths: u128,
    /// The longest spelling that a known name can have, in bytes: each of its bytes as `\u0074`.
    spelling_max: usize,
    /// Whether letters of either case are the same, as for decoders that fold them.
    fold: bool,
}

/// A spelling that is no JSON text.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Misspelt;

impl Names {
    pub(super) fn new(members: Arc<[Member]>, fold: bool) -> Names {
        let lengths = members
            .iter()
            .fold(0, |all, member| all | bit(member.name.len()));
        let longest = members.iter().map(|member| member.name.len()).max();
        Names {
            lengths,
            spelling_max: 6 * longest.unwrap_or(0),
            fold,
            members,
        }
    }

    pub(super) fn member(&self, index: usize) -> &Member {
        &self.members[index]
    }

    /// Longest spelling worth keeping: a longer one is no known name.
    pub(super) fn spelling_max(&self) -> usize {
        self.spelling_max
    }

    /// The member of this name, spelt without a backslash.
    #[inline]
    pub(super) fn find_plain(&self, name: &[u8]) -> Option<usize> {
        if self.fold {
            return self.find_folded(name);
        }
        if self.lengths & bit(name.len()) == 0 {
            return None;
        }
        self.members
            .iter()
            .position(|member| member.name.as_bytes() == name)
    }

    /// The member of this name, spelt with backslashes perhaps.
    pub(super) fn find(&self, spelling: &[u8]) -> Result<Option<usize>, Misspelt> {
        if spelling.len() > self.spelling_max {
            return Ok(None);
        }
        if !spelling.contains(&b'\\') {
            return Ok(self.find_plain(spelling));
        }
        let name = unescape(spelling)?;
        if self.fold && std::str::from_utf8(&name).is_err() {
            // A lone surrogate: decoders disagree about what becomes of it.
            return Err(Misspelt);
        }
        Ok(self.find_plain(&name))
    }

    /// Go's decoder takes `Tenant_ID` for `tenant_id`, and by Unicode's simple folding also the long s and the Kelvin sign.
    fn find_folded(&self, name: &[u8]) -> Option<usize> {
        if name.len() > self.spelling_max {
            return None;
        }
        let name = std::str::from_utf8(name).ok()?;
        self.members
            .iter()
            .position(|member| same_member(name, &member.name))
    }
}

/// Whether some decoder takes two names for the same member.
#[must_use]
pub fn same_member(one: &str, other: &str) -> bool {
    one.chars().map(folded).eq(other.chars().map(folded))
}

/// Whether a string's spelling says this text.
pub(super) fn says(spelling: &[u8], text: &str) -> bool {
    if !spelling.contains(&b'\\') {
        return spelling == text.as_bytes();
    }
    unescape(spelling).is_ok_and(|said| said == text.as_bytes())
}

fn bit(length: usize) -> u128 {
    u32::try_from(length)
        .ok()
        .and_then(|length| 1_u128.checked_shl(length))
        .unwrap_or(0)
}

fn folded(letter: char) -> char {
    match letter {
        '\u{17f}' => 's',
        '\u{212a}' => 'k',
        _ => letter.to_lowercase().next().unwrap_or(letter),
    }
}

/// What a string says, as UTF-8; a lone surrogate as the three bytes that UTF-8 forbids, so that it equals nothing.
fn unescape(spelling: &[u8]) -> Result<Vec<u8>, Misspelt> {
    let mut said = Vec::with_capacity(spelling.len());
    let mut rest = spelling;
    while let Some((&byte, after)) = rest.split_first() {
        rest = after;
        if byte != b'\\' {
            said.push(byte);
            continue;
        }
        let (&letter, after) = rest.split_first().ok_or(Misspelt)?;
        rest = after;
        match letter {
            b'"' | b'\\' | b'/' => said.push(letter),
            b'b' => said.push(8),
            b'f' => said.push(12),
            b'n' => said.push(b'\n'),
            b'r' => said.push(b'\r'),
            b't' => said.push(b'\t'),
            b'u' => {
                let (first, after) = unit(rest)?;
                rest = after;
                let second = rest.strip_prefix(b"\\u").and_then(|rest| unit(rest).ok());
                let pair = second.and_then(|(second, after)| Some((pair(first, second)?, after)));
                match pair {
                    Some((letter, after)) => {
                        rest = after;
                        push(&mut said, letter);
                    }
                    None => push(&mut said, u32::from(first)),
                }
            }
            _ => return Err(Misspelt),
        }
    }
    Ok(said)
}

/// Four hexadecimal digits, and what follows them.
fn unit(rest: &[u8]) -> Result<(u16, &[u8]), Misspelt> {
    let (digits, rest) = rest.split_at_checked(4).ok_or(Misspelt)?;
    let mut unit = 0;
    for digit in digits {
        let digit = char::from(*digit).to_digit(16).ok_or(Misspelt)?;
        unit = unit << 4 | u16::try_from(digit).unwrap_or(0);
    }
    Ok((unit, rest))
}

/// The character that two halves make (RFC 8259 section 7).
fn pair(high: u16, low: u16) -> Option<u32> {
    let is_pair = (0xd800..0xdc00).contains(&high) && (0xdc00..0xe000).contains(&low);
    is_pair.then(|| 0x10000 + (u32::from(high & 0x3ff) << 10 | u32::from(low & 0x3ff)))
}

fn push(said: &mut Vec<u8>, code: u32) {
    match char::from_u32(code) {
        Some(letter) => said.extend_from_slice(letter.encode_utf8(&mut [0; 4]).as_bytes()),
        None => said.extend(
            [
                0xe0 | code >> 12,
                0x80 | code >> 6 & 0x3f,
                0x80 | code & 0x3f,
            ]
            .map(|byte| u8::try_from(byte).unwrap_or(0)),
        ),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(fold: bool) -> Names {
        let members = ["tenant_id", "größe", "k"].map(|name| Member {
            name: name.to_owned(),
            remove: true,
            watch: false,
        });
        Names::new(Arc::from(members), fold)
    }

    #[test]
    fn a_name_is_found_in_every_spelling() {
        for spelling in [
            "tenant_id",
            r"\u0074enant_id",
            r"t\u0065nant\u005fid",
            r"\u0074\u0065\u006E\u0061\u006e\u0074\u005F\u0069\u0064",
        ] {
            assert_eq!(names(false).find(spelling.as_bytes()), Ok(Some(0)));
        }
        assert_eq!(
            names(false).find(r"gr\u00f6\u00dfe".as_bytes()),
            Ok(Some(1))
        );
        for other in [
            "",
            "Tenant_id",
            "tenant_i",
            "tenant_id ",
            r"tenant\/id",
            r"\ud800",
            r"tenant_id\u0000",
        ] {
            assert_eq!(names(false).find(other.as_bytes()), Ok(None), "{other}");
        }
        for misspelt in [r"tenant_\x64", r"\u00", r"\u00zz", "\\"] {
            assert_eq!(names(false).find(misspelt.as_bytes()), Err(Misspelt));
        }
    }

    #[test]
    fn a_folding_search_finds_what_folding_decoders_find() {
        for spelling in ["TENANT_ID", "Tenant_Id", r"\u0054enant_ID"] {
            assert_eq!(names(true).find(spelling.as_bytes()), Ok(Some(0)));
        }
        assert_eq!(names(true).find("\u{212a}".as_bytes()), Ok(Some(2)));
        assert_eq!(names(true).find(r"\u212a".as_bytes()), Ok(Some(2)));
        assert_eq!(names(true).find(r"\ud800".as_bytes()), Err(Misspelt));
    }

    #[test]
    fn surrogates_make_one_character_or_none() {
        assert_eq!(unescape(br"\ud83d\ude00").unwrap(), "😀".as_bytes());
        for lone in [r"\ud83d", r"\ude00\ud83d", r"\ud83dx"] {
            let said = unescape(lone.as_bytes()).unwrap();
            assert!(std::str::from_utf8(&said).is_err(), "{lone}");
        }
        assert!(says(br"\u0061cme", "acme") && !says(br"\u0061cme2", "acme"));
    }
}
