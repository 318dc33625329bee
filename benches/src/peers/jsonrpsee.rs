//! jsonrpsee over a WebSocket from client to worker.

use std::sync::Arc;

use jsonrpsee::RpcModule;
use jsonrpsee::client_transport::ws::{Url, WsTransportClientBuilder};
use jsonrpsee::core::client::{Client as WsClient, ClientBuilder, ClientT};
use jsonrpsee::rpc_params;
use jsonrpsee::server::{Server, ServerConfig};
use jsonrpsee::types::ErrorObjectOwned;

use crate::load::Echo;
use crate::tasks::ready;

/// More callers than the default of 256 are refused.
const MAX_CALLERS: usize = 4096;

pub(crate) async fn serve() -> anyhow::Result<()> {
    let config = ServerConfig::builder().set_tcp_no_delay(true).build();
    let server = Server::builder().set_config(config).build("127.0.0.1:0").await?;
    let mut module = RpcModule::new(());
    module.register_async_method("echo", |params, _, _| async move {
        let payload: String = params.one()?;
        Ok::<_, ErrorObjectOwned>(payload)
    })?;
    ready(&format!("ws://{}", server.local_addr()?));
    server.start(module).stopped().await;
    Ok(())
}

#[derive(Clone)]
pub(crate) struct Client(Arc<WsClient>);

impl Client {
    pub(crate) async fn connect(address: &str) -> anyhow::Result<Self> {
        let (sender, receiver) = WsTransportClientBuilder::default().build(Url::parse(address)?).await?;
        let client = ClientBuilder::default().max_concurrent_requests(MAX_CALLERS);
        Ok(Self(Arc::new(client.build_with_tokio(sender, receiver))))
    }
}

impl Echo for Client {
    type Reply = String;

    async fn echo(&self, payload: &str) -> anyhow::Result<String> {
        Ok(self.0.request("echo", rpc_params![payload]).await?)
    }
}
