//! The file sync service: the build's directories, walked and read as BuildKit asks for them.

use super::Build;
use crate::docker::DockerError;
use crate::docker::context::{self, ContextError, Selection};
use bollard_buildkit_proto::fsutil::types::packet::PacketType;
use bollard_buildkit_proto::fsutil::types::{Packet, Stat};
use bollard_buildkit_proto::moby::filesync::v1::file_sync_server::FileSync;
use std::fs::File;
use std::io::Read;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::metadata::MetadataMap;
use tonic::{Request, Response, Status, Streaming};

/// How much of a file one packet carries, in bytes.
const CHUNK: usize = 64 * 1024;
/// How many packets may wait for the connection; with [`CHUNK`] this bounds the memory of a transfer.
const WAITING: usize = 64;

/// The first error that reading a directory met, for the message to the user.
pub(super) type Failures = Arc<Mutex<Option<ContextError>>>;

/// The directories of one build.
pub(super) struct Directories {
    context: PathBuf,
    /// The directory that holds the Dockerfile.
    dockerfile: PathBuf,
    failures: Failures,
}

impl Directories {
    pub(super) fn new(build: &Build) -> Result<Self, DockerError> {
        if !build.dockerfile.is_file() {
            return Err(DockerError::NoDockerfile(build.dockerfile.clone()));
        }
        let parent = build.dockerfile.parent().unwrap_or(Path::new("."));
        Ok(Self {
            context: build.context.clone(),
            dockerfile: parent.to_owned(),
            failures: Failures::default(),
        })
    }

    pub(super) fn failures(&self) -> Failures {
        self.failures.clone()
    }
}

#[tonic::async_trait]
impl FileSync for Directories {
    type DiffCopyStream = ReceiverStream<Result<Packet, Status>>;
    type TarStreamStream = ReceiverStream<Result<Packet, Status>>;

    async fn diff_copy(
        &self,
        request: Request<Streaming<Packet>>,
    ) -> Result<Response<Self::DiffCopyStream>, Status> {
        let metadata = request.metadata();
        let directory = match values(metadata, "dir-name").first().map(String::as_str) {
            Some("context") => &self.context,
            Some("dockerfile") => &self.dockerfile,
            other => {
                let name = other.unwrap_or_default();
                return Err(Status::not_found(format!("no directory `{name}` is shared")));
            }
        };
        let selection = Selection {
            exclude: values(metadata, "exclude-patterns"),
            include: values(metadata, "include-patterns"),
            follow: values(metadata, "followpaths"),
        };
        let (packets, receiver) = mpsc::channel(WAITING);
        let (wanted, requests) = mpsc::unbounded_channel();
        tokio::spawn(read_requests(request.into_inner(), wanted));
        let transfer = Transfer { root: directory.clone(), packets, failures: self.failures.clone() };
        tokio::task::spawn_blocking(move || transfer.run(&selection, requests));
        Ok(Response::new(ReceiverStream::new(receiver)))
    }

    async fn tar_stream(
        &self,
        _: Request<Streaming<Packet>>,
    ) -> Result<Response<Self::TarStreamStream>, Status> {
        Err(Status::unimplemented("tar streams"))
    }
}

/// The values of a metadata key. BuildKit percent-encodes values where one of them is not plain ASCII, and says so.
fn values(metadata: &MetadataMap, key: &str) -> Vec<String> {
    let encoded = metadata.contains_key(format!("{key}-encoded"));
    metadata
        .get_all(key)
        .iter()
        .map(|value| String::from_utf8_lossy(value.as_bytes()).into_owned())
        .map(|value| if encoded { percent_decode(&value) } else { value })
        .collect()
}

fn percent_decode(text: &str) -> String {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let Some((&first, tail)) = rest.split_first() {
        let decoded = (first == b'%')
            .then(|| tail.get(..2))
            .flatten()
            .and_then(|digits| std::str::from_utf8(digits).ok())
            .and_then(|digits| u8::from_str_radix(digits, 16).ok());
        bytes.push(decoded.unwrap_or(first));
        rest = if decoded.is_some() { &tail[2..] } else { tail };
    }
    String::from_utf8_lossy(&bytes).into_owned()
}

/// What BuildKit asks for.
enum Asked {
    /// The content of the file with this number.
    File(u32),
    /// Nothing more.
    Finish,
}

/// Takes requests off the connection as they come. They are small and many: left unread they would count against the
/// limits of the HTTP/2 connection, which then closes.
async fn read_requests(mut stream: Streaming<Packet>, wanted: mpsc::UnboundedSender<Asked>) {
    while let Ok(Some(packet)) = stream.message().await {
        let asked = match packet.r#type() {
            PacketType::PacketReq => Asked::File(packet.id),
            PacketType::PacketFin => Asked::Finish,
            _ => continue,
        };
        if wanted.send(asked).is_err() {
            return;
        }
    }
}

/// One directory on its way to the engine.
struct Transfer {
    root: PathBuf,
    packets: mpsc::Sender<Result<Packet, Status>>,
    failures: Failures,
}

/// The engine does not listen any more.
struct Gone;

impl Transfer {
    fn run(self, selection: &Selection, mut requests: mpsc::UnboundedReceiver<Asked>) {
        let mut files = Vec::new();
        let mut number = 0;
        let walked = context::walk(&self.root, selection, &mut |stat| {
            // Directories and links have no content: only files can be asked for.
            if stat.mode >> 27 == 0 {
                files.push((number, stat.path.clone()));
            }
            number += 1;
            self.send_stat(Some(stat)).is_ok()
        });
        if let Err(error) = walked {
            return self.fail(error);
        }
        if self.send_stat(None).is_err() {
            return;
        }
        while let Some(asked) = requests.blocking_recv() {
            match asked {
                Asked::Finish => {
                    let _ = self.send(PacketType::PacketFin, 0, Vec::new());
                    return;
                }
                Asked::File(id) => {
                    let found = files.binary_search_by_key(&id, |(number, _)| *number);
                    let Ok(at) = found else { continue };
                    match self.send_file(id, &files[at].1) {
                        Ok(Ok(())) => {}
                        Ok(Err(Gone)) => return,
                        Err(error) => return self.fail(error),
                    }
                }
            }
        }
    }

    fn send(&self, kind: PacketType, id: u32, data: Vec<u8>) -> Result<(), Gone> {
        let packet = Packet { r#type: kind.into(), id, data, stat: None };
        self.packets.blocking_send(Ok(packet)).map_err(|_| Gone)
    }

    fn send_stat(&self, stat: Option<Stat>) -> Result<(), Gone> {
        let packet = Packet { r#type: PacketType::PacketStat.into(), stat, ..Packet::default() };
        self.packets.blocking_send(Ok(packet)).map_err(|_| Gone)
    }

    fn send_file(&self, id: u32, path: &str) -> Result<Result<(), Gone>, ContextError> {
        let full = self.root.join(path);
        let read = |source| ContextError::Read { path: full.clone(), source };
        let mut file = File::open(&full).map_err(read)?;
        loop {
            let mut data = vec![0; CHUNK];
            let length = file.read(&mut data).map_err(read)?;
            data.truncate(length);
            // An empty packet ends the file.
            if self.send(PacketType::PacketData, id, data).is_err() {
                return Ok(Err(Gone));
            }
            if length == 0 {
                return Ok(Ok(()));
            }
        }
    }

    fn fail(&self, error: ContextError) {
        let text = crate::exit::chain(&error);
        self.failures.lock().unwrap_or_else(PoisonError::into_inner).get_or_insert(error);
        let _ = self.send(PacketType::PacketErr, 0, text.into_bytes());
    }
}
