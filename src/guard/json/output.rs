//! What of one piece of a body goes on: runs of it, copied only once something has been left out.

use bytes::Bytes;

/// What of one piece goes on: runs of it, copied only once something has been left out.
pub(super) struct Output<'a> {
    piece: &'a [u8],
    /// What is undecided of earlier pieces.
    held: Vec<u8>,
    /// Where the run that goes on begins.
    from: usize,
    /// Where what is undecided begins; what is held stands before it.
    hold: Option<usize>,
    /// Whether what comes goes out: no run is open.
    dropping: bool,
    copied: Option<Vec<u8>>,
}

impl<'a> Output<'a> {
    pub(super) fn new(piece: &'a [u8], held: Vec<u8>, dropping: bool) -> Output<'a> {
        Output {
            piece,
            hold: (!held.is_empty()).then_some(0),
            held,
            from: 0,
            dropping,
            copied: None,
        }
    }

    /// From here on it is undecided, if it was not before.
    #[inline]
    pub(super) fn hold(&mut self, at: usize) {
        if self.hold.is_none() {
            self.hold = Some(at);
        }
    }

    /// What is undecided goes on.
    #[inline]
    pub(super) fn release(&mut self) {
        self.hold = None;
        if !self.held.is_empty() {
            let held = std::mem::take(&mut self.held);
            self.copied().extend_from_slice(&held);
        }
    }

    /// What is undecided is taken out, and what follows until `resume`.
    pub(super) fn drop_held(&mut self) {
        let at = self.hold.take().unwrap_or(self.from);
        self.copy(at);
        self.held.clear();
        self.dropping = true;
    }

    pub(super) fn resume(&mut self, at: usize) {
        self.from = at;
        self.dropping = false;
    }

    pub(super) fn skip(&mut self, from: usize, to: usize) {
        self.copy(from);
        self.from = to;
    }

    pub(super) fn put(&mut self, at: usize, text: &str) {
        self.copy(at);
        self.from = at;
        self.copied().extend_from_slice(text.as_bytes());
    }

    fn copy(&mut self, to: usize) {
        let run = &self.piece[self.from..to];
        self.copied().extend_from_slice(run);
    }

    fn copied(&mut self) -> &mut Vec<u8> {
        let room = self.piece.len() + self.held.len();
        self.copied.get_or_insert_with(|| Vec::with_capacity(room))
    }

    /// What goes on, and what is held until the next piece; of mere space not all.
    pub(super) fn finish(mut self, piece: &Bytes, only_space: bool) -> (Bytes, Vec<u8>) {
        if !self.dropping {
            match self.hold {
                Some(at) => {
                    if at > self.from {
                        self.copy(at);
                    }
                    self.held.extend_from_slice(&self.piece[at..]);
                    if only_space {
                        self.held.truncate(SPACE_HELD_MAX);
                    }
                    self.copied.get_or_insert_default();
                }
                None if self.copied.is_none() && self.from == 0 => {
                    return (piece.clone(), self.held);
                }
                None => self.copy(self.piece.len()),
            }
        }
        (Bytes::from(self.copied.unwrap_or_default()), self.held)
    }
}

/// Longest white space before a name that is kept when it does not stand in one piece; what is more of it is left out.
const SPACE_HELD_MAX: usize = 4096;
