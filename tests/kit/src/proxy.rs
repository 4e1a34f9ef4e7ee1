//! A network between two processes of a test, and what can go wrong in it.
//!
//! Whoever is to be cut off is given the proxy's address instead of the server's. What happens to
//! connections is said by [`Proxy::set`], for those that are open too, and is counted. It needs no
//! rights that a test may lack, and cuts each way between two processes on its own.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::net::{TcpListener, TcpStream};
use tokio::runtime::Runtime;
use tokio::sync::{Mutex, watch};

/// What the network does.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Network {
    /// It brings everything.
    Whole,
    /// It brings nothing for now, and everything when it is another one: a cable that is out for
    /// less time than it takes either side to give up.
    Stalled,
    /// It brings everything, later.
    Slow(Duration),
    /// It brings so many bytes a second each way, over all connections.
    Narrow(u32),
    /// It brings nothing, and says nothing of that.
    Silent,
    /// It brings what goes to the server, and nothing back.
    OneWay,
    /// It resets connections when so many bytes have come from the server over each.
    ResetAfter(usize),
}

/// A network between a server and somebody else.
#[derive(Debug)]
pub struct Proxy {
    /// Where it listens, as `http://127.0.0.1:PORT`.
    pub url: String,
    network: watch::Sender<Network>,
    faults: Arc<AtomicUsize>,
    _runtime: Runtime,
}

impl Proxy {
    /// A network before the server at `url`, which need not be there yet.
    pub fn to(url: &str) -> Self {
        let server: SocketAddr = url
            .strip_prefix("http://")
            .and_then(|address| address.parse().ok())
            .expect("a server's URL");
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(1)
            .enable_all()
            .build()
            .expect("a thread");
        let listener = runtime.block_on(TcpListener::bind("127.0.0.1:0"));
        let listener = listener.expect("a free port");
        let url = format!("http://{}", listener.local_addr().expect("bound"));
        let (network, weather) = watch::channel(Network::Whole);
        let faults = Arc::new(AtomicUsize::new(0));
        runtime.spawn(accept(listener, server, weather, Arc::clone(&faults)));
        Proxy {
            url,
            network,
            faults,
            _runtime: runtime,
        }
    }

    /// Changes the network.
    pub fn set(&self, network: Network) {
        self.network.send_replace(network);
    }

    /// How often something was not brought, or a connection was reset.
    pub fn faults(&self) -> usize {
        self.faults.load(Ordering::Relaxed)
    }
}

async fn accept(
    listener: TcpListener,
    server: SocketAddr,
    network: watch::Receiver<Network>,
    faults: Arc<AtomicUsize>,
) {
    let lines: [Line; 2] = Default::default();
    while let Ok((near, _)) = listener.accept().await {
        let [line_up, line_down] = lines.clone();
        let (network, faults) = (network.clone(), Arc::clone(&faults));
        tokio::spawn(async move {
            // A server that is not there closes the connection.
            let Ok(far) = TcpStream::connect(server).await else {
                return;
            };
            for socket in [&near, &far] {
                // What is lost by that is some speed.
                let _ = socket.set_nodelay(true);
            }
            let (from_near, to_near) = near.into_split();
            let (from_far, to_far) = far.into_split();
            let up = Way {
                network: network.clone(),
                faults: Arc::clone(&faults),
                line: line_up,
                is_down: false,
            };
            let down = Way {
                network,
                faults,
                line: line_down,
                is_down: true,
            };
            // When one direction has ended, so has the connection.
            tokio::select! {
                () = up.carry(from_near, to_far) => {}
                () = down.carry(from_far, to_near) => {}
            }
        });
    }
}

/// Held by what is on its way where there is little room.
type Line = Arc<Mutex<()>>;

/// One direction of a connection.
struct Way {
    network: watch::Receiver<Network>,
    faults: Arc<AtomicUsize>,
    line: Line,
    is_down: bool,
}

impl Way {
    /// Brings bytes until either end closes or the network breaks.
    async fn carry(mut self, mut from: OwnedReadHalf, mut to: OwnedWriteHalf) {
        let mut buffer = vec![0; 16 << 10];
        let mut carried = 0;
        // It may come to its end by an error too.
        while let Ok(read @ 1..) = from.read(&mut buffer).await {
            let network = *self.network.borrow();
            carried += read;
            match network {
                Network::Whole => {}
                Network::Stalled => {
                    self.fault();
                    let ends = self.network.wait_for(|now| *now != Network::Stalled);
                    // Without a proxy there is nobody to bring it.
                    if ends.await.is_err() {
                        return;
                    }
                }
                Network::Slow(pause) => tokio::time::sleep(pause).await,
                Network::Narrow(rate) => {
                    let _line = self.line.lock().await;
                    let takes = read as f64 / f64::from(rate);
                    tokio::time::sleep(Duration::from_secs_f64(takes)).await;
                }
                Network::Silent => {
                    self.fault();
                    continue;
                }
                Network::OneWay if self.is_down => {
                    self.fault();
                    continue;
                }
                Network::ResetAfter(bytes) if self.is_down && carried >= bytes => {
                    self.fault();
                    reset(to);
                    return;
                }
                Network::OneWay | Network::ResetAfter(_) => {}
            }
            if to.write_all(&buffer[..read]).await.is_err() {
                return;
            }
        }
    }

    fn fault(&self) {
        self.faults.fetch_add(1, Ordering::Relaxed);
    }
}

/// Closes a connection so that what is under way is lost.
fn reset(to: OwnedWriteHalf) {
    let socket: &TcpStream = to.as_ref();
    socket.set_zero_linger().expect("an open socket");
    to.forget();
}
