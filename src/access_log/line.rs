//! The line of one request: plain ASCII, one JSON object, no key in what a client chose.

use std::io::Write;
use std::net::IpAddr;

use crate::access_log::Entry;
use crate::model::key::KeyId;

/// A text in a line is cut after this many bytes.
pub(super) const TEXT_BYTES_MAX: usize = 2048;

/// Room for an everyday line, had once for all of its texts.
const LINE_BYTES: usize = 1024;

/// Letters or digits in a row behind the last underscore of every key that this gateway makes.
const RUN_OF_KEY: usize = 30;

pub(super) fn write_entry(out: &mut Vec<u8>, stamp: &mut Stamp, entry: &Entry<'_>) {
    out.reserve(LINE_BYTES);
    out.extend_from_slice(b"{\"time\":\"");
    stamp.write(out, entry.unix_micros);
    plain(out, b"\",\"request_id\":\"", entry.request_id.as_bytes());
    out.extend_from_slice(b"\",\"client.address\":\"");
    write_address(out, entry.client);
    from_client(out, b"\",\"http.request.method\":\"", entry.method);
    from_client(out, b"\",\"server.address\":\"", entry.host);
    from_client(out, b"\",\"url.path\":\"", entry.path);
    word(out, b"\",\"network.protocol.version\":\"", entry.protocol);
    number(
        out,
        b"\",\"http.response.status_code\":",
        u64::from(entry.status),
    );
    word(out, b",\"decision\":\"", entry.decision);
    word(out, b"\",\"reason\":\"", entry.reason);
    word(out, b"\",\"would_refuse\":\"", entry.would_refuse);
    text(out, b"\",\"http.route\":\"", entry.route);
    if let Some(tenant) = entry.tenant {
        plain(out, b"\",\"tenant\":\"", tenant.as_str().as_bytes());
    }
    if let Some(KeyId(id)) = entry.key_id
        && id.iter().all(u8::is_ascii_alphanumeric)
    {
        plain(out, b"\",\"key_id\":\"key_", id);
    }
    if let Some(token) = &entry.token {
        text(out, b"\",\"credential\":\"", token.kind);
        text(out, b"\",\"token.issuer\":\"", token.issuer);
        text(out, b"\",\"token.subject\":\"", token.subject);
        text(out, b"\",\"token.client\":\"", token.client);
        text(out, b"\",\"token.id\":\"", token.jti);
    }
    text(out, b"\",\"upstream\":\"", entry.upstream);
    text(out, b"\",\"upstream.address\":\"", entry.server);
    text(out, b"\",\"detail\":\"", entry.detail);
    number(out, b"\",\"http.request.body.size\":", entry.request_bytes);
    number(out, b",\"http.response.body.size\":", entry.response_bytes);
    number(out, b",\"duration_us\":", entry.total_micros);
    number(out, b",\"upstream_us\":", entry.upstream_micros);
    word(out, b",\"end\":\"", entry.end);
    out.extend_from_slice(b"\"}\n");
}

/// An address as `Display` has it. By hand for IPv4: the formatting machinery takes 1,300 instructions.
pub(crate) fn write_address(out: &mut Vec<u8>, address: IpAddr) {
    let IpAddr::V4(address) = address else {
        let _ = write!(out, "{address}");
        return;
    };
    let (mut room, mut end) = ([b'.'; 16], 0);
    for octet in address.octets() {
        let (digits, length) = OCTETS[usize::from(octet)];
        // Whole, whatever its length: what follows is written over the rest.
        room[end..end + 4].copy_from_slice(&digits);
        end += length + 1;
    }
    out.extend_from_slice(&room[..end - 1]);
}

/// Each byte in decimal, a point behind it, and how many digits it has.
static OCTETS: [([u8; 4], usize); 256] = {
    let mut table = [([b'.'; 4], 1); 256];
    let mut octet = 0;
    while octet < table.len() {
        let digits = [octet / 100, octet / 10 % 10, octet % 10];
        let length = 1 + (octet > 9) as usize + (octet > 99) as usize;
        let mut at = 0;
        while at < length {
            table[octet].0[at] = b'0' + digits[3 - length + at] as u8;
            at += 1;
        }
        table[octet].1 = length;
        octet += 1;
    }
    table
};

/// `name` is all that stands before the value, the end of the text before it included. Each use has code of its own, which knows how long it is.
#[inline(always)]
fn number<const N: usize>(out: &mut Vec<u8>, name: &'static [u8; N], value: u64) {
    out.extend_from_slice(name);
    out.extend_from_slice(itoa::Buffer::new().format(value).as_bytes());
}

/// The same for a text. Its end is written by what follows.
#[inline(always)]
fn text<const N: usize>(out: &mut Vec<u8>, name: &'static [u8; N], value: &str) {
    if !value.is_empty() {
        out.extend_from_slice(name);
        escape(out, value);
    }
}

/// The same for a word of our own, which needs no escape.
#[inline(always)]
fn word<const N: usize>(out: &mut Vec<u8>, name: &'static [u8; N], value: &'static str) {
    if !value.is_empty() {
        out.extend_from_slice(name);
        out.extend_from_slice(value.as_bytes());
    }
}

/// The same for what can only be letters, digits and `. _ -`.
#[inline(always)]
fn plain<const N: usize>(out: &mut Vec<u8>, name: &'static [u8; N], value: &[u8]) {
    out.extend_from_slice(name);
    out.extend_from_slice(value);
}

/// Method, host and path are the client's words and may hold a key that somebody pasted there: what looks like one is masked, plain,
/// percent-encoded or encoded twice (S26).
#[inline(always)]
fn from_client<const N: usize>(out: &mut Vec<u8>, name: &'static [u8; N], value: &str) {
    let value = match may_hold_key(value) {
        true => "[redacted]",
        false => value,
    };
    text(out, name, value);
}

fn may_hold_key(value: &str) -> bool {
    let decoded = || PercentDecoded(value.bytes());
    let has = |byte| memchr::memchr(byte, value.as_bytes()).is_some();
    // Shorter than the run that a key has.
    value.len() > RUN_OF_KEY
        && ((has(b'_') && holds_key(value.bytes()))
            || (has(b'%') && (holds_key(decoded()) || holds_key(PercentDecoded(decoded())))))
}

/// Whether 30 letters or digits in a row follow an underscore: the shape of every key this gateway makes.
fn holds_key(bytes: impl Iterator<Item = u8>) -> bool {
    let mut run: Option<usize> = None;
    for byte in bytes {
        run = match (byte, run) {
            (b'_', _) => Some(0),
            (byte, Some(length)) if byte.is_ascii_alphanumeric() => Some(length + 1),
            _ => None,
        };
        if run == Some(RUN_OF_KEY) {
            return true;
        }
    }
    false
}

/// Bytes with every valid `%XX` decoded once.
#[derive(Clone)]
pub(super) struct PercentDecoded<I>(pub(super) I);

impl<I: Iterator<Item = u8> + Clone> Iterator for PercentDecoded<I> {
    type Item = u8;

    fn next(&mut self) -> Option<u8> {
        let byte = self.0.next()?;
        let mut ahead = self.0.clone();
        if byte == b'%'
            && let (Some(high), Some(low)) =
                (ahead.next().and_then(hex), ahead.next().and_then(hex))
        {
            self.0 = ahead;
            return Some(high << 4 | low);
        }
        Some(byte)
    }
}

fn hex(byte: u8) -> Option<u8> {
    char::from(byte)
        .to_digit(16)
        .and_then(|digit| u8::try_from(digit).ok())
}

/// JSON string escapes; control characters can forge neither a line nor a terminal sequence (S27). Beyond ASCII everything is escaped:
/// there are further control characters there, and ones that turn the direction of the text.
fn escape(out: &mut Vec<u8>, value: &str) {
    let mut end = value.len().min(TEXT_BYTES_MAX);
    while !value.is_char_boundary(end) {
        end -= 1;
    }
    let mut rest = &value[..end];
    // All bytes are looked at, since the processor does that many at a time; nearly every text is as it may stand. Where there are only a few, a table is
    // quicker.
    let bytes = rest.bytes();
    let is_short = rest.len() < SHORT_BYTES;
    if !match is_short {
        true => bytes.fold(false, |any, byte| any | ESCAPED[usize::from(byte)]),
        false => bytes.fold(false, |any, byte| any | needs_escape(byte)),
    } {
        out.extend_from_slice(rest.as_bytes());
        return;
    }
    while let Some(at) = rest.bytes().position(needs_escape) {
        out.extend_from_slice(&rest.as_bytes()[..at]);
        let mut after = rest[at..].chars();
        match after.next() {
            Some(character @ ('"' | '\\')) => out.extend_from_slice(&[b'\\', character as u8]),
            Some(character) => {
                for unit in character.encode_utf16(&mut [0; 2]) {
                    let _ = write!(out, "\\u{unit:04x}");
                }
            }
            None => {}
        }
        rest = after.as_str();
    }
    out.extend_from_slice(rest.as_bytes());
}

/// What `needs_escape` says.
static ESCAPED: [bool; 256] = {
    let mut table = [false; 256];
    let mut byte = 0;
    while byte < table.len() {
        table[byte] = needs_escape(byte as u8);
        byte += 1;
    }
    table
};

/// Bytes that the processor looks at in one go.
const SHORT_BYTES: usize = 16;

/// Said of the first byte of a character.
const fn needs_escape(byte: u8) -> bool {
    // No short circuits: as arithmetic it is done for many bytes at once.
    (byte.wrapping_sub(b' ') > b'~' - b' ') | (byte == b'"') | (byte == b'\\')
}

/// The time of a line, of which all but the last digits are written once a second.
#[derive(Debug)]
pub(super) struct Stamp {
    unix_seconds: u64,
    /// RFC 3339 in UTC, up to the point behind the seconds.
    text: [u8; 20],
}

impl Stamp {
    pub(super) fn new() -> Stamp {
        Stamp::of(0)
    }

    fn of(unix_seconds: u64) -> Stamp {
        let (year, month, day) = civil(unix_seconds / 86_400);
        let time = unix_seconds % 86_400;
        let mut text = *b"0000-00-00T00:00:00.";
        for (at, digits, value) in [
            (0, 4, year),
            (5, 2, month),
            (8, 2, day),
            (11, 2, time / 3_600),
            (14, 2, time / 60 % 60),
            (17, 2, time % 60),
        ] {
            decimal(&mut text[at..at + digits], value);
        }
        Stamp { unix_seconds, text }
    }

    /// Writes this time: RFC 3339 in UTC with microseconds.
    fn write(&mut self, out: &mut Vec<u8>, unix_micros: u64) {
        let (seconds, micros) = (unix_micros / 1_000_000, unix_micros % 1_000_000);
        if self.unix_seconds != seconds {
            *self = Stamp::of(seconds);
        }
        let mut digits = *b"000000Z";
        decimal(&mut digits[..6], micros);
        out.extend_from_slice(&self.text);
        out.extend_from_slice(&digits);
    }
}

/// The last digits of a number, as many as there is room for.
fn decimal(room: &mut [u8], mut value: u64) {
    for place in room.iter_mut().rev() {
        *place = b'0' + (value % 10) as u8;
        value /= 10;
    }
}

/// Year, month and day of a count of days since 1970-01-01 in the Gregorian calendar.
fn civil(days: u64) -> (u64, u64, u64) {
    let shifted = days + 719_468;
    let era = shifted / 146_097;
    let day_of_era = shifted % 146_097;
    let year_of_era =
        (day_of_era - day_of_era / 1460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let shifted_month = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * shifted_month + 2) / 5 + 1;
    let month = if shifted_month < 10 {
        shifted_month + 3
    } else {
        shifted_month - 9
    };
    let year = year_of_era + era * 400 + u64::from(month <= 2);
    (year, month, day)
}

#[cfg(test)]
pub(super) mod tests {
    use crate::model::request_id::RequestId;

    use super::*;

    pub(in crate::access_log) fn entry<'a>(path: &'a str, host: &'a str) -> Entry<'a> {
        Entry {
            unix_micros: 1_795_305_600_000_001,
            request_id: id(),
            client: IpAddr::from([127, 0, 0, 1]),
            method: "GET",
            host,
            path,
            protocol: "1.1",
            status: 200,
            decision: "forwarded",
            reason: "",
            would_refuse: "",
            route: "",
            tenant: None,
            key_id: Some(&KEY),
            token: None,
            upstream: "",
            server: "",
            detail: "",
            request_bytes: 0,
            response_bytes: 5,
            total_micros: 12,
            upstream_micros: 9,
            end: "complete",
        }
    }

    static KEY: KeyId = KeyId(*b"0123456789ab");

    fn id() -> &'static RequestId {
        Box::leak(Box::new(RequestId::own(
            *b"00000000-0000-7000-8000-000000000000",
        )))
    }

    fn line(entry: &Entry<'_>) -> String {
        let mut out = Vec::new();
        write_entry(&mut out, &mut Stamp::new(), entry);
        String::from_utf8(out).unwrap()
    }

    #[test]
    fn a_line_is_json_with_its_time() {
        let line = line(&entry("/leases", "api.example"));
        let value: serde_json::Value = serde_json::from_str(&line).unwrap();
        assert_eq!(value["time"], "2026-11-22T00:00:00.000001Z");
        assert_eq!(value["url.path"], "/leases");
        assert!(value.get("reason").is_none());
    }

    #[test]
    fn addresses_and_times_are_written_as_the_standard_library_would() {
        for address in [
            "0.0.0.0",
            "127.0.0.1",
            "203.0.113.255",
            "255.255.255.255",
            "9.10.99.100",
            "::1",
            "2001:db8::7:0",
        ] {
            let mut out = Vec::new();
            write_address(&mut out, address.parse().unwrap());
            assert_eq!(String::from_utf8(out).unwrap(), address);
        }
        for (micros, text) in [
            (0, "1970-01-01T00:00:00.000000Z"),
            (951_827_696_000_789, "2000-02-29T12:34:56.000789Z"),
            (253_402_300_799_999_999, "9999-12-31T23:59:59.999999Z"),
        ] {
            let mut out = Vec::new();
            Stamp::new().write(&mut out, micros);
            assert_eq!(String::from_utf8(out).unwrap(), text);
        }
    }

    #[test]
    fn control_characters_cannot_forge_a_line_or_colour_a_terminal() {
        let line = line(&entry("/a", "evil\"\n\u{1b}[31m"));
        assert_eq!(line.matches('\n').count(), 1);
        assert!(!line.contains('\u{1b}'));
        assert!(serde_json::from_str::<serde_json::Value>(&line).is_ok());
    }

    #[test]
    fn beyond_ascii_all_is_escaped_and_means_the_same() {
        let path = "/a\u{9b}31m\u{202e}\u{2028}\u{1f600}\u{e9}";
        let line = line(&entry(path, "h"));
        assert!(line.is_ascii(), "{line}");
        let value: serde_json::Value = serde_json::from_str(&line).unwrap();
        assert_eq!(value["url.path"], path);
    }

    #[test]
    fn a_key_in_the_path_is_masked_in_every_spelling() {
        let key = "fp_live_0123456789abcdefghijklmnopqrst012345";
        for path in [
            format!("/x/{key}"),
            format!("/x/{}", key.replace('_', "%5F")),
            format!("/x/{}", key.replace('a', "%61")),
            format!("/x/{}", key.replace('_', "%255f")),
        ] {
            assert!(line(&entry(&path, "h")).contains("[redacted]"), "{path}");
        }
        let in_host = line(&entry("/x", key));
        let in_method = line(&Entry {
            method: key,
            ..entry("/x", "h")
        });
        for line in [in_host, in_method] {
            assert!(line.contains("[redacted]") && !line.contains(key), "{line}");
        }
        assert!(!line(&entry("/files/some_long_name_of_a_file", "h")).contains("[redacted]"));
    }
}
