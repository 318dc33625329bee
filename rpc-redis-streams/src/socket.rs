//! Opening a stream of bytes to the server: over TCP, TLS or a unix socket.

use std::io;

use redis::{ConnectionAddr, ConnectionInfo};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;

/// A stream of bytes in both directions.
pub(crate) trait Socket: AsyncRead + AsyncWrite + Send + Sync + Unpin {
    /// Asks not to be woken for fewer than `bytes` that were received. Not every socket can do that.
    fn wake_at(&self, _bytes: usize) {}
}

impl Socket for TcpStream {
    #[cfg(target_os = "linux")]
    fn wake_at(&self, bytes: usize) {
        // Where the system refuses, one is woken more often.
        let _ = nix::sys::socket::setsockopt(self, low_water::ReceiveLowWater, &bytes);
    }
}

#[cfg(unix)]
impl Socket for tokio::net::UnixStream {}

impl Socket for tokio::io::Empty {}

#[cfg(test)]
impl Socket for tokio::io::DuplexStream {}

/// SO_RCVLOWAT, which neither tokio nor socket2 has.
#[cfg(target_os = "linux")]
mod low_water {
    use nix::sys::socket::sockopt::SetUsize;
    use nix::{libc, setsockopt_impl};

    #[derive(Clone, Copy, Debug)]
    pub(super) struct ReceiveLowWater;

    setsockopt_impl!(ReceiveLowWater, libc::SOL_SOCKET, libc::SO_RCVLOWAT, usize, SetUsize);
}

/// Connects to where `info` says.
pub(crate) async fn open(info: &ConnectionInfo) -> io::Result<Box<dyn Socket>> {
    match info.addr() {
        ConnectionAddr::Tcp(host, port) => Ok(Box::new(tcp(host, *port).await?)),
        #[cfg(feature = "tls")]
        ConnectionAddr::TcpTls {
            host, port, insecure, ..
        } => tls::open(tcp(host, *port).await?, host, *insecure).await,
        #[cfg(unix)]
        ConnectionAddr::Unix(path) => Ok(Box::new(tokio::net::UnixStream::connect(path).await?)),
        other => Err(io::Error::new(
            io::ErrorKind::Unsupported,
            format!("{other} cannot be reached by this build"),
        )),
    }
}

async fn tcp(host: &str, port: u16) -> io::Result<TcpStream> {
    let stream = TcpStream::connect((host, port)).await?;
    // Small writes must not wait for the acknowledgement of earlier ones.
    stream.set_nodelay(true)?;
    Ok(stream)
}

#[cfg(feature = "tls")]
mod tls {
    use std::io;
    use std::sync::{Arc, OnceLock};

    use rustls::ClientConfig;
    use rustls::pki_types::ServerName;
    use tokio::net::TcpStream;
    use tokio_rustls::TlsConnector;

    use super::Socket;

    impl Socket for tokio_rustls::client::TlsStream<TcpStream> {}

    pub(super) async fn open(stream: TcpStream, host: &str, insecure: bool) -> io::Result<Box<dyn Socket>> {
        if insecure {
            let why = "certificates are always verified; write rediss:// without #insecure";
            return Err(io::Error::new(io::ErrorKind::Unsupported, why));
        }
        // IPv6 addresses stand in brackets in urls, and not in certificates.
        let name = host.trim_start_matches('[').trim_end_matches(']').to_owned();
        let name = ServerName::try_from(name).map_err(|error| io::Error::new(io::ErrorKind::InvalidInput, error))?;
        Ok(Box::new(TlsConnector::from(config()?).connect(name, stream).await?))
    }

    /// With the system's certificates, which are read once.
    fn config() -> io::Result<Arc<ClientConfig>> {
        static CONFIG: OnceLock<Arc<ClientConfig>> = OnceLock::new();
        if let Some(config) = CONFIG.get() {
            return Ok(Arc::clone(config));
        }
        let mut roots = rustls::RootCertStore::empty();
        let found = rustls_native_certs::load_native_certs();
        if found.certs.is_empty() {
            let reasons: Vec<_> = found.errors.iter().map(ToString::to_string).collect();
            let why = format!(
                "the system has no certificates to verify the server's with: {}",
                reasons.join(", ")
            );
            return Err(io::Error::new(io::ErrorKind::NotFound, why));
        }
        roots.add_parsable_certificates(found.certs);
        let config = ClientConfig::builder()
            .with_root_certificates(roots)
            .with_no_client_auth();
        Ok(Arc::clone(CONFIG.get_or_init(|| Arc::new(config))))
    }
}
