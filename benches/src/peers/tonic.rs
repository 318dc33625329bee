//! tonic with Protocol Buffers, over HTTP/2 without TLS from client to worker. What tonic-build would generate is
//! written out, so that nobody needs protoc.

use std::convert::Infallible;
use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll};

use anyhow::Context as _;
use tonic::body::Body;
use tonic::client::Grpc;
use tonic::codegen::{Service, http};
use tonic::server::UnaryService;
use tonic::transport::server::TcpIncoming;
use tonic::transport::{Channel, Endpoint, Server};
use tonic::{Request, Response, Status};
use tonic_prost::ProstCodec;

use crate::load::Echo;
use crate::tasks::ready;

#[derive(Clone, PartialEq, prost::Message)]
struct Payload {
    #[prost(string, tag = "1")]
    text: String,
}

type Answer<T> = Pin<Box<dyn Future<Output = T> + Send>>;

#[derive(Clone)]
struct Worker;

impl UnaryService<Payload> for Worker {
    type Response = Payload;
    type Future = Answer<Result<Response<Payload>, Status>>;

    fn call(&mut self, request: Request<Payload>) -> Self::Future {
        Box::pin(async move { Ok(Response::new(request.into_inner())) })
    }
}

impl Service<http::Request<Body>> for Worker {
    type Response = http::Response<Body>;
    type Error = Infallible;
    type Future = Answer<Result<Self::Response, Infallible>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: http::Request<Body>) -> Self::Future {
        Box::pin(async move {
            let mut server = tonic::server::Grpc::new(ProstCodec::default());
            Ok(server.unary(Self, request).await)
        })
    }
}

pub(crate) async fn serve() -> anyhow::Result<()> {
    let incoming = TcpIncoming::bind(([127, 0, 0, 1], 0).into())?.with_nodelay(Some(true));
    ready(&format!("http://{}", incoming.local_addr()?));
    Ok(Server::builder().serve_with_incoming(Worker, incoming).await?)
}

#[derive(Clone)]
pub(crate) struct Client(Grpc<Channel>);

impl Client {
    pub(crate) async fn connect(address: &str) -> anyhow::Result<Self> {
        Ok(Self(Grpc::new(Endpoint::new(address.to_owned())?.connect().await?)))
    }
}

impl Echo for Client {
    type Reply = String;

    async fn echo(&self, payload: &str) -> anyhow::Result<String> {
        let mut client = self.0.clone();
        client.ready().await.context("the connection is lost")?;
        let request = Request::new(Payload {
            text: payload.to_owned(),
        });
        let path = http::uri::PathAndQuery::from_static("/bench.Echo/Echo");
        let codec = ProstCodec::<Payload, Payload>::default();
        let response: Response<Payload> = client.unary(request, path, codec).await?;
        Ok(response.into_inner().text)
    }
}
