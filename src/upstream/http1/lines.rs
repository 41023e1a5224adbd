//! The fields of an answer where they came: places in its head. A map is made of them only where somebody has to look things up.

use std::cell::RefCell;
use std::hash::BuildHasher;
use std::ops::Range;

use bytes::Bytes;
use foldhash::fast::FixedState;
use http::HeaderMap;
use http::HeaderName;
use http::HeaderValue;
use httparse::Header;

use crate::model::fields::Fields;
use crate::upstream::http1::Fault;

/// The fields of one answer.
#[derive(Debug, Default)]
pub(crate) struct Lines {
    /// The head; names in small letters.
    head: Bytes,
    fields: Vec<Field>,
    /// A bit for each kind that is among them.
    kinds: u8,
    /// The same where their names are, and seldom elsewhere.
    shape: u32,
}

/// Where a field stands in the head, and what it is to whoever passes it on.
#[derive(Clone, Copy, Debug)]
struct Field {
    name: Place,
    value: Place,
    kind: Kind,
}

/// Bytes of the head.
#[derive(Clone, Copy, Debug)]
struct Place {
    start: u32,
    end: u32,
}

/// What a field is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    /// Anything else.
    Other,
    Length,
    Coding,
    Connection,
    Date,
    CachePolicy,
    /// Anything else that says the same in most answers.
    Usual,
    /// Means something only beside others.
    Odd,
}

impl Kind {
    fn bit(self) -> u8 {
        1 << self as u8
    }

    /// Whether a value of this kind is likely to come again, and may be kept: it is nobody's own.
    fn stays(self, value: &[u8]) -> bool {
        matches!(self, Kind::Date | Kind::Usual) && value.len() <= SEEN_BYTES_MAX
    }

    fn of(name: &[u8]) -> Kind {
        match name {
            b"date" => Kind::Date,
            b"content-length" => Kind::Length,
            b"transfer-encoding" => Kind::Coding,
            b"connection" => Kind::Connection,
            b"cache-control" => Kind::CachePolicy,
            b"server" | b"content-type" | b"accept-ranges" => Kind::Usual,
            // A `close` that `Connection: close` would name.
            b"trailer" | b"location" | b"close" => Kind::Odd,
            _ => Kind::Other,
        }
    }
}

impl Place {
    /// Where this part of `head` stands in it.
    fn of(part: &[u8], head: &[u8]) -> Option<Place> {
        if part.is_empty() {
            return Some(Place { start: 0, end: 0 });
        }
        let start = (part.as_ptr() as usize).checked_sub(head.as_ptr() as usize)?;
        let start = u32::try_from(start).ok()?;
        let end = start.checked_add(u32::try_from(part.len()).ok()?)?;
        (end as usize <= head.len()).then_some(Place { start, end })
    }

    fn range(self) -> Range<usize> {
        self.start as usize..self.end as usize
    }
}

impl Lines {
    /// Takes the places of these fields of `head`; `keep` takes the head itself.
    ///
    /// # Errors
    /// A name that no map takes.
    pub(super) fn place(&mut self, fields: &[Header<'_>], head: &[u8]) -> Result<(), Fault> {
        self.fields.clear();
        for field in fields {
            let name = Place::of(field.name.as_bytes(), head);
            let value = Place::of(field.value, head);
            let (Some(name), Some(value)) = (name, value) else {
                return Err(NO_FIELD);
            };
            if field.name.is_empty() || field.name.len() > NAME_BYTES_MAX {
                return Err(NO_FIELD);
            }
            self.fields.push(Field {
                name,
                value,
                kind: Kind::Other,
            });
        }
        Ok(())
    }

    /// Takes the head whose fields were placed.
    pub(super) fn keep(&mut self, mut head: bytes::BytesMut) {
        let (mut kinds, mut shape) = (0, 0u32);
        for field in &mut self.fields {
            let name = &mut head[field.name.range()];
            lower(name);
            field.kind = Kind::of(name);
            kinds |= field.kind.bit();
            let last = name.last().copied().unwrap_or_default();
            shape = (shape.rotate_left(5) ^ u32::from(last))
                .wrapping_add(field.name.end - field.name.start);
        }
        (self.kinds, self.shape) = (kinds, shape);
        self.head = head.freeze();
    }

    /// Each with its name in small letters.
    pub(crate) fn iter(&self) -> impl Iterator<Item = (Kind, &[u8], &[u8])> {
        let head = &self.head[..];
        let fields = self.fields.iter();
        fields.map(|field| {
            (
                field.kind,
                &head[field.name.range()],
                &head[field.value.range()],
            )
        })
    }

    /// Writes those that go on, by kind and name, as lines. What came as we would write it goes on in one piece with its neighbours.
    pub(crate) fn write(&self, goes_on: impl Fn(Kind, &[u8]) -> bool, out: &mut Vec<u8>) {
        let head = &self.head[..];
        let mut run = 0..0;
        for field in &self.fields {
            let name = &head[field.name.range()];
            if !goes_on(field.kind, name) {
                continue;
            }
            let (start, behind) = (field.name.start as usize, field.value.end as usize);
            let as_ours = two(head, field.name.end as usize) == Some(b": ")
                && field.value.start == field.name.end + 2
                && two(head, behind) == Some(b"\r\n");
            if as_ours && run.end == start {
                run.end = behind + 2;
                continue;
            }
            out.extend_from_slice(&head[run]);
            run = start..behind + 2;
            if !as_ours {
                run = 0..0;
                out.extend_from_slice(name);
                out.extend_from_slice(b": ");
                out.extend_from_slice(&head[field.value.range()]);
                out.extend_from_slice(b"\r\n");
            }
        }
        out.extend_from_slice(&head[run]);
    }

    /// Whether there is one of this kind.
    pub(crate) fn has(&self, kind: Kind) -> bool {
        self.kinds & kind.bit() != 0
    }

    /// The values of one kind, in order.
    pub(crate) fn values(&self, kind: Kind) -> impl Iterator<Item = &[u8]> {
        let all = match self.has(kind) {
            true => &self.fields[..],
            false => &[],
        };
        let fields = all.iter().filter(move |field| field.kind == kind);
        fields.map(|field| &self.head[field.value.range()])
    }

    /// Makes a map of them, in the room of this one.
    ///
    /// # Errors
    /// A field that no map takes.
    pub(crate) fn to_map(&self, fields: &mut HeaderMap) -> Result<(), Fault> {
        fields.clear();
        SEEN.with_borrow_mut(|seen| {
            for (kind, name, value) in self.iter() {
                let (name, value) = self.field(kind, name, value, seen).ok_or(NO_FIELD)?;
                fields.append(name, value);
            }
            Ok(())
        })
    }

    /// Puts those that go on, by kind and name, among the fields of an answer; `None` where no map takes one.
    pub(crate) fn put(
        &self,
        goes_on: impl Fn(Kind, &[u8]) -> bool,
        fields: &mut Fields<'_>,
    ) -> Option<()> {
        SEEN.with_borrow_mut(|seen| {
            for (kind, name, value) in self.iter().filter(|(kind, name, _)| goes_on(*kind, name)) {
                let stays = kind.stays(value);
                let make = || self.field(kind, name, value, seen);
                match kind {
                    Kind::Date if stays => fields.keep_date(value, make)?,
                    _ if stays => fields.keep_line(name, value, make)?,
                    _ => fields.put_line(name, make)?,
                }
            }
            Some(())
        })
    }

    /// A number that is the same for answers with the same names in the same order, and seldom for others.
    pub(crate) fn shape(&self) -> u32 {
        self.shape
    }

    /// A field as a map takes it, from where the last one like it was seen. What is not likely to come again is marked as sensitive: HTTP/2 then keeps it
    /// out of its compression table, where it would drive out the others, and where all values of a name are looked through for each answer.
    fn field(
        &self,
        kind: Kind,
        name: &[u8],
        value: &[u8],
        seen: &mut [Option<Seen>; SEEN_MAX],
    ) -> Option<(HeaderName, HeaderValue)> {
        let seen = &mut seen[Seen::place(name)];
        let seen = match seen {
            Some(seen) if seen.name.as_str().as_bytes() == name => seen,
            _ => seen.insert(Seen {
                name: HeaderName::from_bytes(name).ok()?,
                value: None,
                mark: 0,
            }),
        };
        if !kind.stays(value) {
            let mark = FixedState::default().hash_one(value);
            let mut read = HeaderValue::from_maybe_shared(self.head.slice_ref(value)).ok()?;
            read.set_sensitive(seen.mark != mark);
            seen.mark = mark;
            return Some((seen.name.clone(), read));
        }
        if !matches!(&seen.value, Some(same) if same.as_bytes() == value) {
            // Of its own, so that no whole head is kept for it.
            let mut read = HeaderValue::from_bytes(value).ok()?;
            read.set_sensitive(kind == Kind::Date);
            seen.value = Some(read);
        }
        Some((seen.name.clone(), seen.value.clone()?))
    }

    /// Lets go of the head.
    pub(super) fn clear(&mut self) {
        self.head = Bytes::new();
        self.fields.clear();
        self.kinds = 0;
    }
}

/// A field that came before. Most answers have the same ones: to compare one costs a third of what it costs to read it.
struct Seen {
    name: HeaderName,
    /// What it said last, where that is usually the same and nobody's own.
    value: Option<HeaderValue>,
    /// A hash of what it said last elsewhere.
    mark: u64,
}

thread_local! {
    static SEEN: RefCell<[Option<Seen>; SEEN_MAX]> = const { RefCell::new([const { None }; SEEN_MAX]) };
}

impl Seen {
    /// Where fields of this name are kept, and some others.
    fn place(name: &[u8]) -> usize {
        let last = name.last().copied().unwrap_or_default();
        (name.len() * 5 + usize::from(last)) % SEEN_MAX
    }
}

/// The two bytes from here on.
fn two(head: &[u8], at: usize) -> Option<&[u8; 2]> {
    head.get(at..)?.first_chunk()
}

/// Makes letters small, eight at a time: names are short.
fn lower(name: &mut [u8]) {
    let (eights, rest) = name.as_chunks_mut::<8>();
    for eight in eights {
        // The highest bit of each byte says whether it is a capital: beyond `Z` or not, from `A` on or not.
        let bytes = u64::from_le_bytes(*eight);
        let low = bytes & 0x7f7f_7f7f_7f7f_7f7f;
        let capitals = (low + 0x3f3f_3f3f_3f3f_3f3f) ^ (low + 0x2525_2525_2525_2525);
        let capitals = capitals & !bytes & 0x8080_8080_8080_8080;
        *eight = (bytes | capitals >> 2).to_le_bytes();
    }
    rest.make_ascii_lowercase();
}

const NO_FIELD: Fault = Fault::Protocol("a header field that cannot be passed on");
/// The longest name that a map takes.
const NAME_BYTES_MAX: usize = u16::MAX as usize;
/// Fields that each thread keeps; their names are bounded with the heads that they come in.
const SEEN_MAX: usize = 64;
/// The longest value that is kept, bytes.
const SEEN_BYTES_MAX: usize = 64;

#[cfg(test)]
mod tests {
    use super::lower;

    #[test]
    fn names_become_small_whatever_their_length() {
        let all: Vec<u8> = (0..=u8::MAX).collect();
        for length in 0..40 {
            for from in (0..all.len() - length).step_by(7) {
                let mut name = all[from..from + length].to_vec();
                let expected = name.to_ascii_lowercase();
                lower(&mut name);
                assert_eq!(name, expected);
            }
        }
    }
}
