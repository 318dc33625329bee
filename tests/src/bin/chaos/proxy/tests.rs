//! What the proxy does to connections.

use ::tests::{eventually, within};

use super::*;

const LIMIT: Duration = Duration::from_secs(10);

/// A client and a server with a proxy between them.
async fn connected() -> (Proxy, TcpStream, TcpStream) {
    let server = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.expect("listen");
    let proxy = Proxy::start(server.local_addr().expect("an address").port())
        .await
        .expect("a proxy");
    let client = TcpStream::connect((Ipv4Addr::LOCALHOST, proxy.port))
        .await
        .expect("connect");
    let (server, _) = within(LIMIT, server.accept()).await.expect("accept");
    (proxy, client, server)
}

async fn receive(stream: &mut TcpStream, length: usize) -> io::Result<Vec<u8>> {
    let mut bytes = vec![0; length];
    within(LIMIT, stream.read_exact(&mut bytes)).await.map(|_| bytes)
}

#[tokio::test]
async fn bytes_pass_in_both_directions() {
    let (_proxy, mut client, mut server) = connected().await;
    client.write_all(b"question").await.expect("write");
    assert_eq!(receive(&mut server, 8).await.expect("read"), b"question");
    server.write_all(b"answer").await.expect("write");
    assert_eq!(receive(&mut client, 6).await.expect("read"), b"answer");
    drop(client);
    assert!(receive(&mut server, 1).await.is_err(), "the end passes, too");
}

#[tokio::test]
async fn a_cut_leaves_half_a_chunk_and_two_resets() {
    for direction in [Direction::Up, Direction::Down] {
        let (proxy, client, server) = connected().await;
        let (mut sender, mut receiver) = match direction {
            Direction::Up => (client, server),
            Direction::Down => (server, client),
        };
        proxy.cut_in_mid_chunk(direction);
        sender.write_all(b"small").await.expect("write");
        assert_eq!(receive(&mut receiver, 5).await.expect("not worth cutting"), b"small");
        sender.write_all(&[7; 200]).await.expect("write");
        // A reset may discard what arrived before it and was not read.
        let received = receive(&mut receiver, 200).await.expect_err("cut");
        assert!(matches!(
            received.kind(),
            io::ErrorKind::ConnectionReset | io::ErrorKind::UnexpectedEof
        ));
        assert!(receive(&mut sender, 1).await.is_err());
        assert_eq!(proxy.cuts_made(direction), 1);
    }
}

#[tokio::test]
async fn swallowing_connections_stay_open_and_carry_nothing() {
    let (proxy, mut client, mut server) = connected().await;
    proxy.swallow_on_open_connections();
    client.write_all(b"lost").await.expect("write");
    let nothing = tokio::time::timeout(Duration::from_millis(50), server.read_u8()).await;
    assert!(nothing.is_err(), "{nothing:?}");
    proxy.reset_swallowing();
    assert!(receive(&mut client, 1).await.is_err());
}

#[tokio::test]
async fn delayed_bytes_keep_their_order() {
    let (proxy, mut client, mut server) = connected().await;
    proxy.delay(Duration::from_millis(30), Duration::from_millis(20));
    let started = Instant::now();
    for n in 0..20_u8 {
        client.write_all(&[n]).await.expect("write");
    }
    let received = receive(&mut server, 20).await.expect("read");
    assert_eq!(received, (0..20).collect::<Vec<_>>());
    assert!(
        started.elapsed() >= Duration::from_millis(10),
        "{:?}",
        started.elapsed()
    );
}

#[tokio::test]
async fn whoever_is_refused_is_reset() {
    let (proxy, mut client, _server) = connected().await;
    proxy.refuse(true);
    assert!(receive(&mut client, 1).await.is_err());
    let mut again = TcpStream::connect((Ipv4Addr::LOCALHOST, proxy.port))
        .await
        .expect("connect");
    assert!(receive(&mut again, 1).await.is_err());
}

#[tokio::test]
async fn readers_are_told_apart() {
    let (proxy, mut client, _server) = connected().await;
    client.write_all(b"*2\r\n$4\r\nPING\r\n").await.expect("write");
    assert_eq!(proxy.readers(), 0);
    client.write_all(b"$10\r\nXREADGROUP\r\n").await.expect("write");
    eventually(LIMIT, "it is seen to read", async || proxy.readers() == 1).await;
    assert_eq!(proxy.readers_since(0).len(), 1);
    assert!(proxy.readers_since(clock::now()).is_empty());
    drop(client);
    eventually(LIMIT, "it is closed", async || proxy.readers() == 0).await;
}
