//! Calls that the kernel makes for a process.

use std::os::fd::AsRawFd;

use io_uring::{IoUring, opcode, squeue, types};
use nix::sys::socket::{SockaddrLike, SockaddrStorage};
use sockline_testbed::{Socket, UdpClient, WebAndEmptyService, at, kernel_version};

use super::{EMPTY, V4, family, forms, refusal, talk, translated};

/// Submits one operation and returns its result.
fn ring(entry: &squeue::Entry) -> i32 {
    let mut ring = IoUring::new(2).unwrap();
    // SAFETY: what the entry points to lives in the caller until this has seen it completed.
    unsafe { ring.submission().push(entry) }.unwrap();
    ring.submit_and_wait(1).unwrap();
    ring.completion().next().unwrap().result()
}

#[test]
fn io_uring_connects_are_translated_inline_and_on_a_worker() {
    let setup = WebAndEmptyService::new().unwrap();
    for flags in [squeue::Flags::empty(), squeue::Flags::ASYNC] {
        for to in forms() {
            setup.client.run(|| {
                let socket = Socket::tcp(family(to)).unwrap();
                let address = SockaddrStorage::from(to);
                let fd = types::Fd(socket.as_raw_fd());
                let entry = opcode::Connect::new(fd, address.as_ptr(), address.len()).build();
                assert_eq!(ring(&entry.flags(flags)), 0, "{to}, {flags:?}");
                assert_eq!(socket.peer().unwrap(), to);
                assert_eq!(talk(&socket.into_std()), "web");
            });
        }
    }
    assert_eq!(translated(&setup), 6);
}

#[test]
fn an_io_uring_connect_to_a_service_without_endpoints_is_refused() {
    let setup = WebAndEmptyService::new().unwrap();
    let refusal = refusal(&setup);
    setup.client.run(|| {
        let socket = Socket::tcp(libc::AF_INET).unwrap();
        let address = SockaddrStorage::from(at(EMPTY));
        let fd = types::Fd(socket.as_raw_fd());
        let entry = opcode::Connect::new(fd, address.as_ptr(), address.len()).build();
        assert_eq!(ring(&entry), -refusal);
    });
}

#[test]
fn an_io_uring_send_is_translated() {
    let setup = WebAndEmptyService::new().unwrap();
    setup.client.run(|| {
        let client = UdpClient::unconnected(at(V4).ip()).unwrap();
        let address = SockaddrStorage::from(at(V4));
        let fd = types::Fd(client.socket().as_raw_fd());
        let entry = opcode::Send::new(fd, b"x".as_ptr(), 1)
            .dest_addr(address.as_ptr())
            .dest_addr_len(address.len())
            .build();
        // Before Linux 6.0 this operation has no address.
        if kernel_version().unwrap() < (6, 0) {
            let result = ring(&entry);
            assert!([-libc::EDESTADDRREQ, -libc::EINVAL].contains(&result), "{result}");
            return;
        }
        assert_eq!(ring(&entry), 1);
        let reply = client.receive().unwrap();
        assert_eq!((reply.who.as_str(), reply.from), ("web", at(V4)));
    });
}

#[test]
fn an_io_uring_sendmsg_is_translated() {
    let setup = WebAndEmptyService::new().unwrap();
    setup.client.run(|| {
        let client = UdpClient::unconnected(at(V4).ip()).unwrap();
        let address = SockaddrStorage::from(at(V4));
        let mut payload = *b"x";
        let mut part =
            libc::iovec { iov_base: payload.as_mut_ptr().cast(), iov_len: payload.len() };
        // SAFETY: all zeroes is a value of a structure of integers and pointers.
        let mut message: libc::msghdr = unsafe { std::mem::zeroed() };
        message.msg_name = address.as_ptr().cast_mut().cast();
        message.msg_namelen = address.len();
        message.msg_iov = &raw mut part;
        message.msg_iovlen = 1;
        let fd = types::Fd(client.socket().as_raw_fd());
        assert_eq!(ring(&opcode::SendMsg::new(fd, &raw const message).build()), 1);
        let reply = client.receive().unwrap();
        assert_eq!((reply.who.as_str(), reply.from), ("web", at(V4)));
    });
}
