//! Undoes gzip, br and zstd as the bytes flow: a bounded piece at a time, with bounded windows, and never more than was allowed in all.

use std::fmt;

use brotli_decompressor::BrotliDecompressStream;
use brotli_decompressor::BrotliResult;
use brotli_decompressor::BrotliState;
use brotli_decompressor::StandardAlloc;
use bytes::Buf;
use bytes::Bytes;
use flate2::Decompress;
use flate2::FlushDecompress;
use zstd::stream::raw;
use zstd::stream::raw::DParameter;
use zstd::stream::raw::InBuffer;
use zstd::stream::raw::Operation;
use zstd::stream::raw::OutBuffer;

use crate::guard::Fault;

/// Most bytes that one call gives out.
pub(super) const STEP_BYTES: usize = 64 * 1024;

/// Largest window of zstd, as a power of two: 8 MiB, which RFC 9659 section 3 allows a `Content-Encoding` at most.
const ZSTD_WINDOW_LOG_MAX: u32 = 23;

/// Bytes that every answer may decode to, whatever its ratio: short ones compress well.
const RATIO_FREE_BYTES: u64 = 1024 * 1024;

/// Gzip members in a row that hold nothing; each costs the decoder a start.
const EMPTY_MEMBERS_MAX: u32 = 1000;

/// How a body is encoded.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Coding {
    /// Not at all.
    Identity,
    /// gzip (RFC 1952), of one member or several.
    Gzip,
    /// Brotli (RFC 7932), without large windows.
    Brotli,
    /// Zstandard (RFC 8878), of one frame or several.
    Zstd,
}

/// How much may come out of a decoder.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Bounds {
    /// Bytes in all.
    pub bytes_max: u64,
    /// Times what went in, beyond the first MiB.
    pub ratio_max: u64,
}

/// Decodes one body.
#[derive(Debug)]
pub(super) struct Decoder {
    kind: Kind,
    bounds: Bounds,
    taken: u64,
    given: u64,
    /// Whether a member, stream or frame has begun and not ended.
    open: bool,
    /// Whether the decoder filled the room it had, and may hold more.
    full: bool,
    empty_members: u32,
    /// Room for one step; what comes out is copied, so that nobody keeps all of it for a few bytes.
    scratch: Vec<u8>,
}

enum Kind {
    Gzip(Box<Decompress>),
    Brotli(Box<BrotliState<StandardAlloc, StandardAlloc, StandardAlloc>>),
    Zstd(Box<raw::Decoder<'static>>),
}

impl fmt::Debug for Kind {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str(match self {
            Kind::Gzip(_) => "gzip",
            Kind::Brotli(_) => "br",
            Kind::Zstd(_) => "zstd",
        })
    }
}

/// What one call of a decoder did.
struct Turn {
    taken: usize,
    given: usize,
    /// Whether a member, stream or frame is over.
    ended: bool,
}

impl Decoder {
    /// A decoder; `None` where there is nothing to decode.
    pub(super) fn new(coding: Coding, bounds: Bounds) -> Result<Option<Decoder>, Fault> {
        let kind = match coding {
            Coding::Identity => return Ok(None),
            Coding::Gzip => Kind::Gzip(Box::new(Decompress::new_gzip(15))),
            Coding::Brotli => Kind::Brotli(Box::new(BrotliState::new_strict(
                StandardAlloc::default(),
                StandardAlloc::default(),
                StandardAlloc::default(),
            ))),
            Coding::Zstd => {
                let failed = |_| Fault::Undecodable("zstd cannot be set up");
                let mut decoder = raw::Decoder::new().map_err(failed)?;
                let window = DParameter::WindowLogMax(ZSTD_WINDOW_LOG_MAX);
                decoder.set_parameter(window).map_err(failed)?;
                Kind::Zstd(Box::new(decoder))
            }
        };
        Ok(Some(Decoder {
            kind,
            bounds,
            taken: 0,
            given: 0,
            open: false,
            full: false,
            empty_members: 0,
            scratch: vec![0; STEP_BYTES],
        }))
    }

    /// Takes from `input` and gives the next piece, at most `STEP_BYTES`; an empty one when `input` is used up.
    pub(super) fn decode(&mut self, input: &mut Bytes) -> Result<Bytes, Fault> {
        let mut scratch = std::mem::take(&mut self.scratch);
        let given = self.fill(input, &mut scratch);
        let out = given.map(|given| Bytes::copy_from_slice(&scratch[..given]));
        self.scratch = scratch;
        out
    }

    fn fill(&mut self, input: &mut Bytes, out: &mut [u8]) -> Result<usize, Fault> {
        while !input.is_empty() || self.full {
            let turn = self.turn(input, out)?;
            if turn.taken == 0 && turn.given == 0 && !input.is_empty() {
                return Err(Fault::Undecodable("something follows its end"));
            }
            input.advance(turn.taken);
            self.taken += turn.taken as u64;
            self.given += turn.given as u64;
            self.full = turn.given == out.len() && !turn.ended;
            self.open = !turn.ended && (self.open || turn.taken > 0);
            self.hold_bounds()?;
            if turn.ended {
                self.start_over()?;
            }
            if turn.given > 0 {
                return Ok(turn.given);
            }
        }
        Ok(0)
    }

    /// Whether the body may end here.
    pub(super) fn finish(&self) -> Result<(), Fault> {
        match self.open {
            true => Err(Fault::Undecodable("it breaks off")),
            // An empty body is what some servers send instead of an empty stream.
            false => Ok(()),
        }
    }

    fn turn(&mut self, input: &[u8], out: &mut [u8]) -> Result<Turn, Fault> {
        match &mut self.kind {
            Kind::Gzip(gzip) => {
                let (taken, given) = (gzip.total_in(), gzip.total_out());
                let status = gzip.decompress(input, out, FlushDecompress::None);
                let status = status.map_err(|_| Fault::Undecodable("it is no gzip"))?;
                Ok(Turn {
                    taken: usize::try_from(gzip.total_in() - taken).unwrap_or(0),
                    given: usize::try_from(gzip.total_out() - given).unwrap_or(0),
                    ended: status == flate2::Status::StreamEnd,
                })
            }
            Kind::Brotli(state) => {
                let (mut left, mut taken) = (input.len(), 0);
                let (mut room, mut given, mut total) = (out.len(), 0, 0);
                let result = BrotliDecompressStream(
                    &mut left, &mut taken, input, &mut room, &mut given, out, &mut total, state,
                );
                match result {
                    BrotliResult::ResultFailure => Err(Fault::Undecodable("it is no br")),
                    result => Ok(Turn {
                        taken,
                        given,
                        ended: matches!(result, BrotliResult::ResultSuccess),
                    }),
                }
            }
            Kind::Zstd(zstd) => {
                let (mut input, mut out) = (InBuffer::around(input), OutBuffer::around(out));
                let hint = zstd.run(&mut input, &mut out);
                let hint = hint.map_err(|_| {
                    Fault::Undecodable("it is no zstd, or its window is above 8 MiB")
                })?;
                Ok(Turn {
                    taken: input.pos(),
                    given: out.pos(),
                    ended: hint == 0,
                })
            }
        }
    }

    /// One member is over; another may follow.
    fn start_over(&mut self) -> Result<(), Fault> {
        let Kind::Gzip(gzip) = &mut self.kind else {
            return Ok(());
        };
        self.empty_members = match gzip.total_out() {
            0 => self.empty_members + 1,
            _ => 0,
        };
        if self.empty_members > EMPTY_MEMBERS_MAX {
            return Err(Fault::Bomb);
        }
        **gzip = Decompress::new_gzip(15);
        Ok(())
    }

    fn hold_bounds(&self) -> Result<(), Fault> {
        let by_ratio = self.taken.saturating_mul(self.bounds.ratio_max);
        let allowed = self.bounds.bytes_max.min(by_ratio.max(RATIO_FREE_BYTES));
        match self.given > allowed {
            true => Err(Fault::Bomb),
            false => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use flate2::Compression;
    use flate2::write::GzEncoder;

    use super::*;

    const LAX: Bounds = Bounds {
        bytes_max: 1 << 40,
        ratio_max: 1 << 20,
    };

    /// Decodes in pieces of this size; the most that one call gave out, too.
    fn decoded(
        coding: Coding,
        body: &[u8],
        piece: usize,
        bounds: Bounds,
    ) -> Result<(Vec<u8>, usize), Fault> {
        let mut decoder = Decoder::new(coding, bounds)?.unwrap();
        let (mut out, mut most) = (Vec::new(), 0);
        for piece in body.chunks(piece) {
            let mut input = Bytes::copy_from_slice(piece);
            loop {
                let given = decoder.decode(&mut input)?;
                if given.is_empty() {
                    break;
                }
                most = most.max(given.len());
                out.extend_from_slice(&given);
            }
        }
        decoder.finish()?;
        Ok((out, most))
    }

    fn gzip(text: &[u8]) -> Vec<u8> {
        let mut gzip = GzEncoder::new(Vec::new(), Compression::default());
        gzip.write_all(text).unwrap();
        gzip.finish().unwrap()
    }

    fn zstd(text: &[u8]) -> Vec<u8> {
        zstd::stream::encode_all(text, 3).unwrap()
    }

    fn brotli(text: &[u8]) -> Vec<u8> {
        let mut out = Vec::new();
        let mut input = text;
        brotli::BrotliCompress(
            &mut input,
            &mut out,
            &brotli::enc::BrotliEncoderParams {
                quality: 5,
                ..Default::default()
            },
        )
        .unwrap();
        out
    }

    fn all(text: &[u8]) -> [(Coding, Vec<u8>); 3] {
        [
            (Coding::Gzip, gzip(text)),
            (Coding::Brotli, brotli(text)),
            (Coding::Zstd, zstd(text)),
        ]
    }

    fn text() -> Vec<u8> {
        (0..50_000)
            .flat_map(|n: u32| format!("{{\"n\":{n}}}\n").into_bytes())
            .collect()
    }

    #[test]
    fn what_was_encoded_comes_out_in_pieces_of_any_size() {
        for piece in [1, 7, 4096, 1 << 20] {
            for (coding, body) in all(&text()) {
                let (out, most) = decoded(coding, &body, piece, LAX).unwrap();
                assert_eq!(out, text(), "{coding:?} by {piece}");
                assert!(most <= STEP_BYTES);
            }
        }
    }

    #[test]
    fn members_and_frames_may_follow_one_another() {
        for coding in [Coding::Gzip, Coding::Zstd] {
            let of = |text: &[u8]| {
                if coding == Coding::Gzip {
                    gzip(text)
                } else {
                    zstd(text)
                }
            };
            let body = [of(b"one"), of(b""), of(b"two")].concat();
            for piece in [1, 1000] {
                assert_eq!(decoded(coding, &body, piece, LAX).unwrap().0, b"onetwo");
            }
        }
        assert_eq!(
            decoded(Coding::Gzip, &gzip(b"").repeat(2000), 4096, LAX),
            Err(Fault::Bomb)
        );
    }

    #[test]
    fn what_breaks_off_or_is_garbled_is_seen() {
        for (coding, body) in all(&text()) {
            for end in [1, 5, body.len() / 2, body.len() - 1] {
                let broken = decoded(coding, &body[..end], 1000, LAX);
                assert!(
                    matches!(broken, Err(Fault::Undecodable(_))),
                    "{coding:?} {end}: {broken:?}"
                );
            }
            let garbage = decoded(coding, b"[{\"tenant_id\":\"acme\"}]", 1000, LAX);
            assert!(matches!(garbage, Err(Fault::Undecodable(_))));
            let trailing = decoded(
                coding,
                &[body.clone(), b"more".to_vec()].concat(),
                1000,
                LAX,
            );
            assert!(
                matches!(trailing, Err(Fault::Undecodable(_))),
                "{trailing:?}"
            );
            // The checksum, or the last block.
            let mut flipped = body.clone();
            flipped[body.len() / 2] ^= 0x10;
            assert!(decoded(coding, &flipped, 1000, LAX).is_err());
        }
    }

    #[test]
    fn a_bomb_is_given_up_early_and_in_steps() {
        let bomb = vec![b' '; 64 << 20];
        for (coding, body) in all(&bomb) {
            let by_ratio = Bounds {
                bytes_max: 1 << 40,
                ratio_max: 100,
            };
            assert_eq!(
                decoded(coding, &body, 4096, by_ratio).map(|_| ()),
                Err(Fault::Bomb)
            );
            let in_all = Bounds {
                bytes_max: 10 << 20,
                ratio_max: 1 << 20,
            };
            assert_eq!(
                decoded(coding, &body, 4096, in_all).map(|_| ()),
                Err(Fault::Bomb)
            );
            let (out, most) = decoded(coding, &body, 4096, LAX).unwrap();
            assert_eq!((out.len(), most), (bomb.len(), STEP_BYTES), "{coding:?}");
        }
    }

    #[test]
    fn a_window_above_the_bound_is_refused() {
        let mut encoder = zstd::stream::Encoder::new(Vec::new(), 3).unwrap();
        encoder
            .set_parameter(zstd::stream::raw::CParameter::WindowLog(27))
            .unwrap();
        for _ in 0..100 {
            encoder.write_all(&text()).unwrap();
        }
        let wide = encoder.finish().unwrap();
        assert!(matches!(
            decoded(Coding::Zstd, &wide, 4096, LAX),
            Err(Fault::Undecodable(_))
        ));
    }
}
