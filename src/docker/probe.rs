//! Readiness probes of services.

use super::Engine;
use bollard::container::LogOutput;
use bollard::exec::{StartExecOptions, StartExecResults};
use bollard::models::{EndpointSettings, ExecConfig};
use bollard::query_parameters::LogsOptions;
use futures_util::{Stream, StreamExt};
use jiff::Timestamp;
use std::collections::HashMap;
use std::io::ErrorKind;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, UdpSocket};
use std::pin::Pin;
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::{Instant, timeout, timeout_at};

/// The timeout of a connection to a container.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(1);
/// After this time without a message, a log is opened again. While nothing new comes, the time doubles up to a maximum.
const SILENCE: Duration = Duration::from_secs(2);
const MAX_SILENCE: Duration = Duration::from_secs(16);
/// The longest status line of a response, in bytes.
const MAX_STATUS_LINE: usize = 1024;
/// The largest output of a command or log that is kept, in bytes.
pub(super) const MAX_OUTPUT: usize = 1024 * 1024;
/// The state of a listening socket in proc(5), `tcp`.
const LISTENING: &str = "0A";

/// A readiness probe.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Probe {
    /// The image's own health check.
    Healthcheck,
    /// A TCP port that accepts connections.
    Port(u16),
    /// A port and a path that return a status below 400.
    Http(u16, String),
    /// A string in the output.
    Log(String),
    /// A command in the container that exits with 0.
    Command(Vec<String>),
}

/// How a container is reached in the network that it shares with the test.
pub(super) struct Reach {
    addresses: Vec<IpAddr>,
    /// The network's bridge is on this machine, so its addresses mean the same here as in the container.
    is_here: bool,
}

impl Reach {
    /// `networks` are those of the container, which is in one.
    pub(super) fn new(networks: Option<HashMap<String, EndpointSettings>>) -> Self {
        let network = networks.and_then(|networks| networks.into_values().next()).unwrap_or_default();
        let addresses = [network.ip_address, network.global_ipv6_address].into_iter().flatten();
        Self {
            addresses: addresses.filter_map(|address| address.parse().ok()).collect(),
            is_here: network.network_id.is_some_and(|id| has_bridge(&id)),
        }
    }
}

/// Whether the bridge of a network is in this process's network namespace. The engine names it after the network.
fn has_bridge(network: &str) -> bool {
    let name = format!("br-{network:.12}");
    let socket =
        UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).or_else(|_| UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0)));
    socket.is_ok_and(|socket| rustix::net::netdevice::name_to_index(&socket, &name).is_ok())
}

impl Engine {
    /// Runs a probe once. If the probe cannot run, the service is not ready.
    pub(super) async fn is_ready(&self, probe: &Probe, id: &str, reach: &Reach) -> bool {
        match probe {
            // The engine runs health checks, and a log is followed.
            Probe::Healthcheck | Probe::Log(_) => false,
            Probe::Command(argv) => self.exec(id, argv.clone()).await.is_some_and(|(code, _)| code == 0),
            Probe::Port(port) => self.accepts(*port, id, reach).await,
            Probe::Http(port, path) => {
                for address in &reach.addresses {
                    if responds(SocketAddr::new(*address, *port), path).await.unwrap_or(false) {
                        return true;
                    }
                }
                false
            }
        }
    }

    /// Whether a port accepts connections from the network of the container, as the test makes them.
    async fn accepts(&self, port: u16, id: &str, reach: &Reach) -> bool {
        let mut refusals = 0;
        let mut connects = false;
        for address in &reach.addresses {
            match timeout(CONNECT_TIMEOUT, TcpStream::connect((*address, port))).await {
                Ok(Ok(_)) => connects = true,
                Ok(Err(error)) if error.kind() == ErrorKind::ConnectionRefused => refusals += 1,
                _ => {}
            }
        }
        if reach.is_here && (connects || refusals > 0) {
            return connects;
        }
        // This machine may not reach the network, or have another one with the same addresses. The container's own list
        // of sockets is in proc(5), `tcp`.
        let argv = ["cat", "/proc/net/tcp", "/proc/net/tcp6"].map(ToOwned::to_owned).to_vec();
        match self.exec(id, argv).await {
            Some((_, table)) if table.contains("local_address") => {
                is_listening(&table, port, &reach.addresses)
            }
            _ => connects,
        }
    }

    /// Runs a command in a container. Returns its exit code and output.
    async fn exec(&self, id: &str, argv: Vec<String>) -> Option<(i64, String)> {
        let config = ExecConfig {
            cmd: Some(argv),
            attach_stdout: Some(true),
            attach_stderr: Some(true),
            ..ExecConfig::default()
        };
        let created = self.client.create_exec(id, config).await.ok()?.id;
        let started = self.client.start_exec(&created, None::<StartExecOptions>).await.ok()?;
        let mut text = Vec::new();
        if let StartExecResults::Attached { mut output, .. } = started {
            while let Some(Ok(piece)) = output.next().await {
                let rest = MAX_OUTPUT.saturating_sub(text.len());
                let bytes = piece.into_bytes();
                text.extend_from_slice(&bytes[..bytes.len().min(rest)]);
            }
        }
        let code = self.client.inspect_exec(&created).await.ok()?.exit_code?;
        Some((code, String::from_utf8_lossy(&text).into_owned()))
    }
}

/// The search for a string in the output of a container, which is read once.
pub(super) struct LogSearch<'a> {
    engine: &'a Engine,
    id: &'a str,
    /// Of stdout and stderr.
    windows: [Window<'a>; 2],
    follows: Option<Follow>,
    /// When the last message came, or when the log was opened.
    heard: Instant,
    silence: Duration,
    /// The time of the last message, and how many messages have it.
    last: (String, usize),
    /// While known messages are repeated: how many of those with that time are left.
    again: Option<usize>,
}

type Follow = Pin<Box<dyn Stream<Item = Result<LogOutput, bollard::errors::Error>> + Send>>;

/// How a search stands.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Found {
    Yes,
    NotYet,
    /// The output has ended.
    Never,
}

impl<'a> LogSearch<'a> {
    pub(super) fn new(engine: &'a Engine, id: &'a str, text: &'a str) -> Self {
        let windows = [Window::new(text.as_bytes()), Window::new(text.as_bytes())];
        let (heard, last) = (Instant::now(), (String::new(), 0));
        Self { engine, id, windows, follows: None, heard, silence: SILENCE, last, again: None }
    }

    /// Continues the search for this long.
    pub(super) async fn search(&mut self, time: Duration) -> Found {
        let end = Instant::now() + time;
        loop {
            let mut follows = match self.follows.take() {
                Some(follows) if self.heard.elapsed() < self.silence => follows,
                Some(_) => {
                    self.silence = MAX_SILENCE.min(2 * self.silence);
                    self.open()
                }
                None => self.open(),
            };
            // Dropped while it waits, it loses nothing: the next search opens the log again.
            match timeout_at(end.min(self.heard + self.silence), follows.next()).await {
                Ok(Some(Ok(piece))) => {
                    self.heard = Instant::now();
                    self.follows = Some(follows);
                    if self.completes(piece) {
                        return Found::Yes;
                    }
                }
                Ok(_) => return Found::Never,
                Err(_) => {
                    self.follows = Some(follows);
                    if Instant::now() >= end {
                        return Found::NotYet;
                    }
                }
            }
        }
    }

    /// Follows the log from the second of the last message. It is opened again if it is silent, because engines may
    /// lose a log that they rotate.
    fn open(&mut self) -> Follow {
        self.heard = Instant::now();
        self.again = (self.last.1 > 0).then_some(self.last.1);
        let since = self.last.0.parse::<Timestamp>().map_or(0, Timestamp::as_second);
        let options = LogsOptions {
            follow: true,
            stdout: true,
            stderr: true,
            timestamps: true,
            since: i32::try_from(since).unwrap_or_default(),
            ..LogsOptions::default()
        };
        Box::pin(self.engine.client.logs(self.id, Some(options)))
    }

    /// Adds a message, which begins with its time. Returns whether the string is there now.
    fn completes(&mut self, piece: LogOutput) -> bool {
        let stream = usize::from(matches!(piece, LogOutput::StdErr { .. }));
        let piece = piece.into_bytes();
        // An engine that gives no time has a first word without one.
        let at = piece.iter().position(|byte| *byte == b' ');
        let at =
            at.filter(|at| piece[..*at].ends_with(b"Z") && piece[0].is_ascii_digit()).unwrap_or_default();
        let time = String::from_utf8_lossy(&piece[..at]);
        if let Some(again) = &mut self.again {
            match time.as_ref().cmp(&self.last.0) {
                std::cmp::Ordering::Less => return false,
                std::cmp::Ordering::Equal if *again > 0 => {
                    *again -= 1;
                    return false;
                }
                _ => self.again = None,
            }
        }
        self.silence = SILENCE;
        if self.last.0 == time {
            self.last.1 += 1;
        } else {
            self.last = (time.into_owned(), 1);
        }
        self.windows[stream].completes(if at == 0 { &piece } else { &piece[at + 1..] })
    }
}

/// The end of an output that arrives in pieces: as much of it as may begin a string.
struct Window<'t> {
    text: &'t [u8],
    end: Vec<u8>,
}

impl<'t> Window<'t> {
    fn new(text: &'t [u8]) -> Self {
        Self { text, end: Vec::new() }
    }

    /// Adds a piece. Returns whether the string is there now.
    fn completes(&mut self, piece: &[u8]) -> bool {
        let Some(first) = self.text.first() else { return true };
        self.end.extend_from_slice(piece);
        let mut rest = self.end.as_slice();
        while let Some(at) = rest.iter().position(|byte| byte == first) {
            if rest[at..].starts_with(self.text) {
                return true;
            }
            rest = &rest[at + 1..];
        }
        self.end.drain(..(self.end.len() + 1).saturating_sub(self.text.len()));
        false
    }
}

/// Whether the tables `tcp` and `tcp6` of proc(5) have a socket that listens on a port, at one of these addresses or at
/// all of them. One that is bound to loopback accepts no connections from the network.
fn is_listening(tables: &str, port: u16, addresses: &[IpAddr]) -> bool {
    let is_open = |line: &str| {
        let fields: Vec<&str> = line.split_whitespace().take(4).collect();
        let [_, local, _, LISTENING] = fields[..] else { return false };
        local
            .split_once(':')
            .filter(|(_, own)| u16::from_str_radix(own, 16) == Ok(port))
            .and_then(|(address, _)| bound_to(address))
            .is_some_and(|bound| bound.is_unspecified() || addresses.contains(&bound))
    };
    tables.lines().any(is_open)
}

/// The address of a socket in proc(5): words of 32 bits in the machine's own order.
fn bound_to(text: &str) -> Option<IpAddr> {
    let word = |at: usize| Some(u32::from_str_radix(text.get(at * 8..at * 8 + 8)?, 16).ok()?.to_ne_bytes());
    match text.len() {
        8 => Some(IpAddr::from(word(0)?)),
        32 => {
            let words = [word(0)?, word(1)?, word(2)?, word(3)?];
            let bytes: [u8; 16] = words.as_flattened().try_into().ok()?;
            Some(IpAddr::from(Ipv6Addr::from(bytes)).to_canonical())
        }
        _ => None,
    }
}

/// Whether a web server returns a status below 400.
async fn responds(address: SocketAddr, path: &str) -> std::io::Result<bool> {
    let mut stream = TcpStream::connect(address).await?;
    let request = format!("GET {path} HTTP/1.0\r\nHost: {address}\r\nConnection: close\r\n\r\n");
    stream.write_all(request.as_bytes()).await?;
    // The status line may arrive in pieces.
    let mut head = Vec::new();
    let mut piece = [0; 64];
    while head.len() < MAX_STATUS_LINE && !head.contains(&b'\n') {
        match stream.read(&mut piece).await? {
            0 => break,
            read => head.extend_from_slice(&piece[..read]),
        }
    }
    let head = String::from_utf8_lossy(&head).into_owned();
    let status = head.split_whitespace().nth(1).and_then(|status| status.parse::<u16>().ok());
    Ok(status.is_some_and(|status| (100..400).contains(&status)))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Findings, C6.
    #[test]
    fn sockets_on_loopback_accept_nothing_from_the_network() {
        let own: Vec<IpAddr> = vec!["172.18.0.3".parse().unwrap(), "fd00::3".parse().unwrap()];
        let is_open = |local: &str, state: &str| {
            let table = format!(
                "  sl  local_address rem_address   st tx_queue\n   0: {local} 00000000:0000 {state} 00000000:00000000\n"
            );
            is_listening(&table, 8080, &own)
        };
        for open in [
            "00000000:1F90",
            "030012AC:1F90",
            "00000000000000000000000000000000:1F90",
            "0000000000000000FFFF000000000000:1F90",
            "0000000000000000FFFF0000030012AC:1F90",
            "000000FD000000000000000003000000:1F90",
        ] {
            assert!(is_open(open, "0A"), "{open}");
            assert!(!is_open(open, "01"), "{open} is connected, not listening");
        }
        for closed in [
            "0100007F:1F90",
            "0200007F:1F90",
            "040012AC:1F90",
            "00000000:1F91",
            "00000000000000000000000001000000:1F90",
            "0000000000000000FFFF00000100007F:1F90",
        ] {
            assert!(!is_open(closed, "0A"), "{closed}");
        }
    }

    /// Findings, C5.
    #[test]
    fn a_text_is_found_across_pieces_and_little_is_kept() {
        for pieces in [
            &["ready"][..],
            &["re", "ady"],
            &["r", "e", "a", "d", "y"],
            &["rerea", "dy"],
            &["noise re", "", "ady noise"],
        ] {
            let mut window = Window::new(b"ready");
            assert!(pieces.iter().any(|piece| window.completes(piece.as_bytes())), "{pieces:?}");
        }
        let mut window = Window::new(b"ready");
        for piece in ["read", "rea dy", "eady", "r\ne\n"] {
            assert!(!window.completes(piece.as_bytes()), "{piece}");
        }
        for _ in 0..100 {
            assert!(!window.completes(&[b'r'; 16 * 1024]));
            assert!(window.end.len() < 5);
        }
    }
}
