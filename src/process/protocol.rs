//! The protocol between runner and its guards: JSON documents with a length prefix over a socket. The output of a command uses a
//! pipe, whose write end is passed with the request to run the command.

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

/// The size of the length prefix, in bytes.
pub(crate) const HEADER: usize = 4;
/// The largest message. The kernel accepts 2 MiB of arguments and environment, and a byte takes up to four letters in JSON.
const MAX_MESSAGE: usize = 64 * 1024 * 1024;

/// A message from runner to a guard.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) enum Request {
    Run {
        /// The program and its arguments.
        argv: Vec<OsString>,
        dir: OsString,
        env: Vec<(OsString, OsString)>,
        /// The time between TERM and KILL, also after runner has ended.
        grace: Duration,
    },
    /// End all processes: TERM, then KILL after the grace period.
    Stop,
    /// Kill all processes immediately.
    Kill,
    /// The command has ended by itself: end its descendants.
    Sweep,
}

/// A message from a guard to runner. A command that was started results in `Ended` and then `Clear`.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) enum Reply {
    /// The command could not be started.
    Failed { errno: i32 },
    /// The command itself has ended.
    Ended {
        /// The exit code, or the negated number of the signal that ended it.
        status: i32,
    },
    /// All descendants have ended.
    Clear {
        /// The names of processes that outlived the command.
        left: Vec<String>,
        /// The names of processes that could not be ended.
        alive: Vec<String>,
    },
}

/// Encodes a message with its length prefix.
pub(crate) fn frame(message: &impl Serialize) -> io::Result<Vec<u8>> {
    let body = serde_json::to_vec(message)?;
    let length = u32::try_from(body.len()).map_err(|_| io::ErrorKind::InvalidInput)?;
    Ok([length.to_be_bytes().as_slice(), &body].concat())
}

/// Sends the first bytes of a message together with a file descriptor. Returns the number of bytes sent.
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

/// Receives a message with its file descriptor. Returns `None` at the end of the stream.
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
    if length > MAX_MESSAGE {
        return Err(io::ErrorKind::InvalidData.into());
    }
    let mut body = vec![0; length];
    socket.read_exact(&mut body)?;
    Ok(Some((serde_json::from_slice(&body)?, file)))
}
