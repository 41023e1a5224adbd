//! `[tls]`: certificates.

use std::path::Path;
use std::path::PathBuf;

use toml::Spanned;

use crate::config::addresses;
use crate::config::file::Reader;
use crate::config::problem::Problem;
use crate::config::settings::path;

/// `[tls]`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Tls {
    /// The certificate for every name that no `sni` entry names.
    pub default: CertificateFiles,
    /// `[[tls.sni]]`: certificates by server name.
    pub sni: Vec<SniCertificate>,
    /// Whether TLS 1.2 is spoken beside 1.3.
    pub allow_tls12: bool,
}

/// One certificate chain and its key, PEM files.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CertificateFiles {
    /// Chain, leaf first.
    pub certificate: PathBuf,
    /// Private key; its file must not be readable by others.
    pub private_key: PathBuf,
}

/// `[[tls.sni]]`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SniCertificate {
    /// Exact or `*.` wildcard names, lower case.
    pub hosts: Vec<String>,
    /// The files.
    pub files: CertificateFiles,
}

/// `[tls]`. The files are not opened here.
pub(in crate::config) fn tls(root: &mut Reader<'_>, base: &Path) -> Tls {
    if !root.has("tls") {
        root.notes().error(Problem::context(
            None,
            "[tls] is missing: there is no HTTPS without a certificate",
            "write [tls] with certificate = \"cert.pem\" and private_key = \"key.pem\"",
        ));
    }
    root.table("tls", "tls", |table| {
        let missing = table.header().is_some();
        let default = certificate(table, base, missing).unwrap_or_else(|| CertificateFiles {
            certificate: PathBuf::new(),
            private_key: PathBuf::new(),
        });
        let allow_tls12 = table.choice("min_version", true, &[("1.2", true), ("1.3", false)]);
        let sni = table.each("sni", "tls.sni", |table| {
            let hosts = table
                .list("hosts", addresses::host_pattern)
                .unwrap_or_default();
            if hosts.is_empty() {
                table.missing("hosts", "write hosts = [\"api.example.com\"]");
            }
            let files = certificate(table, base, true)?;
            let hosts = hosts.into_iter().map(Spanned::into_inner).collect();
            Some(SniCertificate { hosts, files })
        });
        Tls {
            default,
            sni: sni.into_iter().flatten().collect(),
            allow_tls12,
        }
    })
}

fn certificate(
    table: &mut Reader<'_>,
    base: &Path,
    note_missing: bool,
) -> Option<CertificateFiles> {
    let mut file = |key, help| match note_missing {
        true => table.required(key, help, |text| path(base, text)),
        false => table.word(key, |text| path(base, text)),
    };
    let certificate = file(
        "certificate",
        "write certificate = \"cert.pem\": the chain, leaf first",
    );
    let private_key = file("private_key", "write private_key = \"key.pem\"");
    Some(CertificateFiles {
        certificate: certificate?.into_inner(),
        private_key: private_key?.into_inner(),
    })
}
