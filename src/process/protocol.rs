//! What runner and its guards say to each other: JSON documents with their length in front, over a socket. The command's
//! output does not go this way: with the request to run a command goes the writing end of a pipe.

use rustix::net::{
    RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, ReturnFlags, SendAncillaryBuffer,
    SendAncillaryMessage, SendFlags,
};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use std::ffi::OsString;
use std::io::{self, IoSlice, IoSliceMut, Read, Write};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::time::Duration;

/// The bytes of a length.
pub(crate) const HEADER: usize = 4;
/// No message is larger: the kernel takes 2 MiB of arguments and environment, and a byte may be four letters in JSON.
const LARGEST: usize = 64 * 1024 * 1024;

/// From runner to a guard.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) enum Request {
    Run {
        /// The program and its arguments.
        argv: Vec<OsString>,
        dir: OsString,
        env: Vec<(OsString, OsString)>,
        /// Time between TERM and KILL, also when runner is gone.
        grace: Duration,
    },
    /// End everything: TERM, then KILL after the grace.
    Stop,
    /// End everything at once.
    Kill,
    /// The command has ended by itself; end what it left behind.
    Sweep,
}

/// From a guard to runner. A command that was started gets `Ended` and `Clear`, in this order.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) enum Reply {
    /// The command could not be started.
    Failed {
        /// The kernel's number of the error.
        errno: i32,
    },
    /// The command itself has ended.
    Ended {
        /// Its exit code, or the signal that ended it, negated.
        status: i32,
    },
    /// Nothing that it started lives any longer.
    Clear {
        /// What lived on after it, by name.
        left: Vec<String>,
        /// What could not be ended, by name.
        alive: Vec<String>,
    },
}

/// A message as it goes over the socket.
pub(crate) fn frame(message: &impl Serialize) -> io::Result<Vec<u8>> {
    let body = serde_json::to_vec(message)?;
    let length = u32::try_from(body.len()).map_err(|_| io::ErrorKind::InvalidInput)?;
    Ok([length.to_be_bytes().as_slice(), &body].concat())
}

/// Sends the first bytes of a message together with a file descriptor. The answer is how many bytes went.
pub(crate) fn send_with(socket: impl AsFd, bytes: &[u8], file: BorrowedFd<'_>) -> io::Result<usize> {
    let files = [file];
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut ancillary = SendAncillaryBuffer::new(&mut space);
    ancillary.push(SendAncillaryMessage::ScmRights(&files));
    Ok(rustix::net::sendmsg(socket, &[IoSlice::new(bytes)], &mut ancillary, SendFlags::NOSIGNAL)?)
}

pub(crate) fn send(mut socket: &UnixStream, message: &impl Serialize) -> io::Result<()> {
    socket.write_all(&frame(message)?)
}

/// Receives a message, and the file descriptor that came with it. Nothing at the end of the stream.
pub(crate) fn receive<M: DeserializeOwned>(
    mut socket: &UnixStream,
) -> io::Result<Option<(M, Option<OwnedFd>)>> {
    let mut header = [0; HEADER];
    let mut filled = 0;
    let mut file = None;
    while filled < HEADER {
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
        let mut ancillary = RecvAncillaryBuffer::new(&mut space);
        let rest = &mut [IoSliceMut::new(&mut header[filled..])];
        let received = match rustix::net::recvmsg(socket, rest, &mut ancillary, RecvFlags::CMSG_CLOEXEC) {
            Err(rustix::io::Errno::INTR) => continue,
            received => received?,
        };
        if received.flags.contains(ReturnFlags::CTRUNC) {
            return Err(io::Error::other("a file descriptor was lost"));
        }
        for message in ancillary.drain() {
            if let RecvAncillaryMessage::ScmRights(mut files) = message {
                file = files.next();
            }
        }
        if received.bytes == 0 {
            return Ok(None);
        }
        filled += received.bytes;
    }
    let length = u32::from_be_bytes(header) as usize;
    if length > LARGEST {
        return Err(io::ErrorKind::InvalidData.into());
    }
    let mut body = vec![0; length];
    socket.read_exact(&mut body)?;
    Ok(Some((serde_json::from_slice(&body)?, file)))
}
