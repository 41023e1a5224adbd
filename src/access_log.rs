//! One JSON line per request, written by a thread of its own; never a secret, never a query string.

use std::cell::RefCell;
use std::fs::OpenOptions;
use std::io;
use std::io::Write;
use std::net::IpAddr;
use std::os::unix::fs::OpenOptionsExt;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::AtomicU64;
use std::sync::atomic::Ordering;
use std::sync::mpsc;
use std::thread::JoinHandle;

/// A worker hands its lines over once they exceed this many bytes (or when it is told to, every 200 ms).
const HAND_OVER_BYTES: usize = 32 * 1024;

/// A text in a line is cut after this many bytes.
const TEXT_BYTES_MAX: usize = 2048;

/// What happened to one request. Empty texts are left out of the line.
#[derive(Clone, Copy, Debug)]
pub struct Entry<'a> {
    /// End of the request, microseconds since the Unix epoch.
    pub unix_micros: u64,
    /// The id that the client got in `X-Request-Id`.
    pub request_id: &'a str,
    /// The client's address.
    pub client: IpAddr,
    /// Request method.
    pub method: &'a str,
    /// Host asked for.
    pub host: &'a str,
    /// Path without query.
    pub path: &'a str,
    /// `1.0`, `1.1` or `2`.
    pub protocol: &'a str,
    /// Status sent.
    pub status: u16,
    /// `forwarded`, `refused`, `failed` or `preflight`.
    pub decision: &'a str,
    /// Why it was refused or how it failed, one word.
    pub reason: &'a str,
    /// Why it would have been refused by a rule that is only observed, one word.
    pub would_refuse: &'a str,
    /// The route's pattern.
    pub route: &'a str,
    /// The tenant's id.
    pub tenant: &'a str,
    /// The key's public id.
    pub key_id: &'a str,
    /// The token, where it was no key.
    pub token: Option<TokenEntry<'a>>,
    /// The upstream's name.
    pub upstream: &'a str,
    /// The server of the upstream, `host:port`.
    pub server: &'a str,
    /// What went wrong upstream, for people.
    pub detail: &'a str,
    /// Bytes of the request body that were passed on.
    pub request_bytes: u64,
    /// Bytes of the answer body that were sent.
    pub response_bytes: u64,
    /// From the end of the request head to the end of the answer.
    pub total_micros: u64,
    /// From there to the head of the backend's answer; 0 when none was asked.
    pub upstream_micros: u64,
    /// `complete`, `client_left`, `client_failed`, `upstream_cut`, `timed_out` or `revoked`.
    pub end: &'a str,
}

/// Who came with a token: what an operator can deny. Never the token itself.
#[derive(Clone, Copy, Debug)]
pub struct TokenEntry<'a> {
    /// `jwt`, `opaque` or `session`.
    pub kind: &'a str,
    /// Who issued it.
    pub issuer: &'a str,
    /// The end user.
    pub subject: &'a str,
    /// The client.
    pub client: &'a str,
    /// Its own id.
    pub jti: &'a str,
}

/// Orders to the writing thread.
enum Order {
    Lines(Vec<u8>),
    Reopen,
    Stop,
}

/// Where lines go.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Target {
    /// Standard output.
    Stdout,
    /// This file, appended to, created 0640.
    File(PathBuf),
}

/// The writing thread.
#[derive(Debug)]
pub struct Writer {
    orders: mpsc::SyncSender<Order>,
    thread: Option<JoinHandle<()>>,
}

/// One worker's end of the log; its lines gather here first.
#[derive(Debug)]
pub struct Sink {
    lines: RefCell<Vec<u8>>,
    orders: Option<mpsc::SyncSender<Order>>,
    dropped: Arc<AtomicU64>,
}

impl Writer {
    /// Opens the target and starts the thread. Of lines that were handed over, `queue_bytes_max` bytes may wait for it.
    ///
    /// # Errors
    /// When the file cannot be opened or no thread can be had.
    pub fn start(target: Target, queue_bytes_max: usize) -> io::Result<Writer> {
        let mut out = open(&target)?;
        let (orders, inbox) = mpsc::sync_channel(queue_bytes_max / HAND_OVER_BYTES);
        let thread = std::thread::Builder::new().name(String::from("access-log")).spawn(move || {
            for order in inbox {
                match order {
                    Order::Lines(lines) => write_lines(&mut *out, &lines),
                    Order::Reopen => match open(&target) {
                        Ok(fresh) => out = fresh,
                        Err(error) => tracing::error!(%error, "access log not reopened, the old file goes on"),
                    },
                    Order::Stop => break,
                }
            }
        })?;
        Ok(Writer {
            orders,
            thread: Some(thread),
        })
    }

    /// A worker's end. `dropped` counts lines that could not be handed over.
    #[must_use]
    pub fn sink(&self, dropped: Arc<AtomicU64>) -> Sink {
        Sink {
            lines: RefCell::new(Vec::new()),
            orders: Some(self.orders.clone()),
            dropped,
        }
    }

    /// Opens the file anew, after it was moved away (USR1).
    pub fn reopen(&self) {
        let _ = self.orders.send(Order::Reopen);
    }

    /// Writes what was handed over and ends the thread.
    pub fn stop(mut self) {
        let _ = self.orders.send(Order::Stop);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

impl Sink {
    /// A sink that writes nowhere (`access = "off"`).
    #[must_use]
    pub fn off() -> Sink {
        Sink {
            lines: RefCell::new(Vec::new()),
            orders: None,
            dropped: Arc::default(),
        }
    }

    /// Adds one line.
    pub fn record(&self, entry: &Entry<'_>) {
        if self.orders.is_none() {
            return;
        }
        let full = {
            let mut lines = self.lines.borrow_mut();
            write_entry(&mut lines, entry);
            lines.len() >= HAND_OVER_BYTES
        };
        if full {
            self.hand_over();
        }
    }

    /// Gives the gathered lines to the writing thread without waiting for it.
    pub fn hand_over(&self) {
        let Some(orders) = &self.orders else { return };
        if self.lines.borrow().is_empty() {
            return;
        }
        let lines = self
            .lines
            .replace(Vec::with_capacity(HAND_OVER_BYTES + 4096));
        if let Err(
            mpsc::TrySendError::Full(Order::Lines(lost))
            | mpsc::TrySendError::Disconnected(Order::Lines(lost)),
        ) = orders.try_send(Order::Lines(lines))
        {
            let count = lost.iter().filter(|byte| **byte == b'\n').count();
            self.dropped.fetch_add(count as u64, Ordering::Relaxed);
        }
    }
}

impl Drop for Sink {
    fn drop(&mut self) {
        self.hand_over();
    }
}

fn open(target: &Target) -> io::Result<Box<dyn Write + Send>> {
    Ok(match target {
        Target::Stdout => Box::new(io::stdout()),
        Target::File(path) => Box::new(
            OpenOptions::new()
                .create(true)
                .append(true)
                .mode(0o640)
                .open(path)?,
        ),
    })
}

fn write_lines(out: &mut dyn Write, lines: &[u8]) {
    if let Err(error) = out.write_all(lines).and_then(|()| out.flush()) {
        tracing::error!(%error, "access log lines lost");
    }
}

fn write_entry(out: &mut Vec<u8>, entry: &Entry<'_>) {
    out.extend_from_slice(b"{\"time\":\"");
    write_time(out, entry.unix_micros);
    out.push(b'"');
    text(out, ",\"request_id\":\"", entry.request_id);
    out.extend_from_slice(b",\"client.address\":\"");
    write_address(out, entry.client);
    out.push(b'"');
    from_client(out, ",\"http.request.method\":\"", entry.method);
    from_client(out, ",\"server.address\":\"", entry.host);
    from_client(out, ",\"url.path\":\"", entry.path);
    text(out, ",\"network.protocol.version\":\"", entry.protocol);
    number(
        out,
        ",\"http.response.status_code\":",
        u64::from(entry.status),
    );
    text(out, ",\"decision\":\"", entry.decision);
    text(out, ",\"reason\":\"", entry.reason);
    text(out, ",\"would_refuse\":\"", entry.would_refuse);
    text(out, ",\"http.route\":\"", entry.route);
    text(out, ",\"tenant\":\"", entry.tenant);
    text(out, ",\"key_id\":\"", entry.key_id);
    if let Some(token) = &entry.token {
        text(out, ",\"credential\":\"", token.kind);
        text(out, ",\"token.issuer\":\"", token.issuer);
        text(out, ",\"token.subject\":\"", token.subject);
        text(out, ",\"token.client\":\"", token.client);
        text(out, ",\"token.id\":\"", token.jti);
    }
    text(out, ",\"upstream\":\"", entry.upstream);
    text(out, ",\"upstream.address\":\"", entry.server);
    text(out, ",\"detail\":\"", entry.detail);
    number(out, ",\"http.request.body.size\":", entry.request_bytes);
    number(out, ",\"http.response.body.size\":", entry.response_bytes);
    number(out, ",\"duration_us\":", entry.total_micros);
    number(out, ",\"upstream_us\":", entry.upstream_micros);
    text(out, ",\"end\":\"", entry.end);
    out.extend_from_slice(b"}\n");
}

/// An address as `Display` has it. By hand for IPv4: the formatting machinery takes 1,300 instructions.
pub(crate) fn write_address(out: &mut Vec<u8>, address: IpAddr) {
    let IpAddr::V4(address) = address else {
        let _ = write!(out, "{address}");
        return;
    };
    for (index, octet) in address.octets().into_iter().enumerate() {
        if index > 0 {
            out.push(b'.');
        }
        out.extend_from_slice(itoa::Buffer::new().format(octet).as_bytes());
    }
}

/// `name` is all that stands before the value: `,"name":`.
fn number(out: &mut Vec<u8>, name: &'static str, value: u64) {
    out.extend_from_slice(name.as_bytes());
    out.extend_from_slice(itoa::Buffer::new().format(value).as_bytes());
}

/// `name` is all that stands before the value: `,"name":"`.
fn text(out: &mut Vec<u8>, name: &'static str, value: &str) {
    if value.is_empty() {
        return;
    }
    out.extend_from_slice(name.as_bytes());
    escape(out, value);
    out.push(b'"');
}

/// Method, host and path are the client's words and may hold a key that somebody pasted there: what looks like one is masked, plain,
/// percent-encoded or encoded twice (S26).
fn from_client(out: &mut Vec<u8>, name: &'static str, value: &str) {
    let decoded = || PercentDecoded(value.bytes());
    let has = |byte| memchr::memchr(byte, value.as_bytes()).is_some();
    let masked = (has(b'_') && holds_key(value.bytes()))
        || (has(b'%') && (holds_key(decoded()) || holds_key(PercentDecoded(decoded()))));
    text(out, name, if masked { "[redacted]" } else { value });
}

/// Whether 30 letters or digits in a row follow an underscore: the shape of every key this gateway makes.
fn holds_key(bytes: impl Iterator<Item = u8>) -> bool {
    let mut run: Option<u32> = None;
    for byte in bytes {
        run = match (byte, run) {
            (b'_', _) => Some(0),
            (byte, Some(length)) if byte.is_ascii_alphanumeric() => Some(length + 1),
            _ => None,
        };
        if run == Some(30) {
            return true;
        }
    }
    false
}

/// Bytes with every valid `%XX` decoded once.
#[derive(Clone)]
struct PercentDecoded<I>(I);

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
    // All bytes are looked at, since the processor does that many at a time; nearly every text is as it may stand.
    if !rest
        .bytes()
        .fold(false, |any, byte| any | needs_escape(byte))
    {
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

/// Said of the first byte of a character.
fn needs_escape(byte: u8) -> bool {
    // No short circuits: as arithmetic it is done for many bytes at once.
    (byte.wrapping_sub(b' ') > b'~' - b' ') | (byte == b'"') | (byte == b'\\')
}

/// RFC 3339 in UTC with microseconds.
fn write_time(out: &mut Vec<u8>, unix_micros: u64) {
    let seconds = unix_micros / 1_000_000;
    let (year, month, day) = civil(seconds / 86_400);
    let (hour, minute, second) = (seconds / 3600 % 24, seconds / 60 % 60, seconds % 60);
    let micros = unix_micros % 1_000_000;
    for (mark, value, digits) in [
        (None, year, 4),
        (Some(b'-'), month, 2),
        (Some(b'-'), day, 2),
        (Some(b'T'), hour, 2),
        (Some(b':'), minute, 2),
        (Some(b':'), second, 2),
        (Some(b'.'), micros, 6),
    ] {
        out.extend(mark);
        decimal(out, value, digits);
    }
    out.push(b'Z');
}

/// The last digits of a number, zeros in front.
fn decimal(out: &mut Vec<u8>, mut value: u64, digits: usize) {
    let mut text = [b'0'; 8];
    for place in text[..digits].iter_mut().rev() {
        *place = b'0' + (value % 10) as u8;
        value /= 10;
    }
    out.extend_from_slice(&text[..digits]);
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

/// S27, S26: for any bytes one line, one JSON object, plain ASCII, the texts as they came, and no key in what a client chose. Fuzz target and
/// proptest call this.
#[cfg(any(test, fuzzing))]
pub(crate) fn any_entry_is_one_json_line(data: &[u8]) {
    const MEMBERS: [&str; 15] = [
        "http.request.method",
        "server.address",
        "url.path",
        "request_id",
        "network.protocol.version",
        "decision",
        "reason",
        "would_refuse",
        "http.route",
        "tenant",
        "key_id",
        "upstream",
        "upstream.address",
        "detail",
        "end",
    ];
    let texts: Vec<String> = data
        .split(|byte| *byte == 0x1e)
        .map(|text| String::from_utf8_lossy(text).into_owned())
        .collect();
    let given = |index: usize| texts.get(index).map_or("", String::as_str);
    let entry = Entry {
        unix_micros: data.len() as u64 * 1_234_567_890_123,
        method: given(0),
        host: given(1),
        path: given(2),
        request_id: given(3),
        client: IpAddr::V6(std::net::Ipv6Addr::LOCALHOST),
        protocol: given(4),
        status: 200,
        decision: given(5),
        reason: given(6),
        would_refuse: given(7),
        route: given(8),
        tenant: given(9),
        token: None,
        key_id: given(10),
        upstream: given(11),
        server: given(12),
        detail: given(13),
        request_bytes: u64::MAX,
        response_bytes: 0,
        total_micros: 0,
        upstream_micros: 0,
        end: given(14),
    };
    let mut line = Vec::new();
    write_entry(&mut line, &entry);
    assert_eq!(line.pop(), Some(b'\n'));
    assert!(line.iter().all(|byte| matches!(byte, b' '..=b'~')));
    let read: serde_json::Value = serde_json::from_slice(&line).expect("a line is JSON");
    assert_eq!(read["http.request.body.size"], u64::MAX);
    for (index, name) in MEMBERS.into_iter().enumerate() {
        let (came, written) = (given(index), read[name].as_str());
        let masked = index < 3 && written == Some("[redacted]") && came != "[redacted]";
        let as_it_came = match written {
            None => came.is_empty(),
            Some(text) => {
                came.starts_with(text) && (came == text || text.len() + 4 > TEXT_BYTES_MAX)
            }
        };
        assert!(masked || as_it_came, "{name}: {came:?} became {written:?}");
        if index < 3 && !masked {
            let shown = written.unwrap_or_default().to_owned();
            assert!(!looks_like_key(&shown), "{shown:?}");
        }
    }
}

/// Found another way than the mask finds it.
#[cfg(any(test, fuzzing))]
fn looks_like_key(shown: &str) -> bool {
    let decode = |text: &[u8]| -> Vec<u8> { PercentDecoded(text.iter().copied()).collect() };
    let once = decode(shown.as_bytes());
    let twice = decode(&once);
    [shown.as_bytes(), &once, &twice].into_iter().any(|text| {
        let words = text.split(|byte| !byte.is_ascii_alphanumeric() && *byte != b'_');
        let mut parts = words.flat_map(|word| word.split(|byte| *byte == b'_').skip(1));
        parts.any(|part| part.len() >= 30)
    })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(1_024))]

        #[test]
        fn s27_s26_any_entry_is_one_line_and_holds_no_key(
            texts in prop::collection::vec("(/|%5[fF]|_|%255f|[\"\\\\]|[é€😀\u{85}]|\r|\n|\u{1b}|\u{202e}|fp_live_[0-9A-Za-z]{26,36}|[a-z%]{0,40}){0,6}", 0..15),
            any in prop::collection::vec(any::<u8>(), 0..60),
        ) {
            any_entry_is_one_json_line(texts.join("\u{1e}").as_bytes());
            any_entry_is_one_json_line(&any);
        }
    }

    fn entry<'a>(path: &'a str, host: &'a str) -> Entry<'a> {
        Entry {
            unix_micros: 1_795_305_600_000_001,
            request_id: "r1",
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
            tenant: "acme",
            key_id: "key_0123456789ab",
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

    fn line(entry: &Entry<'_>) -> String {
        let mut out = Vec::new();
        write_entry(&mut out, entry);
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
            write_time(&mut out, micros);
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

    #[test]
    fn a_file_is_reopened_where_it_was() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("access.log");
        let writer = Writer::start(Target::File(path.clone()), 1 << 20).unwrap();
        let sink = writer.sink(Arc::default());
        sink.record(&entry("/one", "h"));
        sink.hand_over();
        writer.reopen();
        sink.record(&entry("/two", "h"));
        drop(sink);
        writer.stop();
        let text = std::fs::read_to_string(path).unwrap();
        assert_eq!(text.lines().count(), 2);
    }
}
