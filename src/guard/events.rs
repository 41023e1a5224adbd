//! Server-sent events: the JSON that their `data:` lines make up is filtered, event by event; every other line passes as it is.
//!
//! A client sees an event when its blank line comes, and no sooner. So an event may be held until then, and costs nobody time.

use bytes::Bytes;
use bytes::BytesMut;

use crate::guard::Fault;
use crate::guard::json::Filter;
use crate::guard::json::Rules;

/// Largest event, in bytes; a larger one is refused as broken.
const EVENT_BYTES_MAX: usize = 1024 * 1024;

/// Filters one stream of events.
#[derive(Debug)]
pub(super) struct Events {
    filter: Filter,
    lenient: bool,
    /// What has come of the event so far.
    event: Vec<u8>,
    /// How much of it has been searched for its end.
    searched: usize,
    /// Where the line begins that is not over.
    line: usize,
    /// Whether the last event ended in a carriage return, to which a line feed may belong.
    after_return: bool,
    removed: u64,
    unread: bool,
}

impl Events {
    /// `rules` for the data of each event; data that is no object or array is text, and passes.
    pub(super) fn new(rules: &Rules) -> Events {
        let rules = Rules {
            sniff: true,
            ..rules.clone()
        };
        Events {
            filter: Filter::new(&rules),
            lenient: rules.lenient,
            event: Vec::new(),
            searched: 0,
            line: 0,
            after_return: false,
            removed: 0,
            unread: false,
        }
    }

    pub(super) fn removed(&self) -> u64 {
        self.removed
    }

    /// Takes a piece and gives back all events that are whole by it.
    pub(super) fn feed(&mut self, piece: &Bytes) -> Result<Bytes, Fault> {
        if self.unread {
            return Ok(piece.clone());
        }
        let mut out = BytesMut::new();
        self.event.extend_from_slice(piece);
        let event = std::mem::take(&mut self.event);
        let mut start = 0;
        while let Some(end) = self.end_of_event(&event, start) {
            self.pass(&event[start..end], &mut out)?;
            self.after_return = event[end - 1] == b'\r';
            self.line = end;
            start = end;
        }
        self.event = event;
        // Once for all of them: what is left is moved to the front.
        self.event.drain(..start);
        self.searched -= start;
        self.line -= start;
        if self.event.len() > EVENT_BYTES_MAX {
            if !self.lenient || self.removed > 0 {
                return Err(Fault::Broken("an event is larger than 1 MiB"));
            }
            self.unread = true;
            out.extend_from_slice(&std::mem::take(&mut self.event));
        }
        Ok(out.freeze())
    }

    /// Ends the stream; an event without its blank line is passed like a whole one.
    pub(super) fn finish(&mut self) -> Result<Bytes, Fault> {
        let mut out = BytesMut::new();
        let event = std::mem::take(&mut self.event);
        self.pass(&event, &mut out)?;
        Ok(out.freeze())
    }

    /// Where the event is over that begins at `start`: past its blank line.
    fn end_of_event(&mut self, event: &[u8], start: usize) -> Option<usize> {
        while let Some(found) = memchr::memchr2(b'\n', b'\r', &event[self.searched..]) {
            let at = self.searched + found;
            self.searched = at + 1;
            let after_return = match at == start {
                true => self.after_return,
                false => event[at - 1] == b'\r',
            };
            if event[at] == b'\n' && after_return {
                // The second half of a line end.
                self.line = at + 1;
                continue;
            }
            if at == self.line {
                return Some(at + 1);
            }
            self.line = at + 1;
        }
        self.searched = event.len();
        None
    }

    fn pass(&mut self, event: &[u8], out: &mut BytesMut) -> Result<(), Fault> {
        let mut data = Vec::new();
        let mut has_data = false;
        for line in Lines(event) {
            if let Some(value) = data_of(line.text) {
                if has_data {
                    data.push(b'\n');
                }
                data.extend_from_slice(value);
                has_data = true;
            }
        }
        if !has_data {
            out.extend_from_slice(event);
            return Ok(());
        }
        self.filter.restart();
        let mut kept = self.filter.feed(Bytes::from(data))?.to_vec();
        kept.extend_from_slice(&self.filter.finish()?);
        if self.filter.removed() == 0 {
            out.extend_from_slice(event);
            return Ok(());
        }
        self.removed += self.filter.removed();
        let mut kept = Some(kept);
        for line in Lines(event) {
            if data_of(line.text).is_none() {
                out.extend_from_slice(line.text);
                out.extend_from_slice(line.end);
                continue;
            }
            for data in kept
                .take()
                .iter()
                .flat_map(|kept| kept.split(|byte| *byte == b'\n'))
            {
                out.extend_from_slice(b"data: ");
                out.extend_from_slice(data);
                out.extend_from_slice(line.end);
            }
        }
        Ok(())
    }
}

/// One line and what ended it.
struct Line<'a> {
    text: &'a [u8],
    end: &'a [u8],
}

/// The lines of an event; they end in LF, CR, or both.
struct Lines<'a>(&'a [u8]);

impl<'a> Iterator for Lines<'a> {
    type Item = Line<'a>;

    fn next(&mut self) -> Option<Line<'a>> {
        if self.0.is_empty() {
            return None;
        }
        let length = memchr::memchr2(b'\n', b'\r', self.0).unwrap_or(self.0.len());
        let (text, rest) = self.0.split_at(length);
        let end = match rest {
            [b'\r', b'\n', ..] => 2,
            [_, ..] => 1,
            [] => 0,
        };
        let (end, rest) = rest.split_at(end);
        self.0 = rest;
        Some(Line { text, end })
    }
}

/// The value of a `data` line, without the one space that may stand after its colon.
fn data_of(line: &[u8]) -> Option<&[u8]> {
    let line = line.strip_prefix(b"\xef\xbb\xbf").unwrap_or(line);
    let rest = line.strip_prefix(b"data")?;
    match rest {
        [] => Some(rest),
        [b':', b' ', value @ ..] | [b':', value @ ..] => Some(value),
        _ => None,
    }
}
