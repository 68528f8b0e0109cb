//! The engine of another machine. Each connection is an `ssh` process that runs `docker system dial-stdio` there.

use std::fmt;
use std::io;
use std::pin::Pin;
use std::process::Stdio;
use std::task::{Context, Poll, ready};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, ReadBuf};
use tokio::process::{Child, ChildStderr, ChildStdin, ChildStdout, Command};
use tokio::sync::oneshot;

/// How much of the stderr of ssh is kept, in bytes.
const MAX_STDERR: usize = 4 * 1024;

/// The part of an address after `ssh://`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Destination {
    user: Option<String>,
    host: String,
    port: Option<u16>,
    /// The engine's socket there, if it is not the default one.
    socket: Option<String>,
}

impl Destination {
    /// Parses `[user@]host[:port][/path]`. Returns `None` for anything else, and for parts that ssh could mistake for
    /// options.
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
        // Batch mode: ssh is not in the foreground of the terminal, so it must not prompt.
        let mut arguments = vec!["-o", "ConnectTimeout=30", "-o", "BatchMode=yes", "-T"];
        let port = self.port.map(|port| port.to_string());
        if let Some(user) = &self.user {
            arguments.extend(["-l", user]);
        }
        if let Some(port) = &port {
            arguments.extend(["-p", port]);
        }
        arguments.extend(["--", &self.host, "docker"]);
        // Quoted for the shell of the other machine.
        let socket = self.socket.as_ref().map(|path| format!("'unix://{}'", path.replace('\'', "'\\''")));
        if let Some(socket) = &socket {
            arguments.extend(["--host", socket]);
        }
        arguments.extend(["system", "dial-stdio"]);
        arguments.into_iter().map(ToOwned::to_owned).collect()
    }

    /// Starts ssh. A failure to connect appears when the first response is read.
    pub(crate) fn open(&self) -> io::Result<Dialled> {
        let mut child = Command::new("ssh")
            .args(self.arguments())
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            // In its own group it is not ended by Ctrl-C: runner needs the connection to clean up.
            .process_group(0)
            .kill_on_drop(true)
            .spawn()?;
        let gone = || io::Error::from(io::ErrorKind::BrokenPipe);
        let (sender, errors) = oneshot::channel();
        tokio::spawn(collect(child.stderr.take().ok_or_else(gone)?, sender));
        Ok(Dialled {
            stdin: Some(child.stdin.take().ok_or_else(gone)?),
            stdout: child.stdout.take().ok_or_else(gone)?,
            _child: child,
            errors: Some(errors),
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

/// Reads the stderr of ssh to its end and keeps the beginning.
async fn collect(mut stderr: ChildStderr, sender: oneshot::Sender<String>) {
    let mut kept = Vec::new();
    let mut buffer = [0; 1024];
    while let Ok(read @ 1..) = stderr.read(&mut buffer).await {
        kept.extend_from_slice(&buffer[..read.min(MAX_STDERR - kept.len())]);
    }
    let text = String::from_utf8_lossy(&kept);
    let lines: Vec<&str> = text.lines().map(str::trim).filter(|line| !line.is_empty()).collect();
    let _ = sender.send(lines.join("; "));
}

/// A connection through ssh. Dropping it ends ssh.
pub(crate) struct Dialled {
    /// `None` after shutdown.
    stdin: Option<ChildStdin>,
    stdout: ChildStdout,
    /// Kept because dropping it kills ssh.
    _child: Child,
    /// The stderr of ssh; `None` once the engine has responded.
    errors: Option<oneshot::Receiver<String>>,
}

impl Dialled {
    /// Resolves to the error of ssh once it has ended without a connection, or to `None` if there was one.
    fn connect_error(&mut self, context: &mut Context<'_>) -> Poll<Option<io::Error>> {
        let Some(errors) = &mut self.errors else { return Poll::Ready(None) };
        let text = ready!(Pin::new(errors).poll(context)).unwrap_or_default();
        self.errors = None;
        let text = if text.is_empty() { "ssh ended without an answer".to_owned() } else { text };
        Poll::Ready(Some(io::Error::other(text)))
    }
}

impl AsyncRead for Dialled {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let (before, space) = (buffer.filled().len(), buffer.remaining());
        ready!(Pin::new(&mut self.stdout).poll_read(context, buffer))?;
        if buffer.filled().len() > before {
            self.errors = None;
        } else if space > 0
            && let Some(error) = ready!(self.connect_error(context))
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
                let cause = ready!(self.connect_error(context));
                Poll::Ready(Err(cause.unwrap_or(error)))
            }
            written => Poll::Ready(written),
        }
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        // ssh forwards the end of its input.
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
