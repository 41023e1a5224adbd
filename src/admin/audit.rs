//! The audit log as the admin plane shows it: read beside the one writer, and without holding it up.

use std::path::Path;

use serde::Deserialize;
use serde::Serialize;

use crate::clock::Wall;
use crate::store::VerbError;
use crate::store::audit::Line;
use crate::store::audit::Log;
use crate::store::audit::Verdict;
use crate::store::audit::Which;

/// What is asked of the log.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum AuditAsked {
    /// Lines.
    List(Which),
    /// Whether it is whole.
    Verify {
        /// A line and the hash that it must have.
        expect: Option<(u64, String)>,
    },
}

/// What it says.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct AuditAnswer {
    /// The latest first.
    pub lines: Vec<Line>,
    /// Where that was asked.
    pub verdict: Option<Verdict>,
}

impl AuditAsked {
    /// Reads the log of the store in this directory. Blocks on the disk.
    ///
    /// # Errors
    /// It cannot be read.
    pub fn answer(&self, directory: &Path, now: Wall) -> Result<AuditAnswer, VerbError> {
        let Some(log) = Log::open(directory)? else {
            return Ok(AuditAnswer::default());
        };
        Ok(match self {
            AuditAsked::List(which) => AuditAnswer {
                lines: log.lines(which, now)?,
                verdict: None,
            },
            AuditAsked::Verify { expect } => {
                let expect = expect.as_ref().map(|(line, hash)| (*line, hash.as_str()));
                AuditAnswer {
                    lines: Vec::new(),
                    verdict: Some(log.verify(expect)?),
                }
            }
        })
    }
}
