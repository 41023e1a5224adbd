//! `[listen]` and `[admin]`: the addresses of the gateway.

use std::net::SocketAddr;
use std::path::Path;
use std::path::PathBuf;

use toml::Spanned;

use crate::config::addresses;
use crate::config::check;
use crate::config::file::Reader;
use crate::config::problem::Problem;
use crate::config::settings::path;

/// `[listen]`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Listen {
    /// TLS addresses; at least one.
    pub https: Vec<SocketAddr>,
    /// Addresses that answer 403 in clear and close.
    pub http: Vec<SocketAddr>,
    /// Health and metrics; `None` for no TCP admin listener.
    pub admin: Option<SocketAddr>,
    /// Unix socket that the command line talks to. At most 107 bytes.
    pub admin_socket: PathBuf,
}

/// `[admin]`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct AdminConfig {
    /// Names beside `localhost` and its own addresses under which it may be asked; lower case, without port.
    pub hosts: Vec<String>,
}

/// `[listen]`. The admin socket stands in the store's directory unless it is given.
pub(in crate::config) fn listen(root: &mut Reader<'_>, base: &Path, store: &Path) -> Listen {
    root.table("listen", "listen", |table| {
        let https = addresses(table, "https", "0.0.0.0:8443");
        let http = addresses(table, "http", "0.0.0.0:8080");
        let admin = admin(table);
        if https.is_empty() && table.list_is_empty("https") {
            table.notes().error(Problem::context(
                table.place("https"),
                "[listen] https: no address to serve on",
                "write https = [\"0.0.0.0:8443\"], or leave it out for just that",
            ));
        }
        let named = |name| move |address: &Spanned<SocketAddr>| (name, address.clone());
        let all: Vec<_> = (https.iter().map(named("https")))
            .chain(http.iter().map(named("http")))
            .chain(admin.iter().map(named("admin")))
            .collect();
        check::listeners(&all, table.notes());
        Listen {
            https: https.into_iter().map(Spanned::into_inner).collect(),
            http: http.into_iter().map(Spanned::into_inner).collect(),
            admin: admin.map(Spanned::into_inner),
            admin_socket: admin_socket(table, base, store),
        }
    })
}

fn addresses(table: &mut Reader<'_>, key: &'static str, default: &str) -> Vec<Spanned<SocketAddr>> {
    let place = table.header().unwrap_or_default();
    let default = || addresses::socket_address(default).map(|address| Spanned::new(place, address));
    match table.list(key, addresses::socket_address) {
        Some(list) => list,
        None => default().into_iter().collect(),
    }
}

fn admin(table: &mut Reader<'_>) -> Option<Spanned<SocketAddr>> {
    let place = table.header().unwrap_or_default();
    let admin = table.word("admin", |text| match text {
        "" => Ok(None),
        text => addresses::socket_address(text).map(Some),
    });
    match admin {
        Some(admin) => {
            let place = admin.span();
            admin
                .into_inner()
                .map(|address| Spanned::new(place, address))
        }
        None => {
            let default = addresses::socket_address("127.0.0.1:9600").ok()?;
            Some(Spanned::new(place, default))
        }
    }
}

fn admin_socket(table: &mut Reader<'_>, base: &Path, store: &Path) -> PathBuf {
    let given = table.word("admin_socket", |text| match text {
        "" => Ok(store.join("admin.sock")),
        text => path(base, text),
    });
    let socket = given.map_or_else(|| store.join("admin.sock"), Spanned::into_inner);
    if socket.as_os_str().len() > SOCKET_PATH_MAX {
        table.notes().error(Problem::context(
            table.place("admin_socket"),
            format!(
                "[listen] admin_socket: {} is too long for a socket",
                socket.display()
            ),
            format!(
                "at most {SOCKET_PATH_MAX} bytes: admin_socket = \"/run/portcullis/admin.sock\""
            ),
        ));
    }
    socket
}

/// `[admin]`.
pub(in crate::config) fn admin_names(root: &mut Reader<'_>) -> AdminConfig {
    root.table("admin", "admin", |table| AdminConfig {
        hosts: (table
            .list("hosts", addresses::host_name)
            .into_iter()
            .flatten())
        .map(Spanned::into_inner)
        .collect(),
    })
}

/// Longest path of a Unix socket, `sun_path` without its terminator.
const SOCKET_PATH_MAX: usize = 107;
