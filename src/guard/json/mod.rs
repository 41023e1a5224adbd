//! The streaming JSON filter: takes members out, puts one object's members in, and watches for another tenant's id.
//!
//! It reads structure and no more: numbers, words and escapes inside values pass untouched, whatever they are, because nothing can hide
//! in them. What is not JSON in its structure is refused, since another reader might see members there that this one does not.
//!
//! What is undecided (a comma and the name after it, which go together when the member goes) is held back; all else passes as it stands, in
//! the caller's own bytes where nothing of them is taken out.

mod output;
mod scan;

use std::sync::Arc;

use bytes::Bytes;

use crate::guard::Fault;
use crate::guard::json::output::Output;
use crate::guard::json::scan::find_quote;
use crate::guard::json::scan::is_space;
use crate::guard::json::scan::is_token;
use crate::guard::json::scan::past_space;
use crate::guard::json::scan::past_text;
use crate::guard::json::scan::past_token;
use crate::guard::names::Names;
use crate::guard::names::says;
use crate::model::guard::Member;

/// Deepest nesting that is read; deeper is refused as broken. One byte each.
pub(super) const DEPTH_MAX: usize = 1024;

/// What a filter is to do.
#[derive(Clone, Debug)]
pub struct Rules {
    /// The members it knows.
    pub members: Arc<[Member]>,
    /// The caller's tenant; without one nobody's id is foreign.
    pub own: Option<Arc<str>>,
    /// Whether broken JSON passes as it is, unless something was taken out of it before.
    pub lenient: bool,
    /// Whether a body that does not begin like an object or an array passes unread.
    pub sniff: bool,
    /// Put in at the end of the one object that the body must be: members as text, without a comma at either end.
    pub insert: Option<Arc<str>>,
}

/// Filters one body. Feed it the body in pieces of any size, then finish.
#[derive(Debug)]
pub struct Filter {
    names: Names,
    own: Option<Arc<str>>,
    lenient: bool,
    sniff: bool,
    insert: Option<Arc<str>>,
    state: State,
    /// Whether anything but space has come.
    begun: bool,
    /// Whether the byte before this piece was a backslash inside a string.
    escaped: bool,
    /// Whether the value to come is that of a watched member, and of which.
    watching: Option<usize>,
    /// One byte for each open object or array.
    levels: Vec<Level>,
    /// How many were open where the member stands that is being taken out.
    dropping: Option<usize>,
    /// A name, or a watched value, as far as it came.
    spelling: Vec<u8>,
    /// What is undecided of earlier pieces.
    held: Vec<u8>,
    removed: u64,
}

/// What is expected next, or being read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    /// Outside of everything.
    Top,
    /// The one object is over.
    Over,
    /// A value.
    Value,
    /// A value or the end of the array.
    FirstElement,
    /// A name or the end of the object.
    FirstName,
    /// A name.
    Name,
    /// Inside a name that may be a known one.
    InName,
    /// Inside a name that is longer than any known one.
    InLongName,
    /// A colon.
    Colon,
    /// Inside a string.
    Text,
    /// Inside the string of a watched member.
    WatchedText,
    /// Inside a number or word.
    Token,
    /// Inside the number of a watched member.
    WatchedToken,
    /// A comma or an end.
    After,
    /// Anything: it is not ours to read.
    Unread,
}

/// An open array or object.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Level {
    Array,
    /// An object of which no member was kept so far: the next comma has nothing to part.
    BareObject,
    Object,
}

impl Filter {
    /// A filter for one body.
    #[must_use]
    pub fn new(rules: &Rules) -> Filter {
        let names = Names::new(Arc::clone(&rules.members), rules.insert.is_some());
        Filter {
            names,
            own: rules.own.clone(),
            lenient: rules.lenient,
            sniff: rules.sniff,
            insert: rules.insert.clone(),
            state: State::Top,
            begun: false,
            escaped: false,
            watching: None,
            levels: Vec::new(),
            dropping: None,
            spelling: Vec::new(),
            held: Vec::new(),
            removed: 0,
        }
    }

    /// How many members were taken out so far.
    #[must_use]
    pub fn removed(&self) -> u64 {
        self.removed
    }

    /// Filters the next piece and gives back what of the body is decided by it.
    ///
    /// # Errors
    /// `Fault`: nothing of this piece may go on, and nothing more must be fed.
    pub fn feed(&mut self, piece: Bytes) -> Result<Bytes, Fault> {
        if self.state == State::Unread {
            return Ok(piece);
        }
        let held = std::mem::take(&mut self.held);
        let mut output = Output::new(&piece, held, self.dropping.is_some());
        let mut levels = std::mem::take(&mut self.levels);
        let read = self.read(&piece, &mut output, &mut levels);
        self.levels = levels;
        match read {
            Ok(()) => {}
            Err(Fault::Broken(_)) if self.may_pass() => {
                self.state = State::Unread;
                output.release();
            }
            Err(fault) => return Err(fault),
        }
        let (out, held) = output.finish(&piece, self.state == State::Name);
        self.held = held;
        Ok(out)
    }

    /// Ends the body and gives back what was still held.
    ///
    /// # Errors
    /// `Fault` when it ends in the middle.
    pub fn finish(&mut self) -> Result<Bytes, Fault> {
        let is_whole = match self.state {
            State::Top => self.insert.is_none(),
            State::Token => self.levels.is_empty(),
            State::Over | State::Unread => true,
            _ => false,
        };
        if is_whole || self.may_pass() {
            self.state = State::Unread;
            return Ok(Bytes::from(std::mem::take(&mut self.held)));
        }
        Err(Fault::Broken("it ends in the middle"))
    }

    /// Makes ready for another body by the same rules; the count of what was taken out begins again.
    pub(super) fn restart(&mut self) {
        self.state = State::Top;
        self.begun = false;
        self.escaped = false;
        self.watching = None;
        self.levels.clear();
        self.dropping = None;
        self.spelling.clear();
        self.held.clear();
        self.removed = 0;
    }

    /// How much it keeps between two pieces, in bytes.
    #[cfg(test)]
    pub(super) fn kept_bytes(&self) -> usize {
        self.spelling.capacity() + self.held.capacity() + self.levels.capacity()
    }

    fn may_pass(&self) -> bool {
        self.lenient && self.removed == 0 && self.insert.is_none()
    }

    fn read(
        &mut self,
        piece: &[u8],
        output: &mut Output<'_>,
        levels: &mut Vec<Level>,
    ) -> Result<(), Fault> {
        let mut at = 0;
        let mut state = self.state;
        while at < piece.len() {
            let byte = piece[at];
            match state {
                State::Top | State::Over => {
                    if is_space(byte) || TOP_SPACE.contains(&byte) {
                        at += 1;
                        continue;
                    }
                    if self.insert.is_some() && (state == State::Over || byte != b'{') {
                        return Err(Fault::Broken("it is not one object"));
                    }
                    if self.sniff && !self.begun && byte != b'{' && byte != b'[' {
                        state = State::Unread;
                        break;
                    }
                    self.begun = true;
                    state = State::Value;
                }
                State::Value | State::FirstElement => {
                    if is_space(byte) {
                        at = past_space(piece, at);
                        continue;
                    }
                    let watching = self.watching.take();
                    match byte {
                        b'"' => {
                            at += 1;
                            state = match watching {
                                Some(_) => State::WatchedText,
                                None => State::Text,
                            };
                            self.watching = watching;
                            self.spelling.clear();
                        }
                        b'{' | b'[' => {
                            if levels.len() >= DEPTH_MAX {
                                return Err(Fault::Broken("it is nested too deeply"));
                            }
                            at += 1;
                            if byte == b'{' {
                                levels.push(Level::BareObject);
                                state = State::FirstName;
                            } else {
                                levels.push(Level::Array);
                                state = State::FirstElement;
                            }
                        }
                        b']' if state == State::FirstElement => {
                            levels.pop();
                            at += 1;
                            state = self.after_value(at, output, levels.len());
                        }
                        _ if is_token(byte) => {
                            let number = byte.is_ascii_digit() || byte == b'-';
                            self.watching = watching.filter(|_| number);
                            self.spelling.clear();
                            state = match self.watching {
                                Some(_) => State::WatchedToken,
                                None => State::Token,
                            };
                        }
                        _ => return Err(Fault::Broken("a value is expected")),
                    }
                }
                State::Text => {
                    let Some(end) = past_text(piece, at, &mut self.escaped) else {
                        break;
                    };
                    at = end;
                    state = self.after_value(at, output, levels.len());
                }
                State::Token => {
                    at = past_token(piece, at);
                    if at < piece.len() {
                        state = self.after_value(at, output, levels.len());
                    }
                }
                State::After => match byte {
                    b',' => {
                        at += 1;
                        state = match levels.last() {
                            Some(Level::Array) => State::Value,
                            Some(level) => {
                                if self.dropping.is_none() {
                                    if *level == Level::BareObject {
                                        output.skip(at - 1, at);
                                    } else {
                                        output.hold(at - 1);
                                    }
                                }
                                State::Name
                            }
                            None => return Err(Fault::Broken("a comma stands between bodies")),
                        };
                    }
                    b'}' if matches!(levels.last(), Some(Level::Object | Level::BareObject)) => {
                        self.put_in(at, output, levels);
                        levels.pop();
                        at += 1;
                        state = self.after_value(at, output, levels.len());
                    }
                    b']' if levels.last() == Some(&Level::Array) => {
                        levels.pop();
                        at += 1;
                        state = self.after_value(at, output, levels.len());
                    }
                    _ if is_space(byte) => at = past_space(piece, at),
                    _ => return Err(Fault::Broken("a comma or an end is expected")),
                },
                State::FirstName | State::Name => match byte {
                    b'"' => {
                        if self.dropping.is_none() {
                            output.hold(at);
                        }
                        at += 1;
                        // The usual name is here as a whole and has no backslash.
                        match find_quote(piece, at) {
                            Some(end) if piece[end] == b'"' => {
                                let found = self.names.find_plain(&piece[at..end]);
                                at = end + 1;
                                self.decide(found, output, levels);
                                state = State::Colon;
                            }
                            _ => {
                                self.spelling.clear();
                                state = State::InName;
                            }
                        }
                    }
                    b'}' if state == State::FirstName => {
                        self.put_in(at, output, levels);
                        levels.pop();
                        at += 1;
                        state = self.after_value(at, output, levels.len());
                    }
                    _ if is_space(byte) => at = past_space(piece, at),
                    _ => return Err(Fault::Broken("a name is expected")),
                },
                State::Colon => match byte {
                    b':' => {
                        at += 1;
                        state = State::Value;
                    }
                    _ if is_space(byte) => at = past_space(piece, at),
                    _ => return Err(Fault::Broken("a colon is expected")),
                },
                State::InName => {
                    let (from, end) = (at, past_text(piece, at, &mut self.escaped));
                    at = end.unwrap_or(piece.len());
                    let text = &piece[from..end.map_or(at, |end| end - 1)];
                    if self.spelling.len() + text.len() > self.names.spelling_max() {
                        self.decide(None, output, levels);
                        state = match end {
                            Some(_) => State::Colon,
                            None => State::InLongName,
                        };
                        continue;
                    }
                    self.spelling.extend_from_slice(text);
                    if end.is_some() {
                        let found = self.names.find(&self.spelling);
                        let found = found.map_err(|_| Fault::Broken("a name is misspelt"))?;
                        self.decide(found, output, levels);
                        state = State::Colon;
                    }
                }
                State::InLongName => match past_text(piece, at, &mut self.escaped) {
                    Some(end) => {
                        at = end;
                        state = State::Colon;
                    }
                    None => break,
                },
                State::WatchedText => {
                    let (from, end) = (at, past_text(piece, at, &mut self.escaped));
                    at = end.unwrap_or(piece.len());
                    self.compare(&piece[from..end.map_or(at, |end| end - 1)], end.is_some())?;
                    if end.is_some() {
                        state = self.after_value(at, output, levels.len());
                    }
                }
                State::WatchedToken => {
                    let from = at;
                    at = past_token(piece, at);
                    let ended = at < piece.len();
                    self.compare(&piece[from..at], ended)?;
                    if ended {
                        state = self.after_value(at, output, levels.len());
                    }
                }
                State::Unread => break,
            }
        }
        self.state = state;
        Ok(())
    }

    /// What follows a value that ended before `at`, `depth` levels being open.
    #[inline]
    fn after_value(&mut self, at: usize, output: &mut Output<'_>, depth: usize) -> State {
        if self.dropping == Some(depth) {
            self.dropping = None;
            output.resume(at);
        }
        if depth > 0 {
            State::After
        } else if self.insert.is_some() {
            State::Over
        } else {
            State::Top
        }
    }

    /// A name has been read: what it begins stays or goes.
    #[inline]
    fn decide(&mut self, found: Option<usize>, output: &mut Output<'_>, levels: &mut [Level]) {
        let mut remove = false;
        if let Some(index) = found {
            let member = self.names.member(index);
            // Only at the top of a body that gets members put in: what stands deeper is the client's own affair.
            remove = member.remove && (self.insert.is_none() || levels.len() == 1);
            self.watching = (member.watch && self.own.is_some()).then_some(index);
        }
        if self.dropping.is_some() {
            return;
        }
        if remove {
            output.drop_held();
            self.dropping = Some(levels.len());
            self.removed += 1;
        } else {
            output.release();
            if let Some(level) = levels.last_mut() {
                *level = Level::Object;
            }
        }
    }

    /// The end of the one object stands at `at`.
    fn put_in(&self, at: usize, output: &mut Output<'_>, levels: &[Level]) {
        let (Some(insert), [level]) = (&self.insert, levels) else {
            return;
        };
        if insert.is_empty() {
            return;
        }
        output.put(at, if *level == Level::Object { "," } else { "" });
        output.put(at, insert);
    }

    /// More of a watched value, and whether it is all of it.
    fn compare(&mut self, text: &[u8], ended: bool) -> Result<(), Fault> {
        let (Some(index), Some(own)) = (self.watching, self.own.clone()) else {
            return Ok(());
        };
        self.spelling
            .extend_from_slice(&text[..text.len().min(6 * own.len() + 1)]);
        let too_long = self.spelling.len() > 6 * own.len();
        if too_long || ended && !says(&self.spelling, &own) {
            return Err(Fault::Foreign(index));
        }
        if ended {
            self.spelling.clear();
            self.watching = None;
        }
        Ok(())
    }
}

/// May also stand between bodies: the record separator (RFC 7464) and the bytes of a byte order mark.
const TOP_SPACE: [u8; 4] = [0x1e, 0xef, 0xbb, 0xbf];
