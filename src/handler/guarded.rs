//! An answer under guard: held until it can still be refused, filtered as it flows, cut when another tenant shows up later.

use std::pin::Pin;
use std::sync::Arc;
use std::task::Context;
use std::task::Poll;
use std::task::ready;

use bytes::Bytes;
use bytes::BytesMut;
use http::HeaderMap;
use http_body::Body as _;
use http_body::Frame;
use http_body::SizeHint;

use crate::gate::Admission;
use crate::guard::Bounds;
use crate::guard::Coding;
use crate::guard::Fault;
use crate::guard::Form;
use crate::guard::Rules;
use crate::guard::Stage;
use crate::model::guard::Broken;
use crate::model::guard::Foreign;
use crate::model::guard::Guard;
use crate::model::limit::Mode;
use crate::upstream::BodyFault;
use crate::upstream::ResponseBody;

use super::guard_head::forget_digests;

/// A backend's body that a guard reads.
#[derive(Debug)]
pub(crate) struct Guarded {
    stream: Box<ResponseBody>,
    guard: Arc<Guard>,
    /// `None` once nothing is judged any more, in observe mode.
    stage: Option<Stage>,
    /// What has been let through and not been sent.
    held: BytesMut,
    /// The backend's body is over.
    read: bool,
    /// What becomes of it is in `held`, and no more will come.
    over: bool,
    trailers: Option<HeaderMap>,
    fault: Option<Fault>,
    /// Whether `fault` has not been told yet.
    news: bool,
}

/// Why an answer under guard does not go on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Stop {
    /// The guard says so.
    Guard(Fault),
    /// Its body broke off.
    Body(BodyFault),
}

impl Guarded {
    /// # Errors
    /// `Fault` when it cannot be decoded here.
    pub(crate) fn new(
        stream: Box<ResponseBody>,
        guard: &Arc<Guard>,
        admission: &Admission,
        form: Form,
        coding: Coding,
    ) -> Result<Guarded, Fault> {
        let own = admission
            .tenant()
            .map(|tenant| Arc::from(tenant.id.as_str()));
        let rules = Rules {
            members: Arc::clone(&guard.answers),
            own,
            lenient: guard.broken == Broken::Pass,
            sniff: false,
            insert: None,
        };
        let bounds = Bounds {
            bytes_max: guard.decoded_bytes_max,
            ratio_max: guard.decoded_ratio_max,
        };
        Ok(Guarded {
            stage: Some(Stage::new(&rules, form, coding, bounds)?),
            stream,
            guard: Arc::clone(guard),
            held: BytesMut::new(),
            read: false,
            over: false,
            trailers: None,
            fault: None,
            news: false,
        })
    }

    /// How much of it to hold before its head is sent, in bytes. Events are never held: the first must come at once.
    pub(crate) fn bytes_to_hold(guard: &Guard, form: Form) -> usize {
        match (guard.mode, guard.foreign, form) {
            (Mode::Observe, _, _) | (_, Foreign::Cut, _) | (_, _, Form::Events) => 0,
            _ => guard.bytes_held,
        }
    }

    /// Reads until so many bytes may go on, or all of them.
    pub(crate) fn poll_hold(
        &mut self,
        cx: &mut Context<'_>,
        bytes: usize,
    ) -> Poll<Result<(), Stop>> {
        while self.held.len() < bytes {
            match ready!(self.poll_next(cx))? {
                Some(piece) => self.held.extend_from_slice(&piece),
                None => break,
            }
        }
        Poll::Ready(Ok(()))
    }

    /// The backend's stream, for the account.
    pub(crate) fn stream(&self) -> &ResponseBody {
        &self.stream
    }

    pub(crate) fn guard(&self) -> &Arc<Guard> {
        &self.guard
    }

    /// How many members were taken out, or would have been; 0 once the answer is refused for more than that.
    pub(crate) fn removed(&self) -> u64 {
        if self.fault.is_some() {
            return 0;
        }
        self.stage.as_ref().map_or(0, Stage::removed)
    }

    /// What was found since the last call.
    pub(crate) fn take_news(&mut self) -> Option<Fault> {
        self.fault.filter(|_| std::mem::take(&mut self.news))
    }

    /// Whether the backend has said all, and the client has not got all of it.
    pub(crate) fn is_unsent(&self) -> bool {
        self.stream.is_end_stream() && !self.is_end_stream()
    }

    /// Whether the guard cut it.
    pub(crate) fn cut_for(&self) -> Option<Fault> {
        self.fault.filter(|_| self.guard.mode == Mode::Enforce)
    }

    /// The next piece that may go on, never empty; `None` at the end.
    fn poll_next(&mut self, cx: &mut Context<'_>) -> Poll<Result<Option<Bytes>, Stop>> {
        loop {
            let Some(stage) = self.stage.as_mut().filter(|_| !self.over) else {
                return Poll::Ready(Ok(None));
            };
            let next = match stage.pull() {
                Ok(None) if self.read => {
                    self.over = true;
                    stage.finish().map(Some)
                }
                next => next,
            };
            match next {
                Ok(Some(piece)) if !piece.is_empty() => return Poll::Ready(Ok(Some(piece))),
                Ok(Some(_)) => continue,
                Ok(None) => {}
                Err(fault) => {
                    self.found(fault);
                    return Poll::Ready(Err(Stop::Guard(fault)));
                }
            }
            match ready!(Pin::new(&mut self.stream).poll_frame(cx)) {
                Some(Ok(frame)) => match frame.into_data() {
                    Ok(data) => stage.push(data),
                    Err(frame) => {
                        self.trailers = frame.into_trailers().ok();
                        self.read = true;
                    }
                },
                Some(Err(fault)) => {
                    self.over = true;
                    return Poll::Ready(Err(Stop::Body(fault)));
                }
                None => self.read = true,
            }
        }
    }

    fn found(&mut self, fault: Fault) {
        self.over = true;
        self.fault = Some(fault);
        self.news = true;
    }

    fn poll_enforced(
        &mut self,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BodyFault>>> {
        if !self.held.is_empty() {
            let held = self.held.split().freeze();
            return Poll::Ready(Some(Ok(Frame::data(held))));
        }
        if self.fault.is_some() {
            return Poll::Ready(None);
        }
        Poll::Ready(match ready!(self.poll_next(cx)) {
            Ok(Some(piece)) => Some(Ok(Frame::data(piece))),
            Ok(None) => self.trailers.take().and_then(|mut trailers| {
                forget_digests(&mut trailers);
                for name in &self.guard.remove_headers {
                    trailers.remove(name);
                }
                (!trailers.is_empty()).then(|| Ok(Frame::trailers(trailers)))
            }),
            Err(Stop::Guard(_)) => Some(Err(BodyFault::GuardCut)),
            Err(Stop::Body(fault)) => Some(Err(fault)),
        })
    }

    /// Passes everything on as it is and reads along.
    fn poll_observed(
        &mut self,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BodyFault>>> {
        let frame = ready!(Pin::new(&mut self.stream).poll_frame(cx));
        let data = match &frame {
            Some(Ok(frame)) => frame.data_ref().cloned(),
            _ => None,
        };
        if let Err(fault) = self.observe(data, matches!(frame, Some(Err(_)))) {
            self.stage = None;
            self.found(fault);
        }
        Poll::Ready(frame)
    }

    fn observe(&mut self, data: Option<Bytes>, broke_off: bool) -> Result<(), Fault> {
        let Some(stage) = &mut self.stage else {
            return Ok(());
        };
        let last = data.is_none() || self.stream.is_end_stream();
        stage.push(data.unwrap_or_default());
        while stage.pull()?.is_some() {}
        if last && !broke_off && !self.read {
            self.read = true;
            stage.finish()?;
        }
        Ok(())
    }
}

impl http_body::Body for Guarded {
    type Data = Bytes;
    type Error = BodyFault;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BodyFault>>> {
        match self.guard.mode {
            Mode::Enforce => self.poll_enforced(cx),
            Mode::Observe => self.poll_observed(cx),
        }
    }

    fn is_end_stream(&self) -> bool {
        match self.guard.mode {
            Mode::Enforce => {
                self.over && self.held.is_empty() && self.trailers.is_none() && self.fault.is_none()
            }
            Mode::Observe => self.stream.is_end_stream(),
        }
    }

    fn size_hint(&self) -> SizeHint {
        match self.guard.mode {
            Mode::Enforce if self.over && self.trailers.is_none() && self.fault.is_none() => {
                SizeHint::with_exact(self.held.len() as u64)
            }
            Mode::Enforce => SizeHint::default(),
            Mode::Observe => self.stream.size_hint(),
        }
    }
}
