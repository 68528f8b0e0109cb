//! The file sync service: the build's directories, walked and read as BuildKit asks for them.

use super::dockerfile::Dockerfile;
use crate::docker::context::{self, ContextError, Selection};
use crate::docker::ignore::{IgnoreFile, Rules};
use crate::docker::sizes::Sizes;
use crate::text::human_size;
use bollard_buildkit_proto::fsutil::types::packet::PacketType;
use bollard_buildkit_proto::fsutil::types::{Packet, Stat};
use bollard_buildkit_proto::moby::filesync::v1::file_sync_server::FileSync;
use futures_util::StreamExt;
use futures_util::stream::{self, BoxStream};
use std::fs::File;
use std::io::{self, Read};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::metadata::MetadataMap;
use tonic::{Request, Response, Status, Streaming};

/// How many files are read side by side. Most of the time goes into opening them.
const READERS: usize = 4;
/// How much of a file one packet carries, in bytes.
const CHUNK: usize = 64 * 1024;
/// The least that is read at once, in bytes: a file may have grown.
const SMALL: usize = 512;
/// How many batches may wait for the connection; with [`CHUNK`] and [`READERS`] this bounds the memory of a transfer.
const WAITING: usize = 4;
/// A batch is handed on when it has so many packets or so many bytes. Handing packets over one by one would take longer than
/// making them.
const BATCH: usize = 128;
const BATCH_BYTES: usize = 16 * 1024;

/// What the directories with Dockerfiles are called, before their number.
const DOCKERFILE: &str = "dockerfile-";
/// Contexts above this size are warned about, in bytes.
const LARGE: u64 = 200_000_000;
/// How many things such a warning names.
const CULPRITS: usize = 3;

/// The directories of a session's builds. Clones are the same.
#[derive(Clone)]
pub(crate) struct Directories {
    context: Option<PathBuf>,
    rules: Rules,
    /// Each build's Dockerfile, in a directory with this number in its name.
    dockerfiles: Arc<Mutex<Vec<Arc<Dockerfile>>>>,
    /// The first error that reading the context met, for the message to the user.
    failure: Arc<Mutex<Option<Arc<ContextError>>>>,
    /// For what is not wrong with it, but not good.
    warnings: mpsc::Sender<String>,
}

impl Directories {
    pub(crate) fn new(context: Option<&Path>, rules: Rules, warnings: mpsc::Sender<String>) -> Self {
        let context = context.map(Path::to_owned);
        Self { context, rules, dockerfiles: Arc::default(), failure: Arc::default(), warnings }
    }

    /// Adds a Dockerfile; the answer is the name of its directory.
    pub(crate) fn add(&self, dockerfile: Arc<Dockerfile>) -> String {
        let mut dockerfiles = lock(&self.dockerfiles);
        dockerfiles.push(dockerfile);
        format!("{DOCKERFILE}{}", dockerfiles.len() - 1)
    }

    /// The Dockerfile in the directory of that name.
    fn dockerfile(&self, directory: &str) -> Option<Arc<Dockerfile>> {
        let number: usize = directory.strip_prefix(DOCKERFILE)?.parse().ok()?;
        lock(&self.dockerfiles).get(number).cloned()
    }

    /// Why the context could not be read.
    pub(crate) fn failure(&self) -> Option<Arc<ContextError>> {
        lock(&self.failure).clone()
    }

    /// The error with the place of the pattern that it is about, in the ignore file that has it.
    fn placed(&self, error: ContextError, root: &Path) -> ContextError {
        let dockerfiles = lock(&self.dockerfiles).clone();
        dockerfiles
            .iter()
            .fold(error, |error, dockerfile| error.placed(|| IgnoreFile::read(Some(dockerfile.path()), root)))
    }

    /// What is large takes long to send, and is seldom needed.
    fn warn_of(&self, sizes: &Sizes) {
        if sizes.bytes > LARGE {
            let culprit = |(path, size): (&str, u64)| format!("{path} ({})", human_size(size));
            let culprits: Vec<String> = sizes.culprits(CULPRITS).into_iter().map(culprit).collect();
            let warning = format!(
                "the build context has {} in {} files, most of it in {}; `.dockerignore` leaves out what the build does not need, `runner image context DIR --size` shows more",
                human_size(sizes.bytes),
                sizes.files,
                culprits.join(", ")
            );
            let _ = self.warnings.blocking_send(warning);
        }
    }
}

#[tonic::async_trait]
impl FileSync for Directories {
    type DiffCopyStream = BoxStream<'static, Result<Packet, Status>>;
    type TarStreamStream = stream::Empty<Result<Packet, Status>>;

    async fn diff_copy(
        &self,
        request: Request<Streaming<Packet>>,
    ) -> Result<Response<Self::DiffCopyStream>, Status> {
        let metadata = request.metadata();
        let name = values(metadata, "dir-name").first().cloned().unwrap_or_default();
        let selection = Selection {
            exclude: values(metadata, "exclude-patterns"),
            include: values(metadata, "include-patterns"),
            follow: values(metadata, "followpaths"),
            rules: self.rules,
        };
        let (batches, receiver) = mpsc::channel(WAITING);
        let (wanted, requests) = mpsc::unbounded_channel();
        tokio::spawn(read_requests(request.into_inner(), wanted, batches.clone()));
        match (&self.context, self.dockerfile(&name)) {
            (Some(root), _) if name == "context" => {
                let transfer = Arc::new(Transfer {
                    root: root.clone(),
                    directories: self.clone(),
                    batches,
                    files: Mutex::default(),
                    requests: Mutex::new(requests),
                });
                for _ in 0..READERS {
                    let transfer = transfer.clone();
                    tokio::task::spawn_blocking(move || transfer.read());
                }
                tokio::task::spawn_blocking(move || transfer.walk(&selection));
            }
            (_, Some(dockerfile)) => {
                tokio::spawn(send_small(dockerfile.files(), batches, requests));
            }
            _ => return Err(Status::not_found(format!("no directory `{name}` is shared"))),
        }
        Ok(Response::new(ReceiverStream::new(receiver).flat_map(stream::iter).map(Ok).boxed()))
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

/// Takes requests off the connection as they come. They are small and many: left unread they would count against the
/// limits of the HTTP/2 connection, which then closes.
async fn read_requests(
    mut stream: Streaming<Packet>,
    wanted: mpsc::UnboundedSender<u32>,
    batches: mpsc::Sender<Vec<Packet>>,
) {
    while let Ok(Some(request)) = stream.message().await {
        match request.r#type() {
            PacketType::PacketReq if wanted.send(request.id).is_err() => return,
            // It comes when all that was asked for has arrived. BuildKit waits for the answer and for the end of the stream,
            // which is there when nobody reads any more.
            PacketType::PacketFin => {
                let _ = batches.send(vec![packet(PacketType::PacketFin, 0, Vec::new())]).await;
                return;
            }
            _ => {}
        }
    }
}

/// Sends files that are in memory.
async fn send_small(
    files: Vec<(Stat, Vec<u8>)>,
    batches: mpsc::Sender<Vec<Packet>>,
    mut requests: mpsc::UnboundedReceiver<u32>,
) {
    let stats = files.iter().map(|(stat, _)| Some(stat.clone())).chain([None]);
    let _ = batches.send(stats.map(stat_packet).collect()).await;
    while let Some(id) = requests.recv().await {
        let content =
            usize::try_from(id).ok().and_then(|at| files.get(at)).map(|(_, content)| content.as_slice());
        let pieces = content.unwrap_or_default().chunks(CHUNK).chain([&[][..]]);
        let packets = pieces.map(|piece| packet(PacketType::PacketData, id, piece.to_vec()));
        let _ = batches.send(packets.collect()).await;
    }
}

/// One directory on its way to the engine. One thread walks it while others already read the files that are asked for.
struct Transfer {
    root: PathBuf,
    directories: Directories,
    batches: mpsc::Sender<Vec<Packet>>,
    files: Mutex<Files>,
    requests: Mutex<mpsc::UnboundedReceiver<u32>>,
}

/// The files that can be asked for. The engine takes the whole list before it asks for the first, and never asks for what it
/// has already: all are kept, in some 30 bytes each.
#[derive(Default)]
struct Files {
    /// By the number of their entry.
    found: Vec<Found>,
    /// Their directories, each with a slash at the end. One may be here more than once.
    directories: Vec<Box<str>>,
    /// Their names, one behind the other.
    names: String,
}

struct Found {
    number: u32,
    /// In bytes; only the first read goes by it.
    size: u32,
    /// Which of the directories.
    directory: usize,
    /// Where the name ends; it begins where the one before ends.
    end: usize,
}

impl Files {
    /// Adds a file. Numbers only grow.
    fn add(&mut self, number: u32, path: &str, size: i64) {
        let (directory, name) = path.split_at(path.rfind('/').map_or(0, |slash| slash + 1));
        if self.directories.last().is_none_or(|last| **last != *directory) {
            self.directories.push(directory.into());
        }
        self.names.push_str(name);
        self.found.push(Found {
            number,
            size: u32::try_from(size).unwrap_or(u32::MAX),
            directory: self.directories.len() - 1,
            end: self.names.len(),
        });
    }

    /// The path of a file, and its size as it was.
    fn find(&self, number: u32) -> Option<(String, u32)> {
        let at = self.found.binary_search_by_key(&number, |found| found.number).ok()?;
        let begin = at.checked_sub(1).map_or(0, |before| self.found[before].end);
        let Found { size, directory, end, .. } = self.found[at];
        Some((format!("{}{}", self.directories[directory], &self.names[begin..end]), size))
    }
}

/// Packets with content that are handed on together.
#[derive(Default)]
struct Batch {
    packets: Vec<Packet>,
    bytes: usize,
}

impl Batch {
    fn push(&mut self, id: u32, data: Vec<u8>) {
        self.bytes += data.len();
        self.packets.push(packet(PacketType::PacketData, id, data));
    }

    fn is_full(&self) -> bool {
        self.packets.len() >= BATCH || self.bytes >= BATCH_BYTES
    }

    fn take(&mut self) -> Vec<Packet> {
        self.bytes = 0;
        std::mem::take(&mut self.packets)
    }
}

/// The engine does not listen any more.
struct Gone;

impl Transfer {
    fn walk(&self, selection: &Selection) {
        let mut number = 0;
        let mut batch = Vec::new();
        let mut sizes = Sizes::default();
        let walked = context::walk(&self.root, selection, &mut |stat| {
            // Directories and links have no content: only files can be asked for.
            if stat.mode >> 27 == 0 && stat.linkname.is_empty() {
                sizes.add(&stat.path, u64::try_from(stat.size).unwrap_or_default());
                lock(&self.files).add(number, &stat.path, stat.size);
            }
            number += 1;
            batch.push(stat_packet(Some(stat)));
            batch.len() < BATCH || self.send(std::mem::take(&mut batch)).is_ok()
        });
        if let Err(error) = walked {
            return self.fail(self.directories.placed(error, &self.root));
        }
        self.directories.warn_of(&sizes);
        batch.push(stat_packet(None));
        let _ = self.send(batch);
    }

    /// Sends files as they are asked for, small ones together.
    fn read(&self) {
        let mut batch = Batch::default();
        while let Some(id) = self.next(&mut batch) {
            match self.read_file(id, &mut batch) {
                Ok(Ok(())) => {}
                Ok(Err(Gone)) => return,
                Err(error) => return self.fail(error),
            }
        }
    }

    /// The next file that is asked for. What is there already is not kept back while nobody asks.
    fn next(&self, batch: &mut Batch) -> Option<u32> {
        // Another reader that waits for a request holds the lock: then there is none.
        if !batch.is_full()
            && let Ok(mut requests) = self.requests.try_lock()
            && let Ok(id) = requests.try_recv()
        {
            return Some(id);
        }
        self.send(batch.take()).ok()?;
        lock(&self.requests).blocking_recv()
    }

    /// Adds a file to the batch. A batch that is full is sent.
    fn read_file(&self, id: u32, batch: &mut Batch) -> Result<Result<(), Gone>, ContextError> {
        let Some((path, size)) = lock(&self.files).find(id) else { return Ok(Ok(())) };
        let full = self.root.join(path);
        let read = |source| ContextError::Read { path: full.clone(), source };
        let Some(mut file) = context::open(&full).map_err(read)? else {
            batch.push(id, Vec::new());
            return Ok(Ok(()));
        };
        // One byte more than there should be: an end that comes early needs no further look.
        let size = usize::try_from(size).unwrap_or(CHUNK).saturating_add(1).clamp(SMALL, CHUNK);
        loop {
            let mut data = vec![0; size];
            let length = read_full(&mut file, &mut data).map_err(read)?;
            let last = length < data.len();
            data.truncate(length);
            if length > 0 {
                batch.push(id, data);
            }
            if last {
                // An empty packet ends the file.
                batch.push(id, Vec::new());
                return Ok(Ok(()));
            }
            if batch.is_full() && self.send(batch.take()).is_err() {
                return Ok(Err(Gone));
            }
        }
    }

    fn send(&self, batch: Vec<Packet>) -> Result<(), Gone> {
        if batch.is_empty() {
            return Ok(());
        }
        self.batches.blocking_send(batch).map_err(|_| Gone)
    }

    fn fail(&self, error: ContextError) {
        let text = crate::exit::chain(&error);
        lock(&self.directories.failure).get_or_insert(Arc::new(error));
        let _ = self.send(vec![packet(PacketType::PacketErr, 0, text.into_bytes())]);
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

fn packet(kind: PacketType, id: u32, data: Vec<u8>) -> Packet {
    Packet { r#type: kind.into(), id, data, stat: None }
}

fn stat_packet(stat: Option<Stat>) -> Packet {
    Packet { r#type: PacketType::PacketStat.into(), stat, ..Packet::default() }
}

/// Reads until the buffer is full or the file ends.
fn read_full(file: &mut File, buffer: &mut [u8]) -> io::Result<usize> {
    let mut length = 0;
    while length < buffer.len() {
        match file.read(&mut buffer[length..]) {
            Ok(0) => break,
            Ok(read) => length += read,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(length)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn files_are_found_by_the_number_of_their_entry() {
        let mut files = Files::default();
        let paths = ["a", "d/b", "d/e/c", "d/f", "é/ü", "z"];
        // Between them are entries of directories, which cannot be asked for.
        for (number, path) in (0..).step_by(3).zip(paths) {
            files.add(number, path, i64::from(number) * 1000);
        }
        for (number, path) in (0..).step_by(3).zip(paths) {
            assert_eq!(files.find(number), Some((path.to_owned(), number * 1000)));
            assert_eq!(files.find(number + 1), None);
        }
        files.add(100, "z/huge", 1 << 40);
        assert_eq!(files.find(100), Some(("z/huge".to_owned(), u32::MAX)));
    }
}
