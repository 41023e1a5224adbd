//! From the text of a file to what it means: everything that is wrong with it is said at once.

use std::collections::BTreeMap;
use std::io;
use std::io::Read;
use std::path::Path;
use std::sync::Arc;

use toml::de::DeTable;

use crate::config::Config;
use crate::config::Errors;
use crate::config::check;
use crate::config::check::Entries;
use crate::config::doubts;
use crate::config::entries;
use crate::config::entries::Declared;
use crate::config::entries::Placed;
use crate::config::file::Names;
use crate::config::file::Reader;
use crate::config::problem::Notes;
use crate::config::problem::Problems;
use crate::config::settings;
use crate::model::credential::Kinds;
use crate::refusal::Shape;

/// A file that was read and found good.
#[derive(Clone, Debug)]
pub struct Loaded {
    /// What it means.
    pub config: Config,
    /// What is worth a second look; often empty.
    pub warnings: Problems,
    /// Keys that the file leaves at their defaults or does not use, as `table.key`, sorted.
    pub unset: Vec<String>,
    /// Where the file names other files of upstreams: `[upstreams.legacy.tls] ca` and `gateway.toml:7:10`.
    pub places: BTreeMap<String, String>,
}

/// Reads and checks a gateway.toml.
///
/// # Errors
/// Everything that is wrong with it, at once; the file being unreadable, larger than 64 MiB or not UTF-8 included.
pub fn load(path: &Path) -> Result<Loaded, Problems> {
    read(std::fs::File::open(path), path)
}

/// The same from what is piped in; relative paths begin at the working directory.
///
/// # Errors
/// As `load`.
pub fn load_piped(input: impl Read) -> Result<Loaded, Problems> {
    read(Ok(input), Path::new("<stdin>"))
}

fn read(input: io::Result<impl Read>, path: &Path) -> Result<Loaded, Problems> {
    let shown = path.display().to_string();
    let mut bytes = Vec::new();
    let read = input.and_then(|input| input.take(FILE_BYTES_MAX + 1).read_to_end(&mut bytes));
    if let Err(error) = read {
        let what = format!("cannot be read: {error}");
        let help = "name the file with --config, or give the user of the gateway read permission";
        let problems = Problems::of_file(&shown, what, help);
        return Err(match error.kind() {
            std::io::ErrorKind::PermissionDenied => problems.denied(),
            _ => problems,
        });
    }
    if bytes.len() as u64 > FILE_BYTES_MAX {
        let what = "is larger than 64 MiB".to_owned();
        let help = "keep keys in the store instead: portcullis keys create";
        return Err(Problems::of_file(&shown, what, help));
    }
    match String::from_utf8(bytes) {
        Ok(text) => parse(&text, path),
        Err(error) => {
            let good = &error.as_bytes()[..error.utf8_error().valid_up_to()];
            let line = 1 + good.iter().filter(|byte| **byte == b'\n').count();
            let what = format!("line {line} is not UTF-8");
            Err(Problems::of_file(&shown, what, "save the file as UTF-8"))
        }
    }
}

/// Checks the text of a gateway.toml. `path` names it in messages, and its directory is where relative paths begin; the
/// disk is not touched.
///
/// # Errors
/// Everything that is wrong with it, at once.
pub fn parse(text: &str, path: &Path) -> Result<Loaded, Problems> {
    let notes = Notes::default();
    let base = path.parent().unwrap_or(Path::new(""));
    let (table, syntax) = DeTable::parse_recoverable(text);
    let config = Reader::root(table.get_ref(), &notes, |root| resolve(root, base));
    notes.syntax(text, &syntax);
    let unset = notes.unset();
    let shown = path.display().to_string();
    let places = notes.places(&shown, text);
    let warnings = notes.finish(&shown, text)?;
    Ok(Loaded {
        config,
        warnings,
        unset,
        places,
    })
}

fn resolve(root: &mut Reader<'_>, base: &Path) -> Config {
    let environments = settings::environments(root);
    let store = settings::store(root, base);
    let listen = settings::listen(root, base, &store.path);
    let errors = settings::errors(root, "errors", DEFAULT_ERRORS);
    let auth = settings::auth(root);
    let declared = declared(root, &environments, auth.credentials);
    let guards = entries::guards(root);
    let issuers = entries::issuers(root, &declared, base);
    let resources = entries::resources(root, &issuers);
    let entries = Entries {
        plans: entries::plans(root),
        tenants: entries::tenants(root, &declared),
        keys: entries::keys(root, &declared),
        upstreams: entries::upstreams(root, &declared, base),
        hosts: entries::hosts(root, &declared, errors),
        routes: entries::routes(root, &declared, &guards),
        guards,
        issuers,
        auth: auth.clone(),
        sessions: settings::sessions(root),
    };
    let config = Config {
        listen,
        admin: settings::admin_names(root),
        server: settings::server(root),
        connections: settings::connections(root),
        trusted_proxies: Arc::new(settings::trusted_proxies(root)),
        http: settings::http(root),
        tls: settings::tls(root, base),
        store,
        auth,
        tokens: settings::tokens(root),
        sessions: entries.sessions.clone(),
        keys: settings::key_format(root),
        key_rules: settings::key_rules(root),
        key_labels: settings::key_labels(root),
        key_defaults: entries::key_defaults(root, &declared),
        headers: settings::headers(root),
        scopes: settings::scopes(root),
        errors,
        limits: settings::limits(root),
        revocation: settings::revocation(root),
        alerts: settings::alerts(root, base),
        audit: settings::audit(root),
        log: settings::log(root, base),
        plans: values_of(&entries.plans),
        tenants: values_of(&entries.tenants),
        declared_keys: values_of(&entries.keys),
        upstreams: values_of(&entries.upstreams),
        guards: values_of(&entries.guards),
        issuers: values_of(&entries.issuers),
        resources,
        hosts: values_of(&entries.hosts),
        routes: values_of(&entries.routes),
        environments: environments.clone(),
    };
    check::entries(&entries, &environments, root.notes());
    if !root.notes().has_errors() {
        doubts::warn(&entries, &config.scopes, &config.key_defaults, root.notes());
    }
    config
}

fn declared<'a>(root: &Reader<'a>, environments: &'a [String], credentials: Kinds) -> Declared<'a> {
    Declared {
        credentials,
        environments: Names {
            noun: "environment",
            declare: "environments = [\"NAME\"]",
            all: environments.iter().map(String::as_str).collect(),
        },
        environment_order: environments,
        plans: Names {
            noun: "plan",
            declare: "[plans.NAME]",
            all: root.names("plans", None),
        },
        tenants: Names {
            noun: "tenant",
            declare: "[[tenants]]",
            all: root.names("tenants", Some("id")),
        },
        guards: Names {
            noun: "guard",
            declare: "[guards.NAME]",
            all: root.names("guards", None),
        },
        upstreams: Names {
            noun: "upstream",
            declare: "[upstreams.NAME]",
            all: root.names("upstreams", None),
        },
    }
}

fn values_of<T: Clone>(placed: &[Placed<T>]) -> Vec<T> {
    placed.iter().map(|entry| entry.value.clone()).collect()
}

const DEFAULT_ERRORS: Errors = Errors {
    shape: Shape::Problem,
    name_permission: true,
    foreign_is_forbidden: false,
};

/// Largest gateway.toml that is read.
const FILE_BYTES_MAX: u64 = 64 << 20;
