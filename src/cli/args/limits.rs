//! `limits …` as it is typed.

use clap::Subcommand;

#[derive(Debug, Subcommand)]
pub(in crate::cli) enum Limits {
    /// Which route, windows and scope a request would meet, their state, and why; nothing is charged
    Explain {
        /// The key's id, as `keys list` shows it
        #[arg(value_name = "KEY_ID")]
        id: String,
        /// The path, for example /leases/7
        path: String,
        /// The method
        #[arg(long, default_value = "GET")]
        method: String,
        /// The host; routes that serve any host when left out
        #[arg(long, value_name = "NAME")]
        host: Option<String>,
    },
    /// Whom rules in observe mode would have refused since the gateway started: keys, routes, reasons
    #[command(after_help = OBSERVED)]
    Observed,
}

const OBSERVED: &str = "\
Limits and scopes that are only observed (mode = \"observe\" in [limits], a plan or a route) let everybody pass and count here. The access
log has each such request, as would_refuse. The report begins anew when the gateway starts, and has at most 10,000 rows; beyond them
requests are only counted.";
