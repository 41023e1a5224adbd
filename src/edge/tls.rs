//! Certificates: loaded, checked against their keys, chosen by server name.

use std::collections::HashMap;
use std::collections::hash_map::DefaultHasher;
use std::hash::Hash;
use std::hash::Hasher;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::sync::Arc;

use rustls::ServerConfig;
use rustls::crypto::CryptoProvider;
use rustls::crypto::aws_lc_rs;
use rustls::server::ClientHello;
use rustls::server::NoServerSessionStorage;
use rustls::server::ResolvesServerCert;
use rustls::sign::CertifiedKey;
use rustls_pki_types::CertificateDer;
use x509_parser::parse_x509_certificate;

use crate::clock::Wall;
use crate::config::CertificateFiles;
use crate::config::Tls;
use crate::pem::TlsProblem;
use crate::pem::problem;
use crate::pem::read_chain;
use crate::pem::read_key;

/// What the files of `[tls]` hold, ready to be put in force.
#[derive(Clone, Debug)]
pub struct Certificates {
    /// For the handshakes.
    pub server_config: Arc<ServerConfig>,
    /// When the first of the leaf certificates expires.
    pub earliest_expiry: Wall,
    /// What is wrong but keeps nobody from serving: certificates out of their time.
    pub warnings: Vec<TlsProblem>,
}

impl Certificates {
    /// Reads and checks every file. Blocking: a few file reads.
    ///
    /// # Errors
    /// All problems at once. A certificate that has expired, or is not valid yet, is a warning: refusing it would turn one outage into another.
    pub fn load(tls: &Tls, now: Wall) -> Result<Certificates, Vec<TlsProblem>> {
        let provider = Arc::new(aws_lc_rs::default_provider());
        let mut loading = Loading {
            provider: &provider,
            now,
            earliest_expiry: Wall(u64::MAX),
            warnings: Vec::new(),
            problems: Vec::new(),
        };
        let default = loading.certified_key(&tls.default);
        let mut by_name = HashMap::new();
        for entry in &tls.sni {
            let Some(key) = loading.certified_key(&entry.files) else {
                continue;
            };
            for host in &entry.hosts {
                by_name.insert(host.clone(), Arc::clone(&key));
            }
        }
        let Loading {
            earliest_expiry,
            warnings,
            problems,
            ..
        } = loading;
        let Some(default) = default.filter(|_| problems.is_empty()) else {
            return Err(problems);
        };
        let chooser = Chooser { default, by_name };
        let server_config = server_config(provider, tls.allow_tls12, chooser)
            .map_err(|error| vec![problem(None, format!("TLS cannot be set up: {error}"))])?;
        Ok(Certificates {
            server_config: Arc::new(server_config),
            earliest_expiry,
            warnings,
        })
    }
}

fn server_config(
    provider: Arc<CryptoProvider>,
    allow_tls12: bool,
    chooser: Chooser,
) -> Result<ServerConfig, rustls::Error> {
    let versions: &[_] = if allow_tls12 {
        &[&rustls::version::TLS13, &rustls::version::TLS12]
    } else {
        &[&rustls::version::TLS13]
    };
    let mut config = ServerConfig::builder_with_provider(provider)
        .with_protocol_versions(versions)?
        .with_no_client_auth()
        .with_cert_resolver(Arc::new(chooser));
    config.alpn_protocols = ALPN.map(<[u8]>::to_vec).into();
    // No early data (rustls' default, said here because S23 rests on it): a 0-RTT request can be replayed.
    config.max_early_data_size = 0;
    // Tickets only, keys rotated every 6 hours: no session table that strangers fill. One ticket per handshake is what it is worth.
    config.ticketer = aws_lc_rs::Ticketer::new()?;
    config.send_tls13_tickets = 1;
    config.session_storage = Arc::new(NoServerSessionStorage {});
    Ok(config)
}

/// A number that changes when the content or the mode of any file of `[tls]` does: to poll for new certificates. Blocking.
#[must_use]
pub fn fingerprint(tls: &Tls) -> u64 {
    let mut hasher = DefaultHasher::new();
    let files = std::iter::once(&tls.default).chain(tls.sni.iter().map(|entry| &entry.files));
    for file in files.flat_map(|files| [&files.certificate, &files.private_key]) {
        file.hash(&mut hasher);
        std::fs::read(file).ok().hash(&mut hasher);
        let mode = std::fs::metadata(file).map(|data| data.permissions().mode());
        mode.ok().hash(&mut hasher);
    }
    hasher.finish()
}

/// What has been found while the files are read.
struct Loading<'a> {
    provider: &'a CryptoProvider,
    now: Wall,
    earliest_expiry: Wall,
    warnings: Vec<TlsProblem>,
    problems: Vec<TlsProblem>,
}

impl Loading<'_> {
    fn certified_key(&mut self, files: &CertificateFiles) -> Option<Arc<CertifiedKey>> {
        let chain = read_chain(&files.certificate);
        let key = read_key(&files.private_key);
        let (chain, key) = match (chain, key) {
            (Ok(chain), Ok(key)) => (chain, key),
            (chain, key) => {
                self.problems.extend(chain.err());
                self.problems.extend(key.err());
                return None;
            }
        };
        self.check_dates(&files.certificate, chain.first()?);
        match CertifiedKey::from_der(chain, key, self.provider) {
            Ok(certified) => Some(Arc::new(certified)),
            Err(error) => {
                self.problems.push(mismatch(files, &error));
                None
            }
        }
    }

    fn check_dates(&mut self, path: &Path, leaf: &CertificateDer<'_>) {
        let Ok((_, certificate)) = parse_x509_certificate(leaf) else {
            self.problems.push(problem(
                Some(path),
                "the first certificate is not valid X.509; write the chain leaf first, as your CA delivered it",
            ));
            return;
        };
        let seconds =
            |time: x509_parser::time::ASN1Time| u64::try_from(time.timestamp()).unwrap_or(0);
        let validity = certificate.validity();
        let expiry = Wall::from_unix_seconds(seconds(validity.not_after));
        self.earliest_expiry = self.earliest_expiry.min(expiry);
        if expiry < self.now {
            let text = format!(
                "the certificate expired on {}; renew it",
                validity.not_after
            );
            self.warnings.push(problem(Some(path), text));
        } else if Wall::from_unix_seconds(seconds(validity.not_before)) > self.now {
            let text = format!(
                "the certificate is not valid before {}; check the clock of this machine",
                validity.not_before
            );
            self.warnings.push(problem(Some(path), text));
        }
    }
}

fn mismatch(files: &CertificateFiles, error: &rustls::Error) -> TlsProblem {
    let certificate = files.certificate.display();
    let text = match error {
        rustls::Error::InconsistentKeys(_) => format!(
            "the private key does not belong to the first certificate of {certificate}; the two files must be from the same order, the chain leaf first"
        ),
        _ => format!(
            "the private key cannot be used: {error}; RSA (2048 bits or more), ECDSA P-256/P-384 and Ed25519 can"
        ),
    };
    problem(Some(&files.private_key), text)
}

/// Chooses by server name: exact, then wildcard of one label, else the default.
#[derive(Debug)]
struct Chooser {
    default: Arc<CertifiedKey>,
    /// Lower case, wildcards as `*.example.org`.
    by_name: HashMap<String, Arc<CertifiedKey>>,
}

impl Chooser {
    fn choose(&self, name: &str) -> &Arc<CertifiedKey> {
        let exact = self.by_name.get(name);
        let wildcard = || {
            let (_, parent) = name.split_once('.')?;
            self.by_name.get(format!("*.{parent}").as_str())
        };
        exact.or_else(wildcard).unwrap_or(&self.default)
    }
}

impl ResolvesServerCert for Chooser {
    fn resolve(&self, hello: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        let chosen = match hello.server_name() {
            // Without `[[tls.sni]]` there is nothing to look up. rustls hands the name over in lower case.
            Some(name) if !self.by_name.is_empty() => self.choose(name),
            _ => &self.default,
        };
        Some(Arc::clone(chosen))
    }
}

/// ALPN of HTTP/2 over TLS.
pub(super) const ALPN_HTTP2: &[u8] = b"h2";
/// What is spoken, best first; some clients of HTTP/1.0 say so (`curl --http1.0`).
const ALPN: [&[u8]; 3] = [ALPN_HTTP2, b"http/1.1", b"http/1.0"];

#[cfg(test)]
mod tests {
    use super::*;

    use std::fs;
    use std::path::PathBuf;
    use std::time::Duration;

    use rcgen::CertificateParams;
    use rcgen::KeyPair;
    use tempfile::TempDir;

    use crate::config::SniCertificate;

    fn write(directory: &TempDir, name: &str, text: &str, mode: u32) -> PathBuf {
        let path = directory.path().join(name);
        fs::write(&path, text).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(mode)).unwrap();
        path
    }

    fn files(directory: &TempDir, name: &str) -> CertificateFiles {
        let made = rcgen::generate_simple_self_signed(vec![name.to_owned()]).unwrap();
        let key = made.signing_key.serialize_pem();
        CertificateFiles {
            certificate: write(directory, &format!("{name}.crt"), &made.cert.pem(), 0o644),
            private_key: write(directory, &format!("{name}.key"), &key, 0o600),
        }
    }

    fn tls(default: CertificateFiles) -> Tls {
        Tls {
            default,
            sni: Vec::new(),
            allow_tls12: true,
        }
    }

    fn now() -> Wall {
        crate::clock::Clock::system().now().wall
    }

    fn refusal(tls: &Tls) -> String {
        let problems = Certificates::load(tls, now()).unwrap_err();
        let texts: Vec<String> = problems.iter().map(ToString::to_string).collect();
        texts.join("\n")
    }

    #[test]
    fn each_bad_file_is_named_with_the_way_out() {
        let dir = TempDir::new().unwrap();
        let good = files(&dir, "good");
        let other = files(&dir, "other");
        let missing = dir.path().join("missing");
        let empty = write(&dir, "empty", "", 0o600);
        let cut = write(&dir, "cut", "-----BEGIN CERTIFICATE-----\nAAAA\n", 0o600);
        let open = write(&dir, "open", "x", 0o644);
        let pair = |certificate: &PathBuf, private_key: &PathBuf| CertificateFiles {
            certificate: certificate.clone(),
            private_key: private_key.clone(),
        };
        let cases = [
            (
                pair(&missing, &good.private_key),
                &missing,
                "cannot be read",
            ),
            (
                pair(&good.certificate, &missing),
                &missing,
                "cannot be read",
            ),
            (
                pair(&empty, &good.private_key),
                &empty,
                "no certificate in it",
            ),
            (pair(&cut, &good.private_key), &cut, "no END line"),
            (
                pair(&good.private_key, &good.private_key),
                &good.private_key,
                "no certificate in it",
            ),
            (
                pair(&good.certificate, &empty),
                &empty,
                "no private key in it",
            ),
            (pair(&good.certificate, &open), &open, "chmod o="),
            (
                pair(&good.certificate, &other.private_key),
                &other.private_key,
                "does not belong",
            ),
        ];
        for (files, path, text) in cases {
            let said = refusal(&tls(files));
            assert!(said.starts_with(&format!("{}: ", path.display())), "{said}");
            assert!(said.contains(text), "{said}");
        }
    }

    #[test]
    fn all_problems_are_told_at_once() {
        let dir = TempDir::new().unwrap();
        let missing = |name: &str| CertificateFiles {
            certificate: dir.path().join(format!("{name}.crt")),
            private_key: dir.path().join(format!("{name}.key")),
        };
        let mut tls = tls(missing("a"));
        tls.sni.push(SniCertificate {
            hosts: vec!["b.test".to_owned()],
            files: missing("b"),
        });
        assert_eq!(refusal(&tls).lines().count(), 4);
    }

    #[test]
    fn a_key_readable_by_its_group_is_fine() {
        let dir = TempDir::new().unwrap();
        let files = files(&dir, "a");
        fs::set_permissions(&files.private_key, fs::Permissions::from_mode(0o640)).unwrap();
        assert!(Certificates::load(&tls(files), now()).is_ok());
    }

    #[test]
    fn an_expired_certificate_is_a_warning_and_dates_the_earliest_expiry() {
        let dir = TempDir::new().unwrap();
        let key = KeyPair::generate().unwrap();
        let mut parameters = CertificateParams::new(vec!["old.test".to_owned()]).unwrap();
        parameters.not_before = rcgen::date_time_ymd(2020, 1, 1);
        parameters.not_after = rcgen::date_time_ymd(2021, 1, 1);
        let old = parameters.self_signed(&key).unwrap();
        let mut tls = tls(files(&dir, "new.test"));
        tls.sni.push(SniCertificate {
            hosts: vec!["old.test".to_owned()],
            files: CertificateFiles {
                certificate: write(&dir, "old.crt", &old.pem(), 0o644),
                private_key: write(&dir, "old.key", &key.serialize_pem(), 0o600),
            },
        });
        let loaded = Certificates::load(&tls, now()).unwrap();
        assert_eq!(
            loaded.earliest_expiry,
            Wall::from_unix_seconds(1_609_459_200)
        );
        assert_eq!(loaded.warnings.len(), 1);
        assert!(loaded.warnings[0].to_string().contains("expired on"));
        let before = Wall::from_unix_seconds(1_500_000_000);
        let loaded = Certificates::load(&tls, before).unwrap();
        assert!(loaded.warnings[0].to_string().contains("not valid before"));
    }

    #[test]
    fn fingerprint_changes_with_content_and_mode_only() {
        let dir = TempDir::new().unwrap();
        let tls = tls(files(&dir, "a"));
        let first = fingerprint(&tls);
        let text = fs::read(&tls.default.certificate).unwrap();
        fs::write(&tls.default.certificate, &text).unwrap();
        assert_eq!(fingerprint(&tls), first, "the same content written again");
        fs::set_permissions(&tls.default.private_key, fs::Permissions::from_mode(0o640)).unwrap();
        let second = fingerprint(&tls);
        assert_ne!(second, first);
        fs::write(&tls.default.certificate, b"other").unwrap();
        assert_ne!(fingerprint(&tls), second);
        fs::remove_file(&tls.default.certificate).unwrap();
        assert_ne!(fingerprint(&tls), second);
    }

    #[test]
    fn exact_name_beats_wildcard_beats_default() {
        let dir = TempDir::new().unwrap();
        let provider = aws_lc_rs::default_provider();
        let mut loading = Loading {
            provider: &provider,
            now: now().min(Wall(u64::MAX)),
            earliest_expiry: Wall(u64::MAX),
            warnings: Vec::new(),
            problems: Vec::new(),
        };
        let mut key = |name| loading.certified_key(&files(&dir, name)).unwrap();
        let (default, exact, wildcard) = (key("default"), key("exact"), key("wildcard"));
        let chooser = Chooser {
            default: Arc::clone(&default),
            by_name: HashMap::from([
                ("api.example.org".to_owned(), Arc::clone(&exact)),
                ("*.example.org".to_owned(), Arc::clone(&wildcard)),
            ]),
        };
        let cases = [
            ("api.example.org", &exact),
            ("www.example.org", &wildcard),
            ("a.b.example.org", &default),
            ("example.org", &default),
            ("org", &default),
            ("", &default),
        ];
        for (name, expected) in cases {
            assert!(Arc::ptr_eq(chooser.choose(name), expected), "{name}");
        }
        assert!(loading.now.0 > 0 && Duration::from_micros(loading.now.0).as_secs() > 0);
    }
}
