//! A TCP proxy before a real server: what goes through it can be cut and held.

use std::{
    io,
    net::{Ipv4Addr, SocketAddr},
    sync::Arc,
};

use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::{TcpListener, TcpStream, tcp},
    sync::watch,
};

/// How the proxy handles connections.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Mode {
    Pass,
    /// They stay open, and the proxy forwards nothing in either direction.
    Hold,
    /// New ones are closed at once.
    Refuse,
}

pub(crate) struct Proxy {
    pub(crate) address: SocketAddr,
    mode: watch::Sender<Mode>,
    /// Counts cuts: a connection that is older is broken.
    cuts: watch::Sender<u64>,
}

impl Proxy {
    pub(crate) async fn start(server: String) -> io::Result<Self> {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await?;
        let address = listener.local_addr()?;
        let (mode, modes) = watch::channel(Mode::Pass);
        let (cuts, cut) = watch::channel(0);
        let server: Arc<str> = server.into();
        tokio::spawn(async move {
            while let Ok((client, _)) = listener.accept().await {
                if *modes.borrow() == Mode::Refuse {
                    continue;
                }
                let (server, modes, mut cut) = (Arc::clone(&server), modes.clone(), cut.clone());
                cut.mark_unchanged();
                tokio::spawn(async move {
                    let Ok(server) = TcpStream::connect(&*server).await else { return };
                    let ((from, to), (back, home)) = (client.into_split(), server.into_split());
                    tokio::select! {
                        _ = carry(from, home, modes.clone()) => {}
                        _ = carry(back, to, modes) => {}
                        _ = cut.changed() => {}
                    }
                });
            }
        });
        Ok(Self { address, mode, cuts })
    }

    pub(crate) fn set(&self, mode: Mode) {
        self.mode.send_replace(mode);
    }

    pub(crate) fn cut(&self) {
        self.cuts.send_modify(|cuts| *cuts += 1);
    }
}

async fn carry(
    mut from: tcp::OwnedReadHalf,
    mut to: tcp::OwnedWriteHalf,
    mut mode: watch::Receiver<Mode>,
) -> io::Result<()> {
    let mut bytes = vec![0; 1 << 14];
    loop {
        let length = from.read(&mut bytes).await?;
        if length == 0 {
            return Ok(());
        }
        let passes = mode.wait_for(|mode| *mode != Mode::Hold).await;
        passes.map_err(io::Error::other)?;
        to.write_all(&bytes[..length]).await?;
    }
}
