//! The server's url: where it is, who we are there, and options as parameters.

use std::fmt;

use redis::io::tcp::TcpSettings;
use redis::{ConnectionAddr, ConnectionInfo, IntoConnectionInfo, RedisConnectionInfo};
use url::Url;

use super::ConfigError;

/// Where the server is, and who we are there.
#[derive(Clone)]
pub(super) struct Server {
    info: ConnectionInfo,
    address: String,
}

/// The names and values behind the `?`.
type Parameters = Vec<(String, String)>;

impl Server {
    /// Reads a url; returns the parameters that are not the server's.
    pub(super) fn parse(text: &str) -> Result<(Self, Parameters), ConfigError> {
        let Some((_, rest)) = text.split_once("://") else {
            return Err(refused("no scheme; write redis://host:port"));
        };
        // A password that is not encoded ends the authority early: what follows would be shown in messages.
        let authority = rest.find(['/', '?', '#']).unwrap_or(rest.len());
        if rest[authority..].contains('@') {
            return Err(refused(
                "an @ comes after the end of the host; in user, password and parameters write \
                 %40 for @, %2F for /, %3F for ? and %23 for #",
            ));
        }
        let url = Url::parse(text).map_err(|error| refused(format!("{error}; write redis://host:port")))?;
        if url.fragment().is_some() {
            return Err(refused(
                "a fragment (#) means nothing here; if it is part of a value, write %23",
            ));
        }
        let parameters = url
            .query_pairs()
            .map(|(name, value)| (name.into_owned(), value.into_owned()))
            .collect();
        let (info, address, parameters) = match url.scheme() {
            "rediss" if !cfg!(feature = "tls") => {
                return Err(refused(
                    "rediss:// needs TLS; enable the feature `tls` of rpc-redis-streams, or write redis://",
                ));
            }
            "redis" | "rediss" => {
                let (info, address) = over_tcp(url)?;
                (info, address, parameters)
            }
            "unix" if !cfg!(unix) => {
                return Err(refused(
                    "there are no unix sockets on this platform; write redis://host:port",
                ));
            }
            "unix" => over_unix_socket(&url, parameters)?,
            other => {
                return Err(refused(format!(
                    "unknown scheme {other:?}; write redis://, rediss:// or unix://"
                )));
            }
        };
        // Small writes must not wait for the acknowledgement of earlier ones.
        let info = info.set_tcp_settings(TcpSettings::default().set_nodelay(true));
        Ok((Self { info, address }, parameters))
    }

    /// The url without user, password and parameters.
    pub(super) fn address(&self) -> &str {
        &self.address
    }

    pub(super) fn connection_info(&self) -> ConnectionInfo {
        self.info.clone()
    }
}

/// Only the address: the rest is nobody's business.
impl fmt::Debug for Server {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.address)
    }
}

impl PartialEq for Server {
    fn eq(&self, other: &Self) -> bool {
        let login = |server: &Self| {
            let settings = server.info.redis_settings();
            let (user, password) = (settings.username(), settings.password());
            (user.map(str::to_owned), password.map(str::to_owned))
        };
        // The address includes the database.
        self.address == other.address && login(self) == login(other)
    }
}

impl Eq for Server {}

fn over_tcp(mut url: Url) -> Result<(ConnectionInfo, String), ConfigError> {
    let host = url.host_str().unwrap_or_default().to_owned();
    if matches!(host.as_str(), "" | "0.0.0.0" | "[::]") {
        return Err(refused("no host to connect to; write redis://host:port"));
    }
    if !url.username().is_empty() && url.password().is_none() {
        return Err(refused(
            "a user without a password; write redis://user:password@host:port, or redis://:password@host:port",
        ));
    }
    let db = database(url.path().strip_prefix('/').unwrap_or_default())?;
    let port = url.port().unwrap_or(6379);
    let mut address = format!("{}://{host}:{port}", url.scheme());
    if db != 0 {
        address.push_str(&format!("/{db}"));
    }
    url.set_query(None);
    // Its errors are about the encoding of user and password, and don't show them.
    let info = url.into_connection_info().map_err(|error| refused(error.to_string()))?;
    Ok((info, address))
}

fn over_unix_socket(url: &Url, parameters: Parameters) -> Result<(ConnectionInfo, String, Parameters), ConfigError> {
    let path = match url.to_file_path() {
        Ok(path) if url.host().is_none() && path.parent().is_some() => path,
        _ => {
            return Err(refused(
                "not the path of a socket; write unix:///path/of/the/socket, with three slashes",
            ));
        }
    };
    let (mut db, mut user, mut password) = (None, None, None);
    let mut others = Vec::new();
    for (name, value) in parameters {
        let (slot, field) = match name.as_str() {
            "db" => (&mut db, "db"),
            "user" => (&mut user, "user"),
            "pass" => (&mut password, "pass"),
            _ => {
                others.push((name, value));
                continue;
            }
        };
        if slot.replace(value).is_some() {
            return Err(ConfigError::Twice { field });
        }
    }
    if user.is_some() && password.is_none() {
        return Err(refused("a user without a password; write unix:///path?user=…&pass=…"));
    }

    let db = database(db.as_deref().unwrap_or_default())?;
    let mut address = format!("unix://{}", path.display());
    if db != 0 {
        address.push_str(&format!("?db={db}"));
    }
    let mut login = RedisConnectionInfo::default().set_db(db);
    if let Some(user) = user {
        login = login.set_username(user);
    }
    if let Some(password) = password {
        login = login.set_password(password);
    }
    let info = ConnectionAddr::Unix(path)
        .into_connection_info()
        .map_err(|error| refused(error.to_string()))?
        .set_redis_settings(login);
    Ok((info, address, others))
}

/// The number of the database; 0 if there is none.
fn database(text: &str) -> Result<i64, ConfigError> {
    if text.is_empty() {
        return Ok(0);
    }
    match text.parse::<u32>() {
        Ok(db) => Ok(db.into()),
        Err(_) => Err(ConfigError::Unreadable {
            field: "url",
            value: super::error::beginning(text),
            expected: "the number of a database, like redis://host:6379/0 or unix:///path?db=0",
        }),
    }
}

fn refused(reason: impl Into<String>) -> ConfigError {
    ConfigError::Url { reason: reason.into() }
}
