//! What the behaviours run on.

use rpc_core::{ChannelSettings, MemoryBroker, MemoryIo, Mode, RpcChannel, RpcIo, Service};
use rpc_redis_streams::{Config, RedisStreamsIo};
use tests::RedisServer;

/// One stream, and IOs for it.
pub(crate) trait Backend: Sized {
    type Io: RpcIo;

    async fn start(mode: Mode) -> Self;

    /// An IO with other settings, as a member of `group` where there are groups.
    async fn connect_as(&self, group: &str, settings: ChannelSettings) -> Self::Io;

    async fn connect_with(&self, change: impl FnOnce(&mut ChannelSettings)) -> Self::Io {
        let mut settings = ChannelSettings::default();
        change(&mut settings);
        self.connect_as("workers", settings).await
    }

    /// A channel that serves `service`.
    async fn serve(&self, service: impl Service) -> RpcChannel {
        self.serve_with(service, |_| {}).await
    }

    async fn serve_with(&self, service: impl Service, change: impl FnOnce(&mut ChannelSettings)) -> RpcChannel {
        let builder = RpcChannel::builder(self.connect_with(change).await);
        builder.serve(service).unwrap().start().await.unwrap()
    }

    /// A channel that only calls.
    async fn client(&self) -> RpcChannel {
        RpcChannel::open(self.connect_with(|_| {}).await).await.unwrap()
    }
}

pub(crate) struct Memory {
    broker: MemoryBroker,
}

impl Backend for Memory {
    type Io = MemoryIo;

    async fn start(mode: Mode) -> Self {
        Self {
            broker: MemoryBroker::new(mode),
        }
    }

    async fn connect_as(&self, group: &str, settings: ChannelSettings) -> MemoryIo {
        self.broker.connect().in_group(group).with_settings(settings)
    }
}

/// A server of its own for every behaviour, so that none can disturb another.
pub(crate) struct Redis {
    server: RedisServer,
    mode: Mode,
}

impl Backend for Redis {
    type Io = RedisStreamsIo;

    async fn start(mode: Mode) -> Self {
        Self {
            server: RedisServer::start().await,
            mode,
        }
    }

    async fn connect_as(&self, group: &str, settings: ChannelSettings) -> RedisStreamsIo {
        let mut config = Config::builder()
            .url(self.server.url())
            .stream("conformance")
            .max_queue_size(settings.max_queue_size)
            .concurrency(settings.concurrency)
            .call_timeout(settings.call_timeout)
            .codec(settings.codec)
            .close_grace(settings.close_grace)
            .max_backlog(settings.max_backlog)
            .max_payload_size(settings.max_payload_size)
            .max_deliveries(settings.max_deliveries as usize)
            .retry_backoff(settings.retry_backoff)
            .fail_fast(settings.fail_fast)
            .receive_own(settings.receive_own)
            .obey_close_signal(settings.obey_close_signal);
        config = match self.mode {
            Mode::Group => config.group(group),
            Mode::Broadcast => config.broadcast(),
        };
        RedisStreamsIo::connect(config.build().unwrap()).await.unwrap()
    }
}
