//! The engine of another machine: each connection is one `ssh` that runs `docker system dial-stdio` there.

use std::fmt;
use std::io;
use std::pin::Pin;
use std::process::Stdio;
use std::task::{Context, Poll, ready};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, ReadBuf};
use tokio::process::{Child, ChildStderr, ChildStdin, ChildStdout, Command};
use tokio::sync::oneshot;

/// How much of what ssh says for itself is kept, in bytes.
const MAX_COMPLAINT: usize = 4 * 1024;

/// What stands behind `ssh://`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Destination {
    user: Option<String>,
    host: String,
    port: Option<u16>,
    /// The engine's socket there, where it is not the usual one.
    socket: Option<String>,
}

impl Destination {
    /// Reads `[user@]host[:port][/path]`; nothing where it is something else. ssh must not take any of it for an option.
    pub(crate) fn parse(text: &str) -> Option<Self> {
        let (authority, path) = text.find('/').map_or((text, ""), |at| text.split_at(at));
        let (user, address) = match authority.rsplit_once('@') {
            Some((user, address)) => (Some(user), address),
            None => (None, authority),
        };
        let (host, port) = match address.strip_prefix('[') {
            Some(rest) => {
                let (host, port) = rest.split_once(']')?;
                (host, if port.is_empty() { None } else { Some(port.strip_prefix(':')?) })
            }
            None => match address.rsplit_once(':') {
                Some((host, port)) => (host, Some(port)),
                None => (address, None),
            },
        };
        let plain = |text: &str, signs: &str| {
            !text.is_empty()
                && !text.starts_with('-')
                && text.chars().all(|c| c.is_alphanumeric() || signs.contains(c))
        };
        if !plain(host, ".-_:%") || user.is_some_and(|user| !plain(user, ".-_+@\\")) {
            return None;
        }
        Some(Self {
            user: user.map(ToOwned::to_owned),
            host: host.to_owned(),
            port: port.map(str::parse).transpose().ok()?,
            socket: (path.len() > 1).then(|| path.to_owned()),
        })
    }

    fn arguments(&self) -> Vec<String> {
        // Nobody can answer a question: ssh is not in the foreground of the terminal.
        let mut arguments = vec!["-o", "ConnectTimeout=30", "-o", "BatchMode=yes", "-T"];
        let port = self.port.map(|port| port.to_string());
        if let Some(user) = &self.user {
            arguments.extend(["-l", user]);
        }
        if let Some(port) = &port {
            arguments.extend(["-p", port]);
        }
        arguments.extend(["--", &self.host, "docker"]);
        // The other machine's shell reads it.
        let socket = self.socket.as_ref().map(|path| format!("'unix://{}'", path.replace('\'', "'\\''")));
        if let Some(socket) = &socket {
            arguments.extend(["--host", socket]);
        }
        arguments.extend(["system", "dial-stdio"]);
        arguments.into_iter().map(ToOwned::to_owned).collect()
    }

    /// Starts ssh. That it gets nowhere shows when the first answer is read.
    pub(crate) fn open(&self) -> io::Result<Dialled> {
        let mut child = Command::new("ssh")
            .args(self.arguments())
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            // What the terminal sends to stop this run must not end the connection that it is cleaned up over.
            .process_group(0)
            .kill_on_drop(true)
            .spawn()?;
        let gone = || io::Error::from(io::ErrorKind::BrokenPipe);
        let (sender, complaint) = oneshot::channel();
        tokio::spawn(listen(child.stderr.take().ok_or_else(gone)?, sender));
        Ok(Dialled {
            stdin: Some(child.stdin.take().ok_or_else(gone)?),
            stdout: child.stdout.take().ok_or_else(gone)?,
            _child: child,
            complaint: Some(complaint),
        })
    }
}

impl fmt::Display for Destination {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("ssh://")?;
        if let Some(user) = &self.user {
            write!(f, "{user}@")?;
        }
        if self.host.contains(':') {
            write!(f, "[{}]", self.host)?;
        } else {
            f.write_str(&self.host)?;
        }
        if let Some(port) = self.port {
            write!(f, ":{port}")?;
        }
        f.write_str(self.socket.as_deref().unwrap_or_default())
    }
}

/// Reads what ssh says to its end, and keeps the beginning.
async fn listen(mut stderr: ChildStderr, sender: oneshot::Sender<String>) {
    let mut kept = Vec::new();
    let mut buffer = [0; 1024];
    while let Ok(read @ 1..) = stderr.read(&mut buffer).await {
        kept.extend_from_slice(&buffer[..read.min(MAX_COMPLAINT - kept.len())]);
    }
    let text = String::from_utf8_lossy(&kept);
    let lines: Vec<&str> = text.lines().map(str::trim).filter(|line| !line.is_empty()).collect();
    let _ = sender.send(lines.join("; "));
}

/// A connection through ssh, which ends with it.
pub(crate) struct Dialled {
    /// Gone once nothing more will be written.
    stdin: Option<ChildStdin>,
    stdout: ChildStdout,
    /// Dropped with the rest, which ends it.
    _child: Child,
    /// What ssh says for itself; gone once the engine has said something.
    complaint: Option<oneshot::Receiver<String>>,
}

impl Dialled {
    /// Why there is no connection, once ssh has ended without one; nothing where there was one.
    fn failed(&mut self, context: &mut Context<'_>) -> Poll<Option<io::Error>> {
        let Some(complaint) = &mut self.complaint else { return Poll::Ready(None) };
        let said = ready!(Pin::new(complaint).poll(context)).unwrap_or_default();
        self.complaint = None;
        let said = if said.is_empty() { "ssh ended without an answer".to_owned() } else { said };
        Poll::Ready(Some(io::Error::other(said)))
    }
}

impl AsyncRead for Dialled {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let (before, wanted) = (buffer.filled().len(), buffer.remaining());
        ready!(Pin::new(&mut self.stdout).poll_read(context, buffer))?;
        if buffer.filled().len() > before {
            self.complaint = None;
        } else if wanted > 0
            && let Some(error) = ready!(self.failed(context))
        {
            return Poll::Ready(Err(error));
        }
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for Dialled {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        let Some(stdin) = &mut self.stdin else {
            return Poll::Ready(Err(io::ErrorKind::BrokenPipe.into()));
        };
        match ready!(Pin::new(stdin).poll_write(context, bytes)) {
            Err(error) if error.kind() == io::ErrorKind::BrokenPipe => {
                let why = ready!(self.failed(context));
                Poll::Ready(Err(why.unwrap_or(error)))
            }
            written => Poll::Ready(written),
        }
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        // The end of its input is what ssh hands on.
        self.stdin = None;
        Poll::Ready(Ok(()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn arguments(text: &str) -> Option<String> {
        Destination::parse(text).map(|destination| destination.arguments()[5..].join(" "))
    }

    #[test]
    fn destinations_become_arguments() {
        for (text, expected) in [
            ("build", "-- build docker system dial-stdio"),
            ("me@build:2222", "-l me -p 2222 -- build docker system dial-stdio"),
            ("me@[fe80::1%eth0]:22/", "-l me -p 22 -- fe80::1%eth0 docker system dial-stdio"),
            ("build/run/it's.sock", "-- build docker --host 'unix:///run/it'\\''s.sock' system dial-stdio"),
        ] {
            assert_eq!(arguments(text).as_deref(), Some(expected), "{text}");
        }
        for wrong in
            ["", "-oProxyCommand=x", "-x@host", "a:b@host", "host:port", "ho st", "$(x)", "host?q", "[::1"]
        {
            assert_eq!(Destination::parse(wrong), None, "{wrong}");
        }
    }
}
