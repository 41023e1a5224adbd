//! One body on its way: decoded, filtered, in bounded pieces.

use bytes::Bytes;

use crate::guard::Fault;
use crate::guard::decode::Bounds;
use crate::guard::decode::Coding;
use crate::guard::decode::Decoder;
use crate::guard::events::Events;
use crate::guard::json::Filter;
use crate::guard::json::Rules;

/// What kind of body it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Form {
    /// JSON: one text or several in a row, however they are set apart.
    Json,
    /// Server-sent events.
    Events,
    /// Not stated: JSON if it begins like an object or an array.
    Unstated,
}

/// Decodes and filters one body.
#[derive(Debug)]
pub struct Stage {
    decoder: Option<Decoder>,
    filter: Kind,
    /// What has been pushed and not been decoded yet.
    input: Bytes,
}

#[derive(Debug)]
enum Kind {
    Json(Filter),
    Events(Events),
}

impl Stage {
    /// A stage for one body.
    ///
    /// # Errors
    /// `Fault::Undecodable` when the decoder cannot be set up.
    pub fn new(rules: &Rules, form: Form, coding: Coding, bounds: Bounds) -> Result<Stage, Fault> {
        let filter = match form {
            Form::Json => Kind::Json(Filter::new(rules)),
            Form::Events => Kind::Events(Events::new(rules)),
            Form::Unstated => Kind::Json(Filter::new(&Rules {
                sniff: true,
                ..rules.clone()
            })),
        };
        Ok(Stage {
            decoder: Decoder::new(coding, bounds)?,
            filter,
            input: Bytes::new(),
        })
    }

    /// How many members were taken out so far.
    #[must_use]
    pub fn removed(&self) -> u64 {
        match &self.filter {
            Kind::Json(filter) => filter.removed(),
            Kind::Events(events) => events.removed(),
        }
    }

    /// Gives it the next piece of the body. The one before must have been pulled out as far as it went.
    pub fn push(&mut self, piece: Bytes) {
        self.input = piece;
    }

    /// The next piece that goes on, never empty; `None` when more must be pushed first.
    ///
    /// # Errors
    /// `Fault`: the body ends here, and not well.
    pub fn pull(&mut self) -> Result<Option<Bytes>, Fault> {
        loop {
            let piece = match &mut self.decoder {
                Some(decoder) => decoder.decode(&mut self.input)?,
                None => std::mem::take(&mut self.input),
            };
            if piece.is_empty() {
                return Ok(None);
            }
            let out = match &mut self.filter {
                Kind::Json(filter) => filter.feed(piece)?,
                Kind::Events(events) => events.feed(&piece)?,
            };
            if !out.is_empty() {
                return Ok(Some(out));
            }
        }
    }

    /// The body is over; gives what was still held.
    ///
    /// # Errors
    /// `Fault` when it ended in the middle.
    pub fn finish(&mut self) -> Result<Bytes, Fault> {
        if let Some(decoder) = &self.decoder {
            decoder.finish()?;
        }
        match &mut self.filter {
            Kind::Json(filter) => filter.finish(),
            Kind::Events(events) => events.finish(),
        }
    }
}
