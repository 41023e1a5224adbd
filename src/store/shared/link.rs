//! The connection to Redis or Valkey: finding the primary, signing in, and what makes a server unfit.

use std::fmt;
use std::fs;
use std::time::Duration;

use redis::Client;
use redis::Connection;
use redis::ConnectionAddr;
use redis::ConnectionInfo;
use redis::IntoConnectionInfo;
use redis::RedisConnectionInfo;
use redis::RedisError;
use redis::RedisResult;
use redis::TlsCertificates;
use zeroize::Zeroizing;

use crate::config::Redis;
use crate::config::secrets;
use crate::model::issuer::SecretSource;
use crate::store::StoreError;

/// One connection, made when it is needed and thrown away when it fails. Blocking: for control threads and commands alone.
pub struct Link {
    settings: Redis,
    connection: Option<Connection>,
    /// Of the server that it was connected to last.
    run_id: String,
}

impl Link {
    /// Not connected yet.
    #[must_use]
    pub fn new(settings: &Redis) -> Link {
        Link {
            settings: settings.clone(),
            connection: None,
            run_id: String::new(),
        }
    }

    /// What the server calls this run of itself: another one may have lost what the one before it had.
    #[must_use]
    pub fn run_id(&self) -> &str {
        &self.run_id
    }

    /// Connects, unless it is.
    ///
    /// # Errors
    /// As `call`.
    pub fn ready(&mut self) -> Result<(), StoreError> {
        if self.connection.is_none() {
            self.connection = Some(self.connect()?);
        }
        Ok(())
    }

    /// Looks anew for the primary before the next question.
    pub fn forget(&mut self) {
        self.connection = None;
    }

    /// The full name of something in the shared store.
    #[must_use]
    pub fn name(&self, rest: &str) -> String {
        format!("{}:{rest}", self.settings.prefix)
    }

    /// What `[store]` says of it.
    #[must_use]
    pub fn settings(&self) -> &Redis {
        &self.settings
    }

    /// Asks the primary something. `bytes` is about how much is sent or read: a large change may take longer than `redis_timeout`.
    ///
    /// # Errors
    /// `Away` when no answer came; whether it was carried out is then not known. `Unfit` when the server is none that can be used.
    pub fn call<T>(
        &mut self,
        bytes: usize,
        ask: impl FnOnce(&mut Connection) -> RedisResult<T>,
    ) -> Result<T, StoreError> {
        let wait = self.settings.timeout + Duration::from_millis(bytes as u64 / BYTES_PER_MILLI);
        self.call_within(wait, ask)
    }

    /// The same with a wait of its own.
    ///
    /// # Errors
    /// As `call`.
    pub fn call_within<T>(
        &mut self,
        wait: Duration,
        ask: impl FnOnce(&mut Connection) -> RedisResult<T>,
    ) -> Result<T, StoreError> {
        let mut connection = match self.connection.take() {
            Some(connection) => connection,
            None => self.connect()?,
        };
        let answer = connection
            .set_read_timeout(Some(wait))
            .and_then(|()| connection.set_write_timeout(Some(wait)))
            .and_then(|()| ask(&mut connection));
        match answer {
            Ok(answer) => {
                self.connection = Some(connection);
                Ok(answer)
            }
            // The connection goes: a late answer must never be taken for that of the next question.
            Err(error) => Err(self.sorted(&error)),
        }
    }

    fn connect(&mut self) -> Result<Connection, StoreError> {
        let Some(master) = self.settings.sentinel.clone() else {
            return match self.settings.servers.first().cloned() {
                Some(server) => self.usable(&server),
                None => Err(StoreError::away(self.shown(), "no server is named")),
            };
        };
        let mut why = StoreError::away(self.shown(), "no Sentinel knows the primary");
        let mut tried: Vec<String> = Vec::new();
        // One after the other, and the first that leads to a primary is enough: the others may be as dead as each other.
        for sentinel in self.settings.servers.clone() {
            let address = match self.primary(&sentinel, &master) {
                Ok(Some(address)) if !tried.contains(&address) => address,
                Ok(_) => continue,
                Err(error) => {
                    why = error;
                    continue;
                }
            };
            match self.usable(&address) {
                Ok(connection) => return Ok(connection),
                Err(error) => why = error,
            }
            tried.push(address);
        }
        Err(why)
    }

    /// Who the primary is, by one Sentinel.
    fn primary(&self, sentinel: &str, master: &str) -> Result<Option<String>, StoreError> {
        let (user, password) = (
            &self.settings.sentinel_user,
            &self.settings.sentinel_password,
        );
        let password = self.secret("redis_sentinel_password", password.as_ref())?;
        let mut connection = self.open(sentinel, user.as_deref(), password.as_ref())?;
        let found: RedisResult<Option<(String, u16)>> = redis::cmd("SENTINEL")
            .arg("get-master-addr-by-name")
            .arg(master)
            .query(&mut connection);
        let found = found.map_err(|error| self.sorted(&error))?;
        Ok(found.map(|(host, port)| match host.contains(':') {
            true => format!("[{host}]:{port}"),
            false => format!("{host}:{port}"),
        }))
    }

    /// A connection to a server that is a primary and drops nothing when its memory is full.
    fn usable(&mut self, address: &str) -> Result<Connection, StoreError> {
        let password = self.secret("redis_password", self.settings.password.as_ref())?;
        let user = self.settings.user.as_deref();
        let mut connection = self.open(address, user, password.as_ref())?;
        let info: String = redis::cmd("INFO")
            .query(&mut connection)
            .map_err(|error| self.sorted(&error))?;
        let says = |name: &str| {
            let mut lines = info.lines();
            lines.find_map(|line| line.strip_prefix(name)?.strip_prefix(':'))
        };
        let unfit = |what: &str| StoreError::Unfit {
            server: address.to_owned(),
            what: what.to_owned(),
        };
        if says("role").is_some_and(|role| role != "master") {
            return Err(StoreError::away(
                address.to_owned(),
                "it is a replica, not the primary",
            ));
        }
        if says("cluster_enabled") == Some("1") {
            return Err(unfit(
                "it is a Redis Cluster, which is not supported: use one primary with replicas, and Sentinel",
            ));
        }
        match says("maxmemory_policy") {
            Some("noeviction") => {
                self.run_id = says("run_id").unwrap_or_default().to_owned();
                Ok(connection)
            }
            Some(other) => Err(unfit(&format!(
                "its maxmemory-policy is {other}, by which it would drop keys and counts when its memory is full: set maxmemory-policy noeviction"
            ))),
            None => Err(unfit("INFO does not say its maxmemory-policy")),
        }
    }

    fn secret(
        &self,
        key: &str,
        source: Option<&SecretSource>,
    ) -> Result<Option<Zeroizing<String>>, StoreError> {
        let secret = source.map(secrets::read).transpose();
        secret.map_err(|why| StoreError::Unfit {
            server: self.shown(),
            what: format!("{key}: {why}"),
        })
    }

    fn open(
        &self,
        address: &str,
        user: Option<&str>,
        password: Option<&Zeroizing<String>>,
    ) -> Result<Connection, StoreError> {
        let client = self.client(address, user, password);
        let opened =
            client.and_then(|client| client.get_connection_with_timeout(self.settings.timeout));
        let connection = opened.map_err(|error| self.sorted_at(address, &error))?;
        let timeout = Some(self.settings.timeout);
        connection
            .set_read_timeout(timeout)
            .and_then(|()| connection.set_write_timeout(timeout))
            .map_err(|error| self.sorted_at(address, &error))?;
        Ok(connection)
    }

    fn client(
        &self,
        address: &str,
        user: Option<&str>,
        password: Option<&Zeroizing<String>>,
    ) -> RedisResult<Client> {
        let (host, port) = address.rsplit_once(':').unwrap_or((address, "6379"));
        let host = host
            .trim_start_matches('[')
            .trim_end_matches(']')
            .to_owned();
        let port = port.parse().unwrap_or(6_379);
        let mut signing = RedisConnectionInfo::default();
        if let Some(password) = password {
            signing = signing.set_password(password.as_str());
            if let Some(user) = user {
                signing = signing.set_username(user);
            }
        }
        if !self.settings.tls {
            let info: ConnectionInfo = ConnectionAddr::Tcp(host, port).into_connection_info()?;
            return Client::open(info.set_redis_settings(signing));
        }
        let root_cert = self.settings.ca.as_ref().map(fs::read).transpose()?;
        let address = ConnectionAddr::TcpTls {
            host,
            port,
            insecure: false,
            tls_params: None,
        };
        let info = address.into_connection_info()?;
        let certificates = TlsCertificates {
            client_tls: None,
            root_cert,
        };
        Client::build_with_tls(info.set_redis_settings(signing), certificates)
    }

    fn sorted(&self, error: &RedisError) -> StoreError {
        self.sorted_at(&self.shown(), error)
    }

    fn sorted_at(&self, server: &str, error: &RedisError) -> StoreError {
        // What the server said may be what it holds: enough of it to be recognised.
        let said: String = error.to_string().chars().take(SAID_MAX).collect();
        StoreError::away(server.to_owned(), &said)
    }

    fn shown(&self) -> String {
        self.settings.servers.join(", ")
    }
}

impl fmt::Debug for Link {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str("Link")
    }
}

/// 5 MB/s: a server that takes or gives less is given up.
const BYTES_PER_MILLI: u64 = 5_000;
/// Characters of an error that are told.
const SAID_MAX: usize = 300;
