//! A TCP line between agent and coordinator that a test can cut and mend.

use std::net::SocketAddr;
use std::sync::{Arc, Mutex};

use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinSet;

/// Forwards connections while it is whole.
#[derive(Debug)]
pub struct Link {
    address: SocketAddr,
    state: Arc<Mutex<State>>,
    _accepting: JoinSet<()>,
}

#[derive(Debug)]
struct State {
    target: SocketAddr,
    whole: bool,
    connections: JoinSet<()>,
}

impl Link {
    /// A line to `target`.
    pub async fn open(target: SocketAddr) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let state = Arc::new(Mutex::new(State { target, whole: true, connections: JoinSet::new() }));
        let mut accepting = JoinSet::new();
        accepting.spawn(accept(listener, state.clone()));
        Self { address, state, _accepting: accepting }
    }

    /// Where to dial.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Leads new connections to `target`; those that there are stay as they are.
    pub fn lead_to(&self, target: SocketAddr) {
        self.state.lock().unwrap().target = target;
    }

    /// Breaks every connection and lets no new one through.
    pub fn cut(&self) {
        let mut state = self.state.lock().unwrap();
        state.whole = false;
        state.connections.abort_all();
    }

    /// Lets connections through again.
    pub fn mend(&self) {
        self.state.lock().unwrap().whole = true;
    }
}

async fn accept(listener: TcpListener, state: Arc<Mutex<State>>) {
    loop {
        let Ok((mut inner, _)) = listener.accept().await else { continue };
        let mut state = state.lock().unwrap();
        if !state.whole {
            continue;
        }
        let target = state.target;
        state.connections.spawn(async move {
            let Ok(mut outer) = TcpStream::connect(target).await else { return };
            // Either side may break it at any time; that is what this line is for.
            let _ = tokio::io::copy_bidirectional(&mut inner, &mut outer).await;
        });
    }
}
