//! Two transfers of more bytes than 32 bits can count, one each way.
//!
//! The kernel copies nothing: one side sends pages of a file, the other one has what came discarded. So they take seconds where
//! the machine is emulated, too, and need not be shorter there.

use std::{fs::File, io, net::TcpStream, os::fd::AsRawFd as _, ptr};

use nix::errno::Errno;
use sockline_testbed::{Pod, Protocol};

use super::{
    super::{Seen, ended},
    LARGE, LARGE_NUMBER,
    clients::{address, ask, go, read_answer},
    expected::{ANSWER, Expected, REQUEST, Way},
};

pub(super) const CHUNK: usize = 1 << 20;
const CHUNKS: usize = 4_200;
/// Of each transfer.
pub(super) const BYTES: usize = CHUNKS * CHUNK;
const _: () = assert!(BYTES > u32::MAX as usize);

pub(super) fn add_to(expected: &mut Expected) {
    let (sent, received) = ((REQUEST + BYTES) as u64, ANSWER as u64);
    expected.add(LARGE, Protocol::Tcp, &Seen { sent, received, ..ended("client", 1) });
    expected.add(LARGE, Protocol::Tcp, &Way::Download.seen(1));
}

pub(super) fn upload(client: &Pod) {
    let mut stream = client.run(|| TcpStream::connect(address(LARGE_NUMBER, 80, 1))).unwrap();
    ask(&mut stream, Way::InFlight);
    read_answer(&mut stream);
    send(&stream).unwrap();
}

pub(super) fn download(client: &Pod) {
    let stream = client.run(|| TcpStream::connect(address(LARGE_NUMBER, 80, 0))).unwrap();
    go(stream, Way::Download);
}

/// Sends [`BYTES`].
pub(super) fn send(stream: &TcpStream) -> io::Result<()> {
    let file = zeroes()?;
    for _ in 0..CHUNKS {
        let mut offset = 0;
        while offset < CHUNK as libc::off_t {
            let rest = CHUNK - offset as usize;
            // SAFETY: the pointer is to a live local, which the kernel moves on.
            let sent = unsafe {
                libc::sendfile(stream.as_raw_fd(), file.as_raw_fd(), &raw mut offset, rest)
            };
            if Errno::result(sent)? == 0 {
                return Err(io::ErrorKind::WriteZero.into());
            }
        }
    }
    Ok(())
}

/// A file of [`CHUNK`] bytes.
fn zeroes() -> io::Result<File> {
    let mut file = tempfile::tempfile()?;
    io::Write::write_all(&mut file, &vec![0; CHUNK])?;
    Ok(file)
}

/// Receives this many bytes.
pub(super) fn discard(stream: &TcpStream, bytes: usize) -> io::Result<()> {
    let mut rest = bytes;
    while rest > 0 {
        match discard_some(stream, rest.min(CHUNK))? {
            0 => return Err(io::ErrorKind::UnexpectedEof.into()),
            count => rest -= count,
        }
    }
    Ok(())
}

/// Receives up to this many bytes; 0 at the end of the stream.
pub(super) fn discard_some(stream: &TcpStream, most: usize) -> io::Result<usize> {
    // SAFETY: with this flag, the kernel writes nothing (`tcp(7)`).
    let count = unsafe { libc::recv(stream.as_raw_fd(), ptr::null_mut(), most, libc::MSG_TRUNC) };
    Ok(usize::try_from(Errno::result(count)?).unwrap_or_default())
}
