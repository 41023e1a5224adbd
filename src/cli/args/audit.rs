//! `audit …` as it is typed.

use clap::Args;
use clap::Subcommand;

use crate::cli::expires;
use crate::store::audit::Which;

#[derive(Debug, Subcommand)]
pub(in crate::cli) enum Audit {
    /// What administrators did, the latest first
    List(ListAudit),
    /// Look whether every line is as it was written, none is missing, and they stand in their order; exit 1 if not
    #[command(after_help = VERIFY)]
    Verify {
        /// A line and its hash, written down elsewhere before: 17:HASH
        #[arg(long, value_name = "LINE:HASH", value_parser = expected)]
        expect: Option<(u64, String)>,
    },
}

#[derive(Debug, Args)]
pub(in crate::cli) struct ListAudit {
    /// About this key, tenant or token
    #[arg(long, value_name = "ID")]
    subject: Option<String>,
    /// By this one, for example uid:1000 or token:tok_…
    #[arg(long)]
    who: Option<String>,
    /// How far back
    #[arg(long, value_name = "SPAN", value_parser = expires::span)]
    since: Option<u64>,
    /// At most so many lines
    #[arg(long, value_name = "N", default_value = "100", value_parser = clap::value_parser!(u32).range(1..=1000))]
    limit: u32,
    /// Only lines before this one
    #[arg(long, value_name = "LINE")]
    before: Option<u64>,
}

impl ListAudit {
    /// What is asked.
    pub(in crate::cli) fn which(self) -> Which {
        Which {
            subject: self.subject,
            who: self.who,
            since_seconds: self.since,
            before: self.before,
            limit: Some(self.limit),
        }
    }
}

fn expected(text: &str) -> Result<(u64, String), String> {
    let wrong = "write a line and its 64 hexadecimal digits, for example 17:3fa9…";
    let (line, hash) = text.split_once(':').ok_or(wrong)?;
    let line = line.parse().map_err(|_| wrong)?;
    let digits = hash.len() == 64 && hash.bytes().all(|byte| byte.is_ascii_hexdigit());
    digits
        .then(|| (line, hash.to_owned()))
        .ok_or_else(|| wrong.to_owned())
}

const VERIFY: &str = "\
Who may write the store's files can write the log anew from end to end. What he cannot change is what was written down elsewhere: the gateway's own log
has number and hash of each line (audit_seq, audit_hash), and this command prints the last. --expect compares.
Lines beyond [audit] keep and lines_max are let go by the gateway, and a line of the log (audit-prune) says which, with the hash of the last of them. This
command says since when the log is kept; a beginning that is missing without such a line is a fault. Such a line can be forged like any other, by who may
write the files: that the beginning was let go by the gateway is shown by --expect with that line, or a later one, as the gateway's own log has it. A line
that is expected and was let go is a fault: only who wrote it down knows whether it was old enough to go.";
